r"""Causal tracing: which frames, layers and parts carry the information behind a prediction.

For a window of T frames, p is the model's probability of the state that was observed after it. Three kinds of passes:

- *clean*: p_clean;
- *corrupted*: Gaussian noise on the embeddings of chosen frames, of `noise` times the standard deviation of the
  embeddings; p_corrupted;
- *restored*: corrupted likewise, but the output of one part, in one layer, at one frame is set to what it was in the
  clean pass; p_restored(part, layer, lag).

The indirect effect is p_restored - p_corrupted, and its mean over windows and draws of the noise is the average
indirect effect: how much of the prediction that one place alone brings back. Beside it stands the effect of corrupting
one frame only, p_clean - p_corrupted(lag): how much the prediction misses without that frame.

A Markov head is a second embedding of the present state, which goes straight to the logits. Where the present frame is
corrupted its row is corrupted too, with noise of the same multiple of that table's own standard deviation, or the state
would leak past the noise; to restore that row is a part of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.base.checks import check_range
from nanomd.base.errors import InputError
from nanomd.data.dtrajs import DtrajsLike
from nanomd.interpret.explicit import MAX_SCORES, Part, Record, Restore, markov_rows, prepare, read_out, run_blocks
from nanomd.interpret.results import CausalTracing
from nanomd.interpret.sampling import block_interval, spread_integers, spread_windows, usable_length
from nanomd.kinetics.interval import Interval
from nanomd.model.network import NanoGPT

if TYPE_CHECKING:
    from nanomd.estimator import GPTModel

FloatArray = NDArray[np.float64]


def embedding_std(table: Tensor) -> float:
    """Return the standard deviation of a table (V, d) over states, about the mean state, root mean square over d."""
    return float(table.detach().double().var(dim=0, correction=0).mean().sqrt())


class _Tracer:
    """The passes for some windows (B, T + 1) of tokens, the last frame being the one to predict."""

    def __init__(self, model: NanoGPT, windows: NDArray[np.int64], noise: float) -> None:
        self.model = model
        frames = torch.from_numpy(windows)
        self.tokens, self.target = frames[:, :-1], frames[:, -1]
        self.last = self.tokens.shape[1] - 1
        self.embedding = model.embed(self.tokens)
        self.markov = markov_rows(model, self.tokens[:, -1])
        self.sigma = noise * embedding_std(model.embedding.weight)
        # Constants added to a row of logits say nothing: they are no part of the table's spread.
        table = model.markov.weight if model.config.markov_head else None
        self.markov_sigma = 0.0 if table is None else noise * embedding_std(table - table.mean(dim=1, keepdim=True))
        self.clean = Record()
        self.p_clean = self.probability(run_blocks(model, self.embedding, record=self.clean), self.markov)

    def probability(self, x: Tensor, markov: Tensor | None) -> FloatArray:
        """Return the probability (B,) of the observed next states from last outputs (B, T, d)."""
        logits = read_out(self.model, x[:, -1], markov).double()
        p: FloatArray = logits.softmax(dim=-1).gather(-1, self.target[:, None])[:, 0].numpy()
        return p

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return noise for the embeddings (B, T, d), and for the rows of the Markov head (B, V)."""
        noise = self.sigma * torch.randn(self.embedding.shape, generator=generator)
        if self.markov is None:
            return noise, None
        return noise, self.markov_sigma * torch.randn(self.markov.shape, generator=generator)

    def corrupt(self, noise: tuple[Tensor, Tensor | None], lags: NDArray[np.int64]) -> tuple[Record, Tensor | None]:
        """Return what the blocks compute, and the Markov head's rows, with the frames at these lags corrupted."""
        mask = torch.zeros(self.tokens.shape[1])
        mask[self.last - lags] = 1.0
        markov = self.markov
        if markov is not None and noise[1] is not None and 0 in lags:
            markov = markov + noise[1]
        record = Record()
        run_blocks(self.model, self.embedding + mask[:, None] * noise[0], record=record)
        return record, markov

    def restored(self, corrupted: Record, markov: Tensor | None, part: Part, layer: int, lag: int) -> FloatArray:
        """Return the probabilities (B,) with one part restored at one lag."""
        position = torch.full((len(self.tokens),), self.last - lag)
        value = self.clean.part(part)[layer][:, self.last - lag]
        restore = Restore(part, layer, position, value)
        # What lies before the restored part is that of the corrupted pass.
        x = run_blocks(self.model, corrupted.residual[layer], first=layer, restore=restore)
        return self.probability(x, markov)


def _places(n_layer: int) -> Iterator[tuple[Part, int]]:
    parts: list[tuple[Part, int]] = [("residual", n_layer + 1), ("attention", n_layer), ("mlp", n_layer)]
    for part, layers in parts:
        for layer in range(layers):
            yield part, layer


