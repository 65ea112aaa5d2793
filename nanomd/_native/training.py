"""The compiled training step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd._native.core import CORE, core_errors
from nanomd._native.engine import model_shape

Floats = NDArray[np.float32]


class NativeTrainingStep:
    """Loss, gradient, clipping and AdamW of one optimiser step, on arrays that are updated in place.

    Parameters
    ----------
    config : ModelConfig
    length : int
        T, frames of a window.
    objective : str
    rope : pair of (T, d_head / 2) float32, optional
        Cosines and sines of rotary positions; None for learned ones.
    isa : str
        ``""`` for the best that the processor has (or NANOMD_ISA), ``"sse2"``, ``"avx2"`` or ``"avx512"``.
    lookahead_lags, lookahead_weight :
        Heads that predict further ahead (`nanomd.training.horizon_heads`); their parameters come last in `names`.

    Raises
    ------
    InputError
        For shapes that do not fit each other.
    BackendUnavailableError
        For an instruction set that the processor does not have.
    """

    def __init__(
        self,
        config: Any,
        length: int,
        objective: str = "one_pass",
        rope: tuple[Floats, Floats] | None = None,
        isa: str = "",
        *,
        lookahead_lags: Sequence[int] = (),
        lookahead_weight: float = 0.0,
    ) -> None:
        options = {
            "length": length,
            "objective": objective,
            "dropout": config.dropout,
            "final_dropout": config.final_dropout,
            "isa": isa,
            "lookahead_lags": list(lookahead_lags),
            "lookahead_weight": lookahead_weight,
        }
        cos, sin = (None, None) if rope is None else (np.ascontiguousarray(table, np.float32) for table in rope)
        with core_errors():
            self._step = CORE.TrainingStep(model_shape(config), options, cos, sin)
        self.names: list[str] = self._step.names
        self.isa: str = self._step.isa

    def bind(self, values: Sequence[Floats], first: Sequence[Floats] = (), second: Sequence[Floats] = ()) -> None:
        """Take the arrays of the weights and of both moments, in the order of `names`: read and written in place.

        Without moments there are no updates.
        """
        with core_errors():
            self._step.bind(list(values), list(first), list(second))

    def gradient(
        self,
        tokens: NDArray[np.int64],
        targets: NDArray[np.int64],
        weights: Floats,
        *,
        two_passes: bool = False,
        mix_rate: float = 0.0,
        mix_key: int = 0,
        step: int = 0,
        replaced: NDArray[np.uint8] | None = None,
        dropout_key: int = 0,
        n_threads: int = 1,
    ) -> float:
        """Return the loss, nats per frame, and keep the gradient.

        Parameters
        ----------
        tokens, targets, weights : (n_windows, T)
        two_passes : bool
            Whether there is a first pass at all.
        mix_rate, mix_key, step :
            Token objective: probability and random numbers, as of `nanomd.kernels.sample_mix` (key = seed ^ STREAM).
        replaced : (n_windows, T) uint8, optional
            Hidden objective: where the second pass reads the first one's output.
        dropout_key : int
            Key of the random numbers of dropout.
        n_threads : int
            Changes no bit.
        """
        options = {
            "two_passes": two_passes,
            "mix_rate": mix_rate,
            "mix_key": mix_key,
            "step": step,
            "dropout_key": dropout_key,
        }
        with core_errors():
            return float(self._step.gradient(tokens, targets, weights, replaced, options, n_threads))

    @property
    def lookahead_loss(self) -> float:
        """The term of the lookahead heads in the last gradient; the loss that is returned leaves it out."""
        return float(self._step.lookahead_loss)

    def features(self, tokens: NDArray[np.int64], *, first: int = 0, n_threads: int = 1) -> Floats:
        """Return what the output layer reads, (n_windows, T, d_model): after a final LayerNorm, without dropout.

        Frames before `first` are context alone; their rows are zero.
        """
        with core_errors():
            rows: Floats = self._step.features(tokens, first, n_threads)
        return rows

    def gradients(self) -> dict[str, Floats]:
        """Return a flat copy of the gradient of every parameter, before clipping."""
        return {name: self._step.copy_gradient(i) for i, name in enumerate(self.names)}

    def update(
        self,
        *,
        learning_rate: float,
        beta1: float,
        beta2: float,
        weight_decay: float,
        clip: float,
        t: int,
        n_threads: int = 1,
    ) -> float:
        """Clip the gradient, take update `t` (from 1), and return the norm that the gradient had."""
        rule = {
            "learning_rate": learning_rate,
            "beta1": beta1,
            "beta2": beta2,
            "weight_decay": weight_decay,
            "clip": clip,
            "t": t,
        }
        with core_errors():
            return float(self._step.update(rule, n_threads))


def sweep_output(
    head: Floats,
    table: Floats,
    weights: Floats,
    features: Floats,
    current: NDArray[np.int64],
    following: NDArray[np.int64],
    *,
    transitions: NDArray[np.float64],
    moments: NDArray[np.float64] | None = None,
    n_threads: int = 1,
    isa: str = "",
) -> float:
    """Return the weighted loss (nats) of an output layer over contexts, and add its gradient up.

    Parameters
    ----------
    head : (V, width)
    table : (V, V)
        Added to the logits by current state.
    weights : (V, V)
        Of a transition.
    features : (n, width)
        Of the contexts, the constant one of a bias included.
    current, following : (n,)
        The state of each context, rising, and the one that came next.
    transitions : (V, V)
        Expected minus observed transitions are added.
    moments : (V, width), optional
        Expected minus observed features are added.
    n_threads : int
        Changes no bit.
    """
    with core_errors():
        return float(
            CORE.sweep_output(head, table, weights, features, current, following, transitions, moments, n_threads, isa)
        )
