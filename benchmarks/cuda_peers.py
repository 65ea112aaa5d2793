"""What a person would otherwise run on the same card: eager PyTorch, a static cache in a CUDA graph, Hugging Face.

Each takes the weights of one of our models, and each can say the probabilities that it draws from, so that it is
verified before it is timed. All run on a CPU too, slowly, which is how they are tested.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from nanomd.base.config import ModelConfig
from nanomd.model.network import NanoGPT
from nanomd.model.rope import rope_tables

STEPS_PER_GRAPH = 8  # replays of so many steps cost the host less


class PeerSkippedError(Exception):
    """The peer cannot run this model here; the message says why."""


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def sample(logits: torch.Tensor) -> torch.Tensor:
    """Draw states by an exponential race: what fast PyTorch samplers do, since it needs no host."""
    p = torch.softmax(logits.float(), dim=-1)
    return (p / torch.empty_like(p).exponential_(1)).argmax(dim=-1)


class StaticCacheLoop:
    """A step of the model with a ring cache of fixed tensors; on a GPU captured once and replayed.

    Parameters
    ----------
    files : ModelFiles
    n_trajs : int
    device : str
    dtype : torch.dtype
        Of products and cache; residual stream, norms and logits are float32, as ours.
    n_positions : int
        Positions before the loop starts over at a full window.
    compiled : bool
        Let torch.compile fuse the step first.
    """

    def __init__(
        self, files: Any, n_trajs: int, device: str, dtype: torch.dtype, n_positions: int, compiled: bool = False
    ) -> None:
        config: ModelConfig = files.config
        self.config, self.dtype, self.device = config, dtype, device
        model = NanoGPT(config, backend="reference")
        model.load_tensors(files.tensors)
        self.model = model.to(device).eval()
        for layer in self.model.blocks:
            layer.attention.qkv.to(dtype)
            layer.attention.proj.to(dtype)
            layer.mlp.to(dtype)
        shape = (config.n_layer, n_trajs, config.kv_heads, config.context_length, config.d_head)
        self.keys, self.values = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
        cos, sin = rope_tables(config, np.arange(n_positions, dtype=np.uint64))
        self.cos, self.sin = torch.from_numpy(cos).to(device), torch.from_numpy(sin).to(device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.slots = torch.arange(config.context_length, device=device)
        self.tokens = torch.zeros(n_trajs, dtype=torch.int64, device=device)
        self.logits = torch.zeros(n_trajs, config.n_states, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self._decode = torch.compile(self._forward, dynamic=False) if compiled else self._forward

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        cos, sin = self.cos[self.position], self.sin[self.position]
        x1, x2 = x.float().chunk(2, dim=-1)
        return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1).to(self.dtype)

    def _forward(self) -> None:
        config, n = self.config, len(self.tokens)
        x = self.model.embed(self.tokens[:, None])[:, 0]
        slot = self.position % config.context_length
        unwritten = torch.where(self.slots > self.position, -torch.inf, 0.0).to(self.dtype)[None, None, None, :]
        for i, block in enumerate(self.model.blocks):
            h = (block.norm1(x) if block.pre else x).to(self.dtype)
            kv = config.kv_heads * config.d_head
            q, k, v = block.attention.qkv(h).split((config.d_model, kv, kv), dim=-1)
            q = self._rotate(q.view(n, config.n_head, config.d_head))
            self.keys[i].index_copy_(2, slot, self._rotate(k.view(n, config.kv_heads, config.d_head))[:, :, None])
            self.values[i].index_copy_(2, slot, v.view(n, config.kv_heads, config.d_head)[:, :, None])
            # Query heads of a group become queries of one head: no copy of keys and values.
            q = q.view(n, config.kv_heads, -1, config.d_head)
            out = functional.scaled_dot_product_attention(q, self.keys[i], self.values[i], attn_mask=unwritten)
            out = block.attention.proj(out.reshape(n, config.d_model)).float()
            x = x + out if block.pre else block.norm1(x + out)
            h = block.mlp((block.norm2(x) if block.pre else x).to(self.dtype)).float()
            x = x + h if block.pre else block.norm2(x + h)
        self.logits.copy_(self.model.logits(x, self.tokens))

    @torch.no_grad()
    def decode(self) -> None:
        """Feed the tokens at the position, leave logits, go one position on."""
        self._decode()
        self.position += 1

    @torch.no_grad()
    def step(self) -> None:
        """Decode and draw."""
        self.decode()
        self.tokens.copy_(sample(self.logits))

    def capture(self) -> None:
        """Record several steps as a CUDA graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for _ in range(STEPS_PER_GRAPH):
                self.step()

    def run(self, n: int) -> int:
        """Do n times STEPS_PER_GRAPH steps; returns the number of tokens."""
        if int(self.position) + n * STEPS_PER_GRAPH >= len(self.cos):
            self.position.fill_(self.config.context_length)  # speed does not depend on it, and the table is finite
        for _ in range(n):
            if self.graph is not None:
                self.graph.replay()
            else:
                for _ in range(STEPS_PER_GRAPH):
                    self.step()
        synchronize(self.device)
        return n * STEPS_PER_GRAPH * len(self.tokens)

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        """Return ln p(next) after every position of (n_trajs, T) tokens, from the first position on."""
        self.position.zero_()
        rows = []
        for t in range(tokens.shape[1]):
            self.tokens.copy_(torch.from_numpy(tokens[:, t].astype(np.int64)))
            self.decode()
            rows.append(torch.log_softmax(self.logits.double(), dim=-1).cpu().numpy())
        return np.stack(rows, axis=1)


