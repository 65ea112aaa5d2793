"""The methods that are compared, each fitted to the same training data: variants of the GPT, an LSTM, Markov models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nanomd.base.checks import check_choice
from nanomd.base.errors import InputError
from nanomd.experiments.case import Case
from nanomd.experiments.fitted import Fitted, known_states, of_gpt

IntArray = NDArray[np.int64]
Kind = Literal["gpt", "default", "paper", "lstm"]


@dataclass(frozen=True)
class Method:
    """A way to learn trajectories from trajectories.

    Parameters
    ----------
    name : str
    kind : str
        ``"gpt"`` (the case's shape), ``"default"`` (`GPTEstimator` without options), ``"paper"`` (the published shape
        and training; `nanomd.experiments.paper` fits it), or ``"lstm"``.
    options : dict
        Added to the case's; ``mask=True`` then removes transitions that the training data never show.
    """

    name: str
    kind: Kind
    options: dict[str, Any]

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, Kind)


_OBJECTIVES = ("one_pass", "two_pass_token", "two_pass_hidden")
_REVERSAL: dict[str, Any] = {"time_reversal": True}
_MARKOV: dict[str, Any] = {"markov_head": True}
_NO_REFIT: dict[str, Any] = {"refit": "off"}


def _variants() -> list[Method]:
    """Every objective, plain, with windows read both ways, and with a head that starts as the Markov model."""
    out = []
    for objective in _OBJECTIVES:
        for suffix, options in (
            ("", {}),
            ("+reversal", _REVERSAL),
            ("+markov", _MARKOV),
            ("+markov+reversal", {**_REVERSAL, **_MARKOV}),
        ):
            out.append(Method(objective + suffix, "gpt", {"objective": objective, **options}))
    more: tuple[tuple[str, dict[str, Any]], ...] = (
        ("one_pass+reversal+dropout", {"dropout": 0.1}),
        ("one_pass+reversal+lookahead", {"lookahead_lags": (2, 5, 20, 50)}),
        ("one_pass+reversal+kinetics", {"select": "kinetics"}),
        ("one_pass+markov+reversal, no averaging", {"average": "none", **_MARKOV}),
    )
    return out + [Method(name, "gpt", {"objective": "one_pass", **_REVERSAL, **options}) for name, options in more]


def _methods() -> list[Method]:
    """Return all, each GPT with the output layer refitted to all data, as is the default, and without."""
    variants = _variants()
    plain = [Method(f"{m.name}, no refit", m.kind, {**m.options, **_NO_REFIT}) for m in variants]
    masked = [
        Method(f"{m.name}, masked", m.kind, {**m.options, "mask": True})
        for m in plain
        if m.name in ("one_pass+reversal, no refit", "one_pass+markov+reversal, no refit")
    ]
    published = [
        Method("paper", "paper", {}),
        Method("paper, refit", "paper", {"refit": "on"}),  # the same training, and its last weights alone
        Method("paper, one pass", "paper", {"objective": "one_pass"}),
    ]
    return [*variants, *plain, *masked, Method("default", "default", {}), *published, Method("LSTM", "lstm", {})]


METHODS: dict[str, Method] = {method.name: method for method in _methods()}
MAIN = (
    *("one_pass, no refit", "one_pass+reversal, no refit", "one_pass+markov+reversal, no refit"),
    *("one_pass", "one_pass+reversal", "one_pass+markov+reversal", "one_pass+reversal+dropout"),
    *(f"{objective}{suffix}" for suffix in ("+reversal", "+markov+reversal") for objective in _OBJECTIVES[1:]),
    "LSTM",
    "paper",
)
#: What stands beside the paper's method on its own systems.
PUBLISHED = ("default", "one_pass+reversal", "two_pass_token+reversal", "LSTM", "paper")
PIECES = ("one_pass+reversal", "one_pass+reversal+dropout", "two_pass_token+reversal")


def get_method(name: str) -> Method:
    """Return a method by name."""
    if name not in METHODS:
        raise InputError(f"methods must be among {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]


def fit(method: Method, case: Case, training: list[IntArray], seed: int, *, n_steps: int | None = None) -> Fitted:
    """Train a method on trajectories.

    Parameters
    ----------
    method, case
    training : list of arrays
    seed : int
        Of weights, batches and dropout.
    n_steps : int, optional
        Optimiser steps in place of the case's.
    """
    longest = max(len(d) for d in training)
    steps = {} if n_steps is None else {"n_steps": n_steps}
    if method.kind == "lstm":
        return _fit_lstm({**case.lstm, **method.options, **steps}, training, seed, longest)
    if method.kind == "default":
        return _fit_default(training, seed)
    options = {**case.gpt, **method.options, **steps}
    length = min(options["train_length"], longest - 1)
    # Short windows come in larger batches, so that a step sees as many frames: fewer would be more noise.
    options["batch_size"] = round(options["batch_size"] * options["train_length"] / length)
    options["train_length"] = length
    return _fit_gpt(options, training, seed)


def _fit_gpt(options: dict[str, Any], training: list[IntArray], seed: int) -> Fitted:
    from nanomd.estimator import GPTEstimator

    chosen = {"validation_interval": max(1, int(options["n_steps"]) // 10), "n_threads": 1, **options}
    mask = chosen.pop("mask", False)
    model = GPTEstimator(**chosen, seed=seed).fit(training).fetch_model()
    if mask:
        model = model.mask_unseen(training, both_ways=bool(chosen.get("time_reversal")))
        chosen["mask"] = True

    return of_gpt(model, chosen)


def _fit_default(training: list[IntArray], seed: int) -> Fitted:
    from nanomd.estimator import GPTEstimator

    model = GPTEstimator(seed=seed, n_threads=1).fit(training).fetch_model()
    return of_gpt(model, {"preset": "auto", "frame_stride": model.frame_stride, **model.provenance["train"]})


def _fit_lstm(options: dict[str, Any], training: list[IntArray], seed: int, longest: int) -> Fitted:
    import torch

    from nanomd.baselines.lstm import LSTMEstimator

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        options = {"train_length": min(100, longest - 1), **options}
        model = LSTMEstimator(**options, seed=seed).fit(training).fetch_model()
    finally:
        torch.set_num_threads(threads)

    def generate(n_trajs: int, n_steps: int, seed: int) -> list[IntArray]:
        start = np.random.default_rng(seed).choice(model.state_map.symbols, n_trajs)
        return model.generate(n_steps, n_trajs, seed=seed, start=start)

    def score(dtrajs: list[IntArray]) -> float:
        return -model.log_likelihood(known_states(dtrajs, model.state_map.symbols))

    return Fitted(generate, score, model.history[-1]["validation_loss"], options, model.history)
