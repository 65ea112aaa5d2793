"""All of the interpretation in one call, as ``nanomd interpret`` makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanomd.data.dtrajs import DtrajsLike
from nanomd.interpret.attention import attention_by_lag
from nanomd.interpret.distances import kinetic_distances
from nanomd.interpret.memory import memory_length
from nanomd.interpret.results import Interpretation
from nanomd.interpret.tracing import causal_tracing

if TYPE_CHECKING:
    from nanomd.estimator import GPTModel


def interpret_model(
    model: GPTModel,
    dtrajs: DtrajsLike,
    *,
    training: DtrajsLike | None = None,
    attention: dict[str, Any] | None = None,
    tracing: dict[str, Any] | None = None,
    memory: dict[str, Any] | None = None,
    distances: dict[str, Any] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interpretation:
    """Return attention by lag, causal tracing, memory length and distances between states.

    Parameters
    ----------
    model : GPTModel
    dtrajs : arrays or paths
        Raw labels that the model is looked at on, best such that the training did not see.
    training : arrays or paths, optional
        Data of the training, for the Markov models beside the model; `dtrajs` when None.
    attention, tracing, memory, distances : dict, optional
        Further options of `attention_by_lag`, `causal_tracing`, `memory_length` and `kinetic_distances`.
    confidence : float
        Of all intervals.
    seed : int
        Of the noise and of the relabellings.

    Raises
    ------
    InputError
        As in those functions.
    """
    known = dtrajs if training is None else training
    return Interpretation(
        attention=attention_by_lag(model, dtrajs, confidence=confidence, **(attention or {})),
        tracing=causal_tracing(model, dtrajs, confidence=confidence, seed=seed, **(tracing or {})),
        memory=memory_length(model, dtrajs, training=known, confidence=confidence, **(memory or {})),
        distances=kinetic_distances(model, known, confidence=confidence, seed=seed, **(distances or {})),
    )
