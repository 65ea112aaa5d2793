"""The model in float64 NumPy, written from the formulas: one parallel forward pass with a mask, no cache."""

from __future__ import annotations

import numpy as np

from nanomd.base.config import ModelConfig


def random_tensors(
    config: ModelConfig, seed: int = 0, scale: float = 1.0, head_scale: float = 2.5
) -> dict[str, np.ndarray]:
    """Weights that make every part matter, with probabilities that span many orders of magnitude."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in config.tensor_shapes().items():
        if "norm" in name:
            value = 1.0 + 0.2 * rng.normal(size=shape) if name.endswith("weight") else 0.1 * rng.normal(size=shape)
        elif name.endswith("bias"):
            value = 0.1 * rng.normal(size=shape)
        elif name.startswith(("embedding", "position", "markov")):
            value = rng.normal(size=shape)
        elif name.startswith(("head", "group")):
            value = head_scale * rng.normal(size=shape) / np.sqrt(shape[1])
        else:
            value = scale * rng.normal(size=shape) / np.sqrt(shape[1])
        tensors[name] = value.astype(np.float32)
    return tensors


def _layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def _log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _rotate(x, config, positions):
    """x: (T, heads, d_head); exact integer phases with Python integers."""
    half = config.d_head // 2
    m = [round(2**32 / (2 * np.pi) * config.rope_base ** (-i / half)) for i in range(half)]
    angle = np.array([[2 * np.pi * ((int(p) * k) % 2**32) / 2**32 for k in m] for p in positions])[:, None, :]
    x1, x2 = x[..., :half], x[..., half:]
    return np.concatenate([x1 * np.cos(angle) - x2 * np.sin(angle), x2 * np.cos(angle) + x1 * np.sin(angle)], -1)


def log_probs_parallel(config, tensors, tokens, first_position=0, quantise=lambda k, v: (k, v)):
    """ln p(next) after every position of one parallel forward pass with the window mask: (T, V) float64.

    quantise(keys, values), both (T, n_kv_head, d_head), returns what a cache would keep of them.
    """
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    tokens = np.asarray(tokens, dtype=np.int64)
    T, d, n_head, n_kv, d_head = len(tokens), config.d_model, config.n_head, config.kv_heads, config.d_head
    x = w["embedding.weight"][tokens]
    if config.position == "learned":
        x = x + w["position.weight"][:T]
    positions = [first_position + t for t in range(T)]
    lag = np.arange(T)[:, None] - np.arange(T)[None, :]
    mask = np.where((lag >= 0) & (lag < config.context_length), 0.0, -np.inf)
    for layer in range(config.n_layer):

        def linear(x, name, block=f"blocks.{layer}."):
            return x @ w[f"{block}{name}.weight"].T + w[f"{block}{name}.bias"]

        def norm(x, name, block=f"blocks.{layer}."):
            return _layer_norm(x, w[f"{block}{name}.weight"], w[f"{block}{name}.bias"])

        qkv = linear(norm(x, "norm1") if config.norm == "pre" else x, "attention.qkv")
        q = qkv[:, :d].reshape(T, n_head, d_head)
        k = qkv[:, d : d + n_kv * d_head].reshape(T, n_kv, d_head)
        v = qkv[:, d + n_kv * d_head :].reshape(T, n_kv, d_head)
        if config.position == "rope":
            q, k = _rotate(q, config, positions), _rotate(k, config, positions)
        k, v = quantise(k, v)
        k, v = (np.repeat(z, n_head // n_kv, axis=1) for z in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(d_head) + mask
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        x = x + linear(np.einsum("hij,jhd->ihd", p, v).reshape(T, d), "attention.proj")
        if config.norm == "post":
            x = norm(x, "norm1")
        h = linear(norm(x, "norm2") if config.norm == "pre" else x, "mlp.up")
        if config.activation == "gelu":
            h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        else:
            h = np.maximum(h, 0)
        x = x + linear(h, "mlp.down")
        if config.norm == "post":
            x = norm(x, "norm2")
    if config.norm == "pre":
        x = _layer_norm(x, w["norm.weight"], w["norm.bias"])
    logits = x @ w["head.weight"].T + w["head.bias"]
    if config.group_sizes:  # p(state) = p(its group) p(state | its group)
        groups = x @ w["group.weight"].T + w["group.bias"]
        if config.markov_head:
            groups = groups + w["markov.weight"][tokens]
        members = np.split(logits, np.cumsum(config.group_sizes)[:-1], axis=-1)
        within = np.concatenate([_log_softmax(part) for part in members], axis=-1)
        return within + np.repeat(_log_softmax(groups), config.group_sizes, axis=-1)
    if config.markov_head:
        logits = logits + w["markov.weight"][tokens]
    return _log_softmax(logits)


def log_probs(config, tensors, tokens, mode, hop_keep=0, first_position=0):
    """ln p(next) after every position of a rollout in the given mode: (T, V) float64."""
    T, W = len(tokens), config.context_length
    if mode == "ring":
        return log_probs_parallel(config, tensors, tokens, first_position)
    rows, start = [], 0
    for t in range(T):
        if mode == "crop":
            start = max(0, t + 1 - W)
        elif t + 1 - start > W:
            start = t + 1 - hop_keep
        rows.append(log_probs_parallel(config, tensors, tokens[start : t + 1])[-1])
    return np.array(rows)
