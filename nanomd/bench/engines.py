"""What is timed: our engine in its modes, and the eager reference. The peers are in `nanomd.bench.peers`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from nanomd.base.errors import InputError
from nanomd.bench.floor import ELEMENT_BYTES
from nanomd.bench.models import HALF_TOLERANCE, TOLERANCE, verify

if TYPE_CHECKING:
    from nanomd.model.files import ModelFiles


@dataclass(frozen=True)
class Contender:
    """Something that rolls out one model, verified and ready to be timed.

    Parameters
    ----------
    name : str
    run : callable
        Does n units of work (steps, or whole hops) and returns the number of tokens generated.
    error : float
        Largest |ln p - ln p_ref| against the float64 reference.
    context : str
        What it reads at each step: contenders with different contexts do not do the same work.
    precision : str
        Of weights and caches: a key of `floor.ELEMENT_BYTES`.
    """

    name: str
    run: Callable[[int], int]
    error: float
    context: str
    precision: str = "fp32"


@contextmanager
def torch_threads(n_threads: int) -> Iterator[None]:
    """Let PyTorch use so many threads, and put the number back afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def context_name(mode: str, window: int) -> str:
    """Describe what is read at each step once the window is full."""
    if mode == "hop":
        return f"{max(1, window // 2)}..{window}"
    return f"{window}" + (" recomputed" if mode == "crop" else "")


def verified_length(mode: str, window: int) -> int:
    """Return tokens to verify on: a ring long past its window, hops more than one, crops a few past the first."""
    return {"ring": 4 * window, "hop": 2 * window + 3, "crop": window + 4}[mode]


def full_windows(files: ModelFiles, n_trajs: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Return a history of W tokens for each trajectory, so that the windows are full from the first timed step."""
    config = files.config
    shape = (n_trajs, config.context_length)
    return np.random.default_rng(0).integers(0, config.n_states, shape).astype(np.uint16)


def offered_precisions() -> tuple[str, ...]:
    """Return the precisions that the compiled engine offers."""
    from nanomd.rollout.sampler import Sampler

    return tuple(ELEMENT_BYTES) if "precision" in signature(Sampler).parameters else ("fp32",)


def our_sampler(
    files: ModelFiles,
    mode: str,
    n_trajs: int,
    n_threads: int,
    *,
    isa: str = "",
    column_limit: int = -1,
    precision: str = "fp32",
    seed: int = 0,
    **options: Any,
) -> Contender:
    """Return the compiled engine in `mode`, with full windows throughout.

    One session stays open over all timings, so that neither set-up nor the first filling of the window is timed.

    Parameters
    ----------
    isa, column_limit
        See `nanomd.Sampler`.
    precision : str
        Handed to the sampler unless fp32.
    options
        More keyword arguments of `nanomd.Sampler`.
    """
    from nanomd.rollout.sampler import Sampler

    if precision not in offered_precisions():
        raise InputError(f"precision must be one of {', '.join(offered_precisions())}, got {precision!r}")
    if precision != "fp32":
        options = {**options, "precision": precision}
    sampler = Sampler(files, backend="cpu", isa=isa, column_limit=column_limit, **options)
    W = files.config.context_length
    error = verify(
        files,
        lambda tokens: sampler.log_probs([tokens], mode=mode)[0],
        mode=mode,
        n_tokens=verified_length(mode, W),
        tolerance=TOLERANCE if precision == "fp32" else HALF_TOLERANCE,
        who=f"{sampler.engine_name} {precision}",
        seed=seed,
    )
    keep = max(1, W // 2) if mode == "hop" else 0
    session = sampler.engine.open(
        full_windows(files, n_trajs),
        np.arange(n_trajs, dtype=np.uint64),
        mode=mode,
        hop_keep=keep,
        seed=1,
        n_threads=n_threads,
    )
    unit = W - keep + 1 if mode == "hop" else 1  # whole hops, so that each timing has its share of prefills

    def run(n: int) -> int:
        out = np.empty((n_trajs, n * unit), np.uint8 if files.config.n_states <= 256 else np.uint16)
        session.advance(n * unit, out)
        return out.size

    name = f"nanomd {mode}" + ("" if precision == "fp32" else f" {precision}")
    return Contender(name, run, error, context_name(mode, W), precision)


def eager(files: ModelFiles, n_trajs: int, n_threads: int, seed: int = 0) -> Contender:
    """Return what one writes first in PyTorch: no cache, the last W states through the whole model at every step."""
    import torch

    from nanomd.model.network import NanoGPT

    config = files.config
    W = config.context_length
    model = NanoGPT(config, backend="reference")
    model.load_tensors(files.tensors)
    model.eval()
    context = torch.from_numpy(full_windows(files, n_trajs).astype(np.int64))

    @torch.no_grad()
    def log_probs(tokens: Any) -> Any:
        return torch.log_softmax(model(torch.from_numpy(tokens)[None])[0], -1).numpy()

    mode = "ring" if config.position == "rope" else "crop"
    error = verify(files, log_probs, mode=mode, n_tokens=W, who="the eager reference", seed=seed)

    @torch.no_grad()
    def run(n_steps: int) -> int:
        generator = torch.Generator().manual_seed(1)
        with torch_threads(n_threads):
            known = context
            for _ in range(n_steps):
                probabilities = torch.softmax(model(known[:, -W:])[:, -1], -1)
                known = torch.cat([known[:, -W:], torch.multinomial(probabilities, 1, generator=generator)], 1)
        return n_steps * n_trajs

    return Contender("eager", run, error, f"{W} recomputed")