def eager_rollout(files: Any, n_trajs: int, device: str) -> Callable[[int], int]:
    """Eager PyTorch, the whole window recomputed for each step."""
    model = NanoGPT(files.config, backend="reference")
    model.load_tensors(files.tensors)
    model = model.to(device).eval()
    context = torch.randint(files.config.n_states, (n_trajs, files.config.context_length), device=device)

    @torch.no_grad()
    def run(n_steps: int) -> int:
        nonlocal context
        for _ in range(n_steps):
            context = torch.cat([context[:, 1:], sample(model(context)[:, -1])[:, None]], dim=1)
        synchronize(device)
        return n_steps * n_trajs

    return run


class HuggingFaceStatic:
    """GPT-NeoX, whose blocks are ours (rotary positions, biases, LayerNorm), with generate and its StaticCache.

    Its cache cannot slide: each call prefills half a window and generates up to a full one, so that the mean context is
    three quarters of ours.
    """

    def __init__(self, files: Any, device: str, dtype: torch.dtype, compiled: bool = False) -> None:
        try:
            transformers: Any = import_module("transformers")
        except ImportError:
            raise PeerSkippedError("transformers is not installed") from None
        config: ModelConfig = files.config
        if config.position != "rope" or config.norm != "pre" or config.markov_head:
            raise PeerSkippedError("GPT-NeoX has rotary positions, pre-norm blocks and no table by current state")
        if config.kv_heads != config.n_head:
            raise PeerSkippedError("GPT-NeoX has no grouped queries")
        transformers.logging.set_verbosity_error()
        shape = transformers.GPTNeoXConfig(
            vocab_size=config.n_states,
            hidden_size=config.d_model,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            intermediate_size=config.d_mlp,
            hidden_act="gelu_new" if config.activation == "gelu" else "relu",
            rotary_pct=1.0,
            rotary_emb_base=config.rope_base,
            max_position_embeddings=config.context_length,
            layer_norm_eps=1e-5,
            use_parallel_residual=False,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        with torch.random.fork_rng(devices=[]):
            model = transformers.GPTNeoXForCausalLM(shape)
        head = "lm_head" if hasattr(model, "lm_head") else "embed_out"
        setattr(model, head, torch.nn.Linear(config.d_model, config.n_states))
        model.load_state_dict(self._weights(files, head), strict=True)
        self._model = model.to(device, dtype).eval()
        self._device, self._config, self._compiled = device, config, compiled

    @staticmethod
    def _weights(files: Any, head: str) -> dict[str, torch.Tensor]:
        config: ModelConfig = files.config
        ours = {name: torch.from_numpy(np.array(value)) for name, value in files.tensors.items()}
        theirs = {"gpt_neox.embed_in.weight": ours["embedding.weight"]}
        for kind in ("weight", "bias"):
            theirs[f"gpt_neox.final_layer_norm.{kind}"] = ours[f"norm.{kind}"]
            theirs[f"{head}.{kind}"] = ours[f"head.{kind}"]
            for layer in range(config.n_layer):
                block, there = f"blocks.{layer}.", f"gpt_neox.layers.{layer}."
                # Theirs are ordered by head: its query, key, value.
                qkv = ours[f"{block}attention.qkv.{kind}"]
                qkv = qkv.reshape(3, config.n_head, config.d_head, *qkv.shape[1:]).transpose(0, 1)
                theirs[f"{there}attention.query_key_value.{kind}"] = qkv.reshape(3 * config.d_model, *qkv.shape[3:])
                for a, b in {
                    "attention.dense": "attention.proj",
                    "mlp.dense_h_to_4h": "mlp.up",
                    "mlp.dense_4h_to_h": "mlp.down",
                    "input_layernorm": "norm1",
                    "post_attention_layernorm": "norm2",
                }.items():
                    theirs[f"{there}{a}.{kind}"] = ours[f"{block}{b}.{kind}"]
        return theirs

    @torch.no_grad()
    def generate(self, prompts: torch.Tensor, n_new: int, want_logits: bool = False) -> tuple[torch.Tensor, Any]:
        """Sample n_new states after (n, P) prompts: the states, and their logits (n, n_new, V) if wanted."""
        result = self._model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=n_new,
            min_new_tokens=n_new,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            cache_implementation="static",
            disable_compile=not self._compiled,
            return_dict_in_generate=True,
            output_logits=want_logits,
        )
        logits = torch.stack(result.logits, dim=1) if want_logits else None
        return result.sequences[:, prompts.shape[1] :], logits

    def rollout(self, n_trajs: int) -> Callable[[int], int]:
        """Whole calls of half a window each."""
        W = self._config.context_length
        keep = max(1, W // 2)
        prompts = torch.randint(self._config.n_states, (n_trajs, keep), device=self._device)

        def run(n: int) -> int:
            nonlocal prompts
            for _ in range(n):
                new, _ = self.generate(prompts, W - keep)
                prompts = new[:, -keep:].contiguous()
            synchronize(self._device)
            return n * (W - keep) * n_trajs

        return run

    def drawn_from(self, n_trajs: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Return (n, W) tokens, half of them drawn, the ln p of their draws (n, W - P, V), and P."""
        W = self._config.context_length
        keep = max(1, W // 2)
        prompts = torch.randint(self._config.n_states, (n_trajs, keep), device=self._device)
        new, logits = self.generate(prompts, W - keep, want_logits=True)
        tokens = torch.cat([prompts, new], dim=1).cpu().numpy().astype(np.uint16)
        return tokens, torch.log_softmax(logits.double(), dim=-1).cpu().numpy(), keep