@torch.no_grad()
def causal_tracing(
    model: GPTModel,
    dtrajs: DtrajsLike,
    *,
    noise: float = 3.0,
    corrupt: Literal["all"] | Sequence[int] = "all",
    lags: Sequence[int] | None = None,
    n_windows: int = 64,
    n_draws: int = 4,
    changes_only: bool = False,
    length: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> CausalTracing:
    """Trace the probability of the observed next state back to frames, layers and parts.

    Parameters
    ----------
    model : GPTModel
    dtrajs : arrays or paths
        Raw labels, best of data that the training did not see.
    noise : float
        Standard deviation of the noise over that of the embeddings (over states, about their mean).
    corrupt : "all" or sequence of int
        Lags of the frames whose embeddings are corrupted together; 0 is the present frame.
    lags : sequence of int, optional
        Frames that are restored, one at a time, and also corrupted alone. Default: the first eight, then ever fewer.
    n_windows, n_draws : int
        Windows, spread evenly over the data, and independent draws of the noise for each.
    changes_only : bool
        Only windows after which the state changes.
    length : int, optional
        T, frames of a window; default W, or less where the trajectories are shorter.
    confidence : float
        Of the intervals, which are over windows; each window has noise of its own, so they cover that too.
    seed : int
        Of the noise.

    Raises
    ------
    InputError
        For unknown states, lags outside the window, or no window of this length.
    """
    config = model.config
    check_range("noise", noise, 1e-6, 1e3)
    check_range("n_draws", n_draws, 1)
    module, tokens = prepare(model, dtrajs)
    if length is None:
        length = usable_length(tokens, config.context_length + 1) - 1
    check_range("length", length, 1, config.context_length if config.position == "learned" else None)
    windows = spread_windows(tokens, length + 1, n_windows, changes_only=changes_only)
    restored = spread_integers(0, length - 1) if lags is None else _checked_lags("lags", lags, length)
    corrupted = np.arange(length) if isinstance(corrupt, str) else _checked_lags("corrupt", corrupt, length)
    if isinstance(corrupt, str) and corrupt != "all":
        raise InputError(f"corrupt must be 'all' or a list of lags, got {corrupt!r}")
    batch = max(1, MAX_SCORES // (config.n_layer * config.n_head * length * length))
    n, k, L = len(windows), len(restored), config.n_layer
    clean, fall = np.empty(n), np.zeros((n, n_draws))
    effects = {place: np.zeros((n, k)) for place in _places(L)}
    single, markov = np.zeros((n, k)), np.zeros(n)
    for begin in range(0, n, batch):
        tracer = _Tracer(module, windows[begin : begin + batch], noise)
        rows = slice(begin, begin + batch)
        clean[rows] = tracer.p_clean
        for draw in range(n_draws):
            generator = torch.Generator().manual_seed(_noise_seed(seed, draw, begin))
            drawn = tracer.draw(generator)
            record, table = tracer.corrupt(drawn, corrupted)
            p = tracer.probability(record.residual[-1], table)
            fall[rows, draw] = tracer.p_clean - p
            for part, layer in _places(L):
                final = layer == (L if part == "residual" else L - 1)
                for column, lag in enumerate(restored.tolist()):
                    if not final or lag == 0:  # nothing reads an earlier frame any more: its effect is exactly zero
                        effects[part, layer][rows, column] += tracer.restored(record, table, part, layer, lag) - p
            for column in range(k):
                alone, row = tracer.corrupt(drawn, restored[column : column + 1])
                single[rows, column] += tracer.p_clean - tracer.probability(alone.residual[-1], row)
            markov[rows] += tracer.probability(record.residual[-1], tracer.markov) - p
    mean = {place: block_interval(values / n_draws, confidence) for place, values in effects.items()}
    no_head = Interval.undefined(np.nan)
    return CausalTracing(
        lags=restored,
        clean=block_interval(clean, confidence),
        corrupted=block_interval(clean - fall.mean(axis=1), confidence),
        residual=Interval.stack([mean["residual", layer] for layer in range(L + 1)]),
        attention=Interval.stack([mean["attention", layer] for layer in range(L)]),
        mlp=Interval.stack([mean["mlp", layer] for layer in range(L)]),
        markov=block_interval(markov / n_draws, confidence) if config.markov_head else no_head,
        single=block_interval(single / n_draws, confidence),
        noise=noise,
        corrupted_lags=corrupted,
        n_windows=n,
        n_draws=n_draws,
        draw_std=float(fall.mean(axis=0).std(ddof=1)) if n_draws > 1 else float("nan"),
        window_length=length,
        changes_only=changes_only,
        confidence=confidence,
    )


def _noise_seed(seed: int, draw: int, begin: int) -> int:
    return int(np.random.SeedSequence([seed, draw, begin]).generate_state(1, np.uint64)[0]) >> 1


def _checked_lags(name: str, lags: Sequence[int], length: int) -> NDArray[np.int64]:
    values = np.unique(np.asarray(lags))
    if values.size == 0 or values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= length:
        raise InputError(f"{name} must be whole numbers in [0, {length - 1}] (the window's frames), got {list(lags)}")
    return values.astype(np.int64)
