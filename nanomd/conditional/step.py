"""The gradient of a step in which every window has the condition of its trajectory.

On a CPU it is that of the compiled step (`nanomd.training.native`), taken at the model of each condition in turn: the
gradient of a shared tensor is the sum over conditions, that of what depends is weighted with the features. Elsewhere,
and where `compile` asks for it, it is PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd._native import NativeTrainingStep
from nanomd.base.config import TrainConfig
from nanomd.conditional.network import ConditionalNet
from nanomd.model.rope import rope_tables
from nanomd.model.scoring import weighted_nll
from nanomd.training.native import native_obstacle
from nanomd.training.windows import STREAM_DROPOUT, WindowSampler, step_seed


class ConditionalStep:
    """One optimiser step; called with its number, it returns the loss (nats per frame).

    Parameters
    ----------
    net : ConditionalNet
    optimiser : AdamW
    windows : WindowSampler
        Of the trajectories of all conditions.
    place : ndarray (n_trajectories,)
        Which condition each trajectory has.
    features : ndarray (M, K)
        phi of the conditions.
    config : TrainConfig
    learning_rate : callable
        Optimiser step to learning rate.
    """

    def __init__(
        self,
        net: ConditionalNet,
        optimiser: torch.optim.Optimizer,
        windows: WindowSampler,
        place: NDArray[np.integer],
        features: NDArray[np.floating],
        config: TrainConfig,
        learning_rate: Callable[[int], float],
    ) -> None:
        self.net, self.optimiser, self.windows, self.config = net, optimiser, windows, config
        self.learning_rate = learning_rate
        self.place = np.asarray(place, np.int64)
        self.features = torch.from_numpy(features.astype(np.float32)).to(windows.device)
        self._compiled: _CompiledGradient | None = None
        if config.compile in ("auto", "native") and native_obstacle(config, windows.device) is None:
            self._compiled = _CompiledGradient(net, self.features, windows.length)

    def __call__(self, step: int) -> Tensor:
        """Take an optimiser step."""
        plan = self.windows.plan(step)[0]
        batch = self.windows.gather(torch.from_numpy(plan).to(self.windows.device))
        place = torch.from_numpy(self.place[plan[:, 0]])
        self.optimiser.zero_grad(set_to_none=True)
        seed = step_seed(self.config.seed, STREAM_DROPOUT, step)
        if self._compiled is not None:
            loss = self._compiled(batch.tokens, batch.targets, batch.weights, place, seed)
        else:
            torch.manual_seed(seed)
            logits = self.net(batch.tokens, self.features[place.to(self.features.device)])
            loss = weighted_nll(logits, batch.targets, batch.weights, backend=self.config.backend)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.config.gradient_clip)
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self.learning_rate(step))
            else:
                group["lr"] = self.learning_rate(step)
        self.optimiser.step()
        return loss.detach()


class _CompiledGradient:
    """The compiled loss and gradient at every condition, added up into ``.grad`` of the parameters."""

    def __init__(self, net: ConditionalNet, features: Tensor, length: int) -> None:
        self.net, self.features = net, features
        config = net.shared.config
        rope = rope_tables(config, np.arange(length, dtype=np.uint64)) if config.position == "rope" else None
        self.core = NativeTrainingStep(config, length, "one_pass", rope)
        self.shared = dict(net.shared.named_parameters())
        self.dependent = net.dependent()

    @torch.no_grad()
    def __call__(self, tokens: Tensor, targets: Tensor, weights: Tensor, place: Tensor, seed: int) -> Tensor:
        loss, total = torch.zeros(()), weights.sum()
        sums = {name: torch.zeros_like(value) for name, value in self.shared.items()}
        dependence = {name: torch.zeros_like(value) for name, value in self.dependent.items()}
        for condition in np.unique(place.numpy()).tolist():
            rows, phi = place == condition, self.features[condition]
            acting = {name: phi * self.net.categories if name == "embedding.weight" else phi for name in self.dependent}
            folded = {
                name: value + torch.tensordot(acting[name], self.dependent[name], 1) if name in acting else value
                for name, value in self.shared.items()
            }
            self.core.bind([folded[name].detach().contiguous().numpy().reshape(-1) for name in self.core.names])
            own = weights[rows].contiguous()
            share = own.sum() / total
            if share == 0:
                continue
            loss += share * self.core.gradient(
                _array(tokens[rows]), _array(targets[rows]), own.numpy(),
                dropout_key=seed ^ condition, n_threads=torch.get_num_threads(),
            )  # fmt: skip
            for name, flat in self.core.gradients().items():
                gradient = share * torch.from_numpy(flat).view(sums[name].shape)
                sums[name] += gradient
                if name in dependence:  # of the embeddings one vector for all states
                    part = gradient.sum(dim=0) if name == "embedding.weight" else gradient
                    dependence[name] += torch.tensordot(acting[name][:, None], part[None], 1)
        for parameters, gradients in ((self.shared, sums), (self.dependent, dependence)):
            for name, gradient in gradients.items():
                parameters[name].grad = gradient
        return loss


def _array(values: Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(values.numpy())
