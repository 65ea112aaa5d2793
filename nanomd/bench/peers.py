"""What one would use instead: Hugging Face generate, CTranslate2, ONNX Runtime, each on exactly our weights.

A peer generates by its own cached decoding. Before it is timed, it samples a stretch, and the probabilities that it
sampled from are compared with the float64 reference on the states that it drew: the very path that is timed is
verified. A peer that is not installed, or that cannot represent a model, is skipped with a reason.

In hop mode (learned positions) a peer prefills K = W / 2 states and generates W - K + 1, again and again: what our own
hop mode does. In ring mode (rotary positions) it goes on for ever with a cache of the last W positions; only a peer
that can drop the oldest key from its cache can do that.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from nanomd.base.errors import InputError
from nanomd.base.extras import install
from nanomd.bench.engines import Contender, context_name, full_windows
from nanomd.bench.models import TOLERANCE, VerificationError, largest_error, reference_log_probs
from nanomd.bench.peer import Peer, PeerSkippedError
from nanomd.bench.peer_ct2 import CTranslate2
from nanomd.bench.peer_hf import HuggingFace
from nanomd.bench.peer_onnx import OnnxRuntime

if TYPE_CHECKING:
    from nanomd.model.files import ModelFiles

# Name -> (packages it needs, how to load a model into it); the packages are imported when a model is loaded.
PEERS: dict[str, tuple[tuple[str, ...], Callable[[ModelFiles, str, int], Peer]]] = {
    "Hugging Face": (("transformers",), HuggingFace),
    "CTranslate2": (("ctranslate2",), CTranslate2),
    "ONNX Runtime": (("onnxruntime", "onnx"), OnnxRuntime),
}


def missing(name: str) -> str:
    """Return why a peer cannot be had here, or an empty string."""
    if name not in PEERS:
        raise InputError(f"peer must be one of {', '.join(PEERS)}, got {name!r}")
    absent = [package for package in PEERS[name][0] if find_spec(package) is None]
    return f"{' and '.join(absent)} not installed ({install('peers')})" if absent else ""


def peer(name: str, files: ModelFiles, mode: str, n_trajs: int, n_threads: int, seed: int = 0) -> Contender:
    """Load, verify and prepare a peer.

    Raises
    ------
    PeerSkippedError
        If it is absent, or cannot run this model in this mode.
    VerificationError
        If it computes something else.
    """
    if reason := missing(name):
        raise PeerSkippedError(reason)
    if mode == "crop":
        raise PeerSkippedError("keeps a cache; crop recomputes the window at every step, as the eager reference does")
    loaded = PEERS[name][1](files, mode, n_threads)
    config = files.config
    W = config.context_length
    keep = max(1, W // 2)
    n_prompt, n_new = (keep, W - keep + 1) if mode == "hop" else (W, W)
    error = _verify(name, loaded, files, mode, n_prompt, n_new, seed)
    prompts = full_windows(files, n_trajs)[:, :n_prompt].astype(np.int64)
    state = {"prompts": prompts}
    if mode == "ring":
        # Filling the window at each call is a small part; many trajectories would take too long for the smallest.
        n_new = (8 if n_trajs <= 16 else 4) * W
        advance = getattr(loaded, "advance", None)
        if advance is not None:  # keeps its cache from one timing to the next, as our session does
            loaded.generate(prompts, 1, False)

            def run_on(n: int) -> int:
                advance(n * 8)
                return n * 8 * n_trajs

            return Contender(f"{name} ring", run_on, error, context_name(mode, W))

    def run(n: int) -> int:
        for _ in range(n):
            tokens, _ = loaded.generate(state["prompts"], n_new, False)
            state["prompts"] = np.concatenate([state["prompts"], tokens], axis=1)[:, -n_prompt:]
        return n * n_new * n_trajs

    return Contender(f"{name} {mode}", run, error, context_name(mode, W))


def _verify(name: str, loaded: Peer, files: ModelFiles, mode: str, n_prompt: int, n_new: int, seed: int) -> float:
    prompts = np.random.default_rng(seed).integers(0, files.config.n_states, (2, n_prompt))
    tokens, logits = loaded.generate(prompts, n_new, True)
    assert logits is not None
    if tokens.shape != (2, n_new) or logits.shape != (2, n_new, files.config.n_states):
        raise VerificationError(f"{name} returned states {tokens.shape} and logits {logits.shape}")
    if tokens.min() < 0 or tokens.max() >= files.config.n_states:
        raise VerificationError(f"{name} drew states in [{tokens.min()}, {tokens.max()}]")
    error = 0.0
    for row in range(2):
        sequence = np.concatenate([prompts[row], tokens[row]])[:-1]
        expected = reference_log_probs(files, sequence, mode)[n_prompt - 1 :]
        found = np.asarray(logits[row], np.float64)
        top = found.max(axis=1, keepdims=True)
        found = found - top - np.log(np.exp(found - top).sum(axis=1, keepdims=True))
        error = max(error, largest_error(found, expected))
    if not error <= TOLERANCE:
        raise VerificationError(
            f"{name} differs from the reference in mode {mode}: |ln p - ln p_ref| = {error:.2g} > {TOLERANCE:g}"
        )
    return error
