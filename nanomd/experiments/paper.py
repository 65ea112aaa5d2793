"""The paper's training in an experiment: it can be taken up, and its epochs are judged as far as it has come."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.config import TrainConfig, model_preset
from nanomd.base.errors import InputError
from nanomd.experiments.case import Case
from nanomd.experiments.fitted import Fitted, of_gpt

if TYPE_CHECKING:
    from nanomd.training.gpt_model import GPTModel

IntArray = NDArray[np.int64]
_INTERVAL = 50  # steps between validations, and between checkpoints: at most half a minute is lost


def training_config(case: Case, options: dict[str, Any], seed: int, n_steps: int | None) -> TrainConfig:
    """Return the paper's training of a case; `n_steps` in place of its epochs."""
    changes = {**case.training, **options, "seed": seed, "n_threads": 1, "validation_interval": _INTERVAL}
    if n_steps is not None:
        changes |= {"n_epochs": None, "n_steps": n_steps, "keep_epochs": ()}
    system = case.paper.removeprefix("paper-")
    return TrainConfig.paper(system, **changes, checkpoint_interval=_INTERVAL)


def train(case: Case, config: TrainConfig, training: list[IntArray], folder: Path) -> float:
    """Train, or go on with what is in `folder`; returns the seconds that it took this time."""
    from nanomd.estimator import GPTEstimator

    begun = time.perf_counter()
    longest = max(map(len, training))
    preset = model_preset(case.paper, 2)
    window = min(preset.context_length, longest - 1)
    GPTEstimator(case.paper, train=config, context_length=window, run_dir=folder, resume=True).fit(training)
    return time.perf_counter() - begun


def epochs(case: Case, config: TrainConfig, training: list[IntArray], folder: Path) -> Iterator[tuple[int, Fitted]]:
    """Yield the steps and the model of every epoch that a training has kept, and of its last checkpoint.

    Raises
    ------
    InputError
        Where there is none yet.
    """
    from nanomd.training.checkpoint import find_checkpoints

    found: dict[int, Path] = {}
    steps = steps_per_epoch(case, config, training)
    for path in sorted((folder / "checkpoints").glob("epoch_*.safetensors")):
        found[int(re.findall(r"\d+", path.name)[0]) * steps] = path
    if config.average == "none":
        for checkpoint in find_checkpoints(folder / "checkpoints")[-1:]:
            found.setdefault(int(checkpoint.name[5:]), checkpoint / "model.safetensors")
    if not found:
        raise InputError(f"{folder} holds no weights yet; train first")
    history = _history(folder / "logs" / "metrics.jsonl")
    for step, path in sorted(found.items()):
        model = _model(case, config, training, path, [record for record in history if record["step"] <= step])
        yield step, of_gpt(model, {"preset": case.paper, **config.to_dict(), "n_steps": step})


def refit(fitted: Fitted, config: TrainConfig, training: list[IntArray]) -> Fitted:
    """Return a model with its output layer fitted to all the data, which the paper does not do."""
    assert fitted.model is not None
    model = fitted.model.refit(
        training, pseudocount=config.refit_pseudocount, ridge=config.refit_ridge, device="cpu", n_threads=1
    )
    return of_gpt(model, fitted.settings)


def pooled(models: list[Fitted]) -> Fitted:
    """Return several models as one: each generates its share of the trajectories; likelihoods are averaged."""

    def generate(n_trajs: int, n_steps: int, seed: int) -> list[IntArray]:
        shares = [len(share) for share in np.array_split(np.arange(n_trajs), len(models))]
        return [d for k, n in enumerate(shares) if n for d in models[k].generate(n, n_steps, seed + 1000 * k)]

    def score(dtrajs: list[IntArray]) -> float:
        return float(np.mean([model.held_out_nll(dtrajs) for model in models]))

    last = models[-1]
    return Fitted(generate, score, last.validation_loss, last.settings, last.history, last.model)


def steps_per_epoch(case: Case, config: TrainConfig, training: list[IntArray]) -> int:
    """Return the optimiser steps of an epoch: those that are given, or what the training data have."""
    from nanomd.data.dtrajs import split_dtrajs
    from nanomd.training import epochs

    if config.steps_per_epoch is not None:
        return config.steps_per_epoch
    parts = split_dtrajs(training, config.validation_fraction)[0]
    return epochs.steps_per_epoch(model_preset(case.paper, 2), config, parts)


def _model(
    case: Case, config: TrainConfig, training: list[IntArray], path: Path, history: list[dict[str, float]]
) -> GPTModel:
    """Return the model of weights that a training has left."""
    from safetensors.numpy import load_file

    from nanomd.data.states import StateMap
    from nanomd.model.files import ModelFiles, Starts
    from nanomd.model.starts import start_windows, stationary_distribution
    from nanomd.training.gpt_model import GPTModel

    tensors = load_file(path)
    state_map = StateMap.fit(training)
    tokens = state_map.encode(training)
    window = len(tensors["position.weight"])
    validated = [record["validation_loss"] for record in history if "validation_loss" in record]
    files = ModelFiles(
        config=model_preset(case.paper, state_map.n_states, context_length=window),
        tensors=tensors,
        state_map=state_map,
        starts=Starts(stationary_distribution(tokens, state_map.n_states), start_windows(tokens, window)),
        frame_interval=case.frame_interval,
        provenance={"train": config.to_dict(), "validation_loss": validated[-1] if validated else None},
    )
    return GPTModel(files, history=[record for record in history if "validation_loss" in record])


def _history(path: Path) -> list[dict[str, float]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]
