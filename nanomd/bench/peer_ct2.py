"""CTranslate2 in float32: our weights written into its specification of a decoder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanomd.bench.peer import Tokens, require_plain_gpt

if TYPE_CHECKING:
    from nanomd.model.files import ModelFiles


class CTranslate2:
    """A decoder with learned positions (hop), or rotary ones and a sliding window (ring)."""

    def __init__(self, files: ModelFiles, mode: str, n_threads: int) -> None:
        import ctranslate2

        require_plain_gpt(files.config, post_norm=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            path.mkdir()
            specification(files, mode).save(str(path))
            self._generator = ctranslate2.Generator(
                str(path), device="cpu", compute_type="float32", inter_threads=1, intra_threads=n_threads
            )
        self._n_states = files.config.n_states

    def generate(self, prompts: Tokens, n_new: int, want_logits: bool) -> tuple[Tokens, NDArray[Any] | None]:
        """Sample; see `nanomd.bench.peer.Peer`."""
        results = self._generator.generate_batch(
            [[str(token) for token in row] for row in prompts],
            max_length=n_new,
            min_length=0,
            end_token=[self._n_states + 1],  # no state ends a trajectory
            sampling_topk=0,
            include_prompt_in_result=False,
            return_logits_vocab=want_logits,
        )
        tokens = np.array([result.sequences_ids[0] for result in results], np.int64)
        if not want_logits:
            return tokens, None
        rows = [np.stack([np.array(step, np.float32).reshape(-1) for step in result.logits[0]]) for result in results]
        return tokens, np.stack(rows)


def specification(files: ModelFiles, mode: str) -> Any:
    """Return the model as CTranslate2 describes it, validated."""
    from ctranslate2.specs import TransformerDecoderModelSpec, common_spec

    config, tensors = files.config, files.tensors
    positions: dict[str, Any] = {}
    if mode == "ring":
        # Rotary over the whole head, halves rotated against each other, at the same frequencies as ours.
        positions = dict(rotary_dim=0, rotary_interleave=False, rotary_base=config.rope_base)
        positions["sliding_window"] = config.context_length
    spec = TransformerDecoderModelSpec.from_config(
        config.n_layer,
        config.n_head,
        pre_norm=config.norm == "pre",
        activation=common_spec.Activation.GELUTanh if config.activation == "gelu" else common_spec.Activation.RELU,
        num_heads_kv=config.kv_heads if config.kv_heads != config.n_head else None,
        **positions,
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = tensors["embedding.weight"]
    if mode != "ring":
        decoder.position_encodings.encodings = tensors["position.weight"]

    def linear(target: Any, name: str) -> None:
        target.weight, target.bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    def norm(target: Any, name: str) -> None:
        target.gamma, target.beta = tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    if config.norm == "pre":
        norm(decoder.layer_norm, "norm")
    linear(decoder.projection, "head")
    for index, layer in enumerate(decoder.layer):
        block = f"blocks.{index}."
        norm(layer.self_attention.layer_norm, block + "norm1")
        linear(layer.self_attention.linear[0], block + "attention.qkv")
        linear(layer.self_attention.linear[1], block + "attention.proj")
        norm(layer.ffn.layer_norm, block + "norm2")
        linear(layer.ffn.linear_0, block + "mlp.up")
        linear(layer.ffn.linear_1, block + "mlp.down")
    spec.register_vocabulary([str(token) for token in range(config.n_states)])
    # It insists on special tokens; none is ever looked for.
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"  # noqa: S105
    spec.validate()
    spec.optimize(quantization="float32")
    return spec
