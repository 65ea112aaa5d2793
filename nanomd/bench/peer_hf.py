"""Hugging Face generate with its dynamic cache: our weights as a GPT-2."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanomd.bench.engines import torch_threads
from nanomd.bench.peer import PeerSkippedError, Tokens, require_plain_gpt

if TYPE_CHECKING:
    from nanomd.model.files import ModelFiles


class HuggingFace:
    """GPT2LMHeadModel with an untied head that has a bias."""

    def __init__(self, files: ModelFiles, mode: str, n_threads: int) -> None:
        import torch

        transformers: Any = import_module("transformers")  # partly typed
        config = files.config
        require_plain_gpt(config)
        if mode != "hop":
            raise PeerSkippedError("GPT-2 has learned positions, so its cache cannot slide; see S-learned in hop mode")
        if config.kv_heads != config.n_head:
            raise PeerSkippedError("GPT-2 has no grouped queries")
        transformers.logging.set_verbosity_error()
        shape = transformers.GPT2Config(
            vocab_size=config.n_states,
            n_positions=config.context_length,
            n_embd=config.d_model,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_inner=config.d_mlp,
            activation_function="gelu_new" if config.activation == "gelu" else "relu",
            layer_norm_epsilon=1e-5,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        with torch.random.fork_rng(devices=[]):
            model = transformers.GPT2LMHeadModel(shape)
        model.lm_head = torch.nn.Linear(config.d_model, config.n_states)
        weights = {"transformer.wte.weight": "embedding.weight", "transformer.wpe.weight": "position.weight"}
        for kind in ("weight", "bias"):
            weights[f"transformer.ln_f.{kind}"] = f"norm.{kind}"
            weights[f"lm_head.{kind}"] = f"head.{kind}"
            for layer in range(config.n_layer):
                theirs, ours = f"transformer.h.{layer}.", f"blocks.{layer}."
                for a, b in {
                    "ln_1": "norm1",
                    "attn.c_attn": "attention.qkv",
                    "attn.c_proj": "attention.proj",
                    "ln_2": "norm2",
                    "mlp.c_fc": "mlp.up",
                    "mlp.c_proj": "mlp.down",
                }.items():
                    weights[f"{theirs}{a}.{kind}"] = f"{ours}{b}.{kind}"
        state = {}
        for theirs, name in weights.items():
            value = torch.from_numpy(np.array(files.tensors[name]))
            transposed = ".c_" in theirs and theirs.endswith("weight")  # its Conv1D stores (in, out)
            state[theirs] = value.T.contiguous() if transposed else value
        absent, unknown = model.load_state_dict(state, strict=False)
        if unknown or any(not name.endswith((".attn.bias", ".attn.masked_bias")) for name in absent):
            raise PeerSkippedError(f"this version of transformers names weights otherwise: {[*absent, *unknown][:3]}")
        self._model = model.eval()
        self._n_threads = n_threads

    def generate(self, prompts: Tokens, n_new: int, want_logits: bool) -> tuple[Tokens, NDArray[Any] | None]:
        """Sample; see `nanomd.bench.peer.Peer`."""
        import torch

        ids = torch.from_numpy(np.ascontiguousarray(prompts))
        with torch_threads(self._n_threads), torch.no_grad():
            result = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=n_new,
                min_new_tokens=n_new,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                use_cache=True,
                return_dict_in_generate=True,
                output_logits=want_logits,
            )
        tokens = result.sequences[:, prompts.shape[1] :].numpy()
        logits = torch.stack(result.logits, 1).float().numpy() if want_logits else None
        return tokens, logits
