"""The network whose embedding, output and table depend on the condition; see `nanomd.conditional.files`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nanomd.base.config import ModelConfig
from nanomd.conditional.files import DEPENDENT, dependence_shapes, fold
from nanomd.model.network import NanoGPT

Floats = NDArray[np.float32]


class ConditionalNet(nn.Module):
    """A nano-GPT, and how it depends on the features phi (K,) of a condition: at first not at all.

    Parameters
    ----------
    config : ModelConfig
    categories : ndarray (K,) bool
        Which features are those of categories, on which alone the embedding depends.
    backend : str
        Of the training's operations.
    seed : int
    """

    def __init__(
        self, config: ModelConfig, categories: NDArray[np.bool_], backend: str = "auto", seed: int = 0
    ) -> None:
        super().__init__()
        self.shared = NanoGPT(config, backend, seed)
        self.categories = torch.from_numpy(categories.astype(np.float32))
        shapes = dependence_shapes(config, len(categories))
        self.dependence = nn.ParameterDict(
            {name.replace(".", "_"): nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
        )

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Return next-state logits (B, T, V) of tokens (B, T) at the features (B, K) of the condition of each row."""
        shared, own = self.shared, self.dependent()
        into = (features * self.categories.to(features.device)) @ own["embedding.weight"]
        x = shared.normalise(shared.hidden(tokens, inputs_embeds=shared.embed(tokens) + into[:, None]))
        if self.training and shared.config.final_dropout:
            x = nn.functional.dropout(x, shared.config.final_dropout)
        logits = shared.read_out(x, tokens)
        for k, phi in enumerate(features.T):  # few; all at once would take K times the memory
            change = nn.functional.linear(x, own["head.weight"][k], own["head.bias"][k])
            if "markov.weight" in own:
                change = change + nn.functional.embedding(tokens, own["markov.weight"][k])
            logits = logits + phi[:, None, None] * change
        return logits

    def dependent(self) -> dict[str, nn.Parameter]:
        """Return how the model depends on its condition, by the name of the tensor that does."""
        return {name: self.dependence[key] for name in DEPENDENT if (key := name.replace(".", "_")) in self.dependence}

    def to_dependence(self) -> dict[str, Floats]:
        """Return the same as float32 arrays on the host, for a file."""
        return {name: _host(value) for name, value in self.dependent().items()}

    def at(self, features: NDArray[np.floating], into: NanoGPT | None = None) -> NanoGPT:
        """Return the ordinary network at features (K,), on the device of this one, in evaluation mode."""
        network = NanoGPT(self.shared.config, self.shared.backend) if into is None else into
        network.load_tensors(fold(self.shared.to_tensors(), self.to_dependence(), features))
        return network.to(self.shared.embedding.weight.device).eval()


def split_state(weights: Mapping[str, Tensor]) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return shared tensors and dependence, named as in files, of the state of a `ConditionalNet`."""
    shared = {name.removeprefix("shared."): _host(x) for name, x in weights.items() if name.startswith("shared.")}
    keys = {name: "dependence." + name.replace(".", "_") for name in DEPENDENT}
    dependence = {name: _host(weights[key]) for name, key in keys.items() if key in weights}
    return shared, dependence


def _host(value: Tensor) -> Floats:
    out: Floats = value.detach().to("cpu", torch.float32).contiguous().numpy().copy()
    return out
