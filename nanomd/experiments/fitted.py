"""What a training gives to the judge of an experiment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from nanomd.training.gpt_model import GPTModel

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Fitted:
    """What a training gives to the judge.

    Parameters
    ----------
    generate : callable
        Maps (n_trajs, n_steps, seed) to trajectories that start in states drawn uniformly.
    held_out_nll : callable
        Nats per frame on given trajectories.
    validation_loss : float
        The one by which weights were chosen.
    settings : dict
    history : list of dict
        Training metrics.
    model : GPTModel, optional
        None for the LSTM.
    """

    generate: Callable[[int, int, int], list[IntArray]]
    held_out_nll: Callable[[list[IntArray]], float]
    validation_loss: float
    settings: dict[str, Any]
    history: list[dict[str, float]]
    model: GPTModel | None = None


def known_states(dtrajs: list[IntArray], symbols: NDArray[np.integer]) -> list[IntArray]:
    """Mark states that a model has never seen as unassigned (-1), so that what it knows can be scored."""
    return [np.where(np.isin(d, symbols), d, -1).astype(np.int64) for d in dtrajs]


def of_gpt(model: GPTModel, settings: dict[str, Any], **rollout: Any) -> Fitted:
    """Return what the judge takes of a GPT; `rollout` are options of its rollouts.

    A model whose step is several frames gives every state as many times: at lags that are multiples of its step, which
    is where it is judged, nothing is added by that. Its likelihood is of other steps, and not compared.
    """
    stride = model.frame_stride

    def generate(n_trajs: int, n_steps: int, seed: int) -> list[IntArray]:
        made = model.generate(
            -(-n_steps // stride), n_trajs, start="uniform", seed=seed, n_threads=1, backend="cpu", **rollout
        )
        return [np.repeat(d, stride)[:n_steps] for d in made.dtrajs]

    def score(dtrajs: list[IntArray]) -> float:
        if stride > 1:
            return float("nan")
        return -model.log_likelihood(known_states(dtrajs, model.state_map.symbols))

    loss = model.provenance.get("validation_loss")
    return Fitted(generate, score, float("nan") if loss is None else float(loss), settings, model.history, model)
