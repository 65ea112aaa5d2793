"""Training checkpoints: weights, optimiser and progress in safetensors and JSON; never pickle.

``checkpoints/step_001000/`` holds ``model.safetensors``, ``best.safetensors``, ``optimiser.safetensors`` and
``state.json``; with averaged weights ``average.safetensors``, and with auxiliary heads ``heads.safetensors``. It is
written beside and renamed, so that a checkpoint that is there is whole. Random numbers are functions of (seed, step),
so the step is all the generator state there is.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.base.codec import read_json
from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import explain_os_error, replacing, sweep_parts

FORMAT, FORMAT_VERSION = "nanomd-training", 1
KEPT = 3  # checkpoints kept: the last ones
# Options that change nothing of what a resumed training would compute; the rest comes after it.
_FREE_OPTIONS = (
    *("device", "backend", "compile", "n_threads", "checkpoint_interval"),
    *("refit", "refit_pseudocount", "refit_ridge", "calibrate"),
)

# Options whose default is not what trainings of the hidden objective did before they were there.
_BEFORE = {"hidden_schedule": "training"}


@dataclass(slots=True)
class TrainingState:
    """What a training has reached.

    Parameters
    ----------
    step : int
        Optimiser steps done.
    history : list of dict
        The records of metrics.jsonl.
    best_step, best_loss : int, float
        Where the validation loss was lowest (nats per frame); infinity before the first validation.
    best : dict of Tensor
        The weights there.
    average : dict of Tensor
        The running mean of the weights, updated in place; empty where there is none.
    loss_scale : list of float
        `nanomd.training.loss_scale.LossScale.to_list`; empty unless the training is in fp16.
    """

    step: int
    history: list[dict[str, float]]
    best_step: int
    best_loss: float
    best: dict[str, Tensor]
    average: dict[str, Tensor] = field(default_factory=dict)
    loss_scale: list[float] = field(default_factory=list)


def data_digest(trajectories: Sequence[NDArray[Any]]) -> str:
    """Return a SHA-256 over lengths and tokens."""
    digest = hashlib.sha256()
    for trajectory in trajectories:
        digest.update(len(trajectory).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(trajectory, dtype=np.uint16).tobytes())
    return digest.hexdigest()


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a folder, earliest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step_\d{6,}", path.name) and path.is_dir())


def save_checkpoint(
    folder: Path,
    state: TrainingState,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    heads: torch.nn.Module | None = None,
) -> Path:
    """Write ``folder/step_NNNNNN`` atomically, then drop all but the last few.

    Parameters
    ----------
    folder : Path
        The checkpoints folder.
    state, model, optimiser :
        What is saved.
    identity : mapping
        Configuration and data digest, compared on resume; see `training_identity`.
    heads : nn.Module, optional
        Parameters of the training that are no part of the model.
    """
    from safetensors.torch import save

    target = folder / f"step_{state.step:06d}"
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "step": state.step,
        "best_step": state.best_step,
        "best_loss": state.best_loss if np.isfinite(state.best_loss) else None,
        "history": state.history,
        "loss_scale": state.loss_scale,
        "identity": dict(identity),
    }
    tensors: dict[str, Mapping[str, Tensor]] = {
        "model": model.state_dict(),
        "best": state.best,
        "optimiser": _optimiser_tensors(named_parameters(model, heads), optimiser),
    }
    if state.average:
        tensors["average"] = state.average
    if heads is not None:
        tensors["heads"] = heads.state_dict()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(target) as staging:
            staging.mkdir()
            for name, values in tensors.items():
                (staging / f"{name}.safetensors").write_bytes(save(_on_host(values)))
            (staging / "state.json").write_text(json.dumps(description), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write the checkpoint {target}: {explain_os_error(error)}") from error
    for old in find_checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def find_to_resume(folder: Path, resume: bool) -> Path | None:
    """Return the last checkpoint of a training that is gone on with; None where there is none yet.

    Raises
    ------
    InputError
        If there is one, and `resume` does not ask for it.
    """
    if folder.is_dir():
        sweep_parts(folder)
    found = find_checkpoints(folder)
    if found and not resume:
        raise InputError(f"{folder} already holds a training ({found[-1].name}); resume it, or use a new run folder")
    return found[-1] if found else None


def load_checkpoint(
    path: Path,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    heads: torch.nn.Module | None = None,
    average: Mapping[str, Tensor] | None = None,
) -> TrainingState:
    """Restore model, optimiser, heads and the mean of the weights from a checkpoint, and return the progress.

    Raises
    ------
    InputError
        If the checkpoint is damaged, or was made with another configuration or other data.
    """
    try:
        description = read_json(path / "state.json", dict[str, Any])
        if (description["format"], description["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise InputError(f"{path / 'state.json'} is no training checkpoint of version {FORMAT_VERSION}")
        saved = description["identity"]
        for section, values in identity.items():
            _compare(path, section, values, saved[section])
        state = TrainingState(
            step=int(description["step"]),
            history=list(description["history"]),
            best_step=int(description["best_step"]),
            best_loss=float("inf") if description["best_loss"] is None else float(description["best_loss"]),
            best={},
            loss_scale=[float(value) for value in description.get("loss_scale", [])],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"checkpoint {path} is damaged: {error!r}; remove it to resume from the one before") from None
    weights = model.state_dict()
    device = next(iter(weights.values())).device
    _copy_into(weights, _read(path / "model.safetensors", weights))
    state.best = {name: value.to(device) for name, value in _read(path / "best.safetensors", weights).items()}
    if average:
        state.average = dict(average)
        _copy_into(state.average, _read(path / "average.safetensors", state.average))
    if heads is not None:
        own = heads.state_dict()
        _copy_into(own, _read(path / "heads.safetensors", own))
    parameters = named_parameters(model, heads)
    expected = {
        f"{kind}.{name}": parameter if kind != "step" else torch.zeros(())
        for name, parameter in parameters.items()
        for kind in ("exp_avg", "exp_avg_sq", "step")
    }
    moments = _read(path / "optimiser.safetensors", expected)
    for name, parameter in parameters.items():
        optimiser.state[parameter] = {
            "step": moments[f"step.{name}"],
            "exp_avg": moments[f"exp_avg.{name}"].to(parameter.device),
            "exp_avg_sq": moments[f"exp_avg_sq.{name}"].to(parameter.device),
        }
        if parameter.is_cuda:  # the fused optimiser counts its steps on the device
            optimiser.state[parameter]["step"] = moments[f"step.{name}"].to(parameter.device)
    return state


def start_moments(parameters: Sequence[torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
    """Give an optimiser that has taken no step the state that `load_checkpoint` fills, of zeros."""
    for parameter in parameters:
        optimiser.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


def training_identity(model: ModelConfig, train: TrainConfig, digest: str) -> dict[str, dict[str, Any]]:
    """Return what must agree between a checkpoint and the training that resumes it."""
    options = {name: value for name, value in train.to_dict().items() if name not in _FREE_OPTIONS}
    return {"model": model.to_dict(), "train": options, "data": {"digest": digest}}


def _compare(path: Path, section: str, own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    if section == "train":  # an option that is newer than the checkpoint had its default
        newer = TrainConfig().to_dict() | (_BEFORE if saved.get("objective") == "two_pass_hidden" else {})
        saved = {name: value for name, value in newer.items() if name not in saved} | dict(saved)
    for name, value in own.items():
        if name not in saved or saved[name] != value:
            what = "the training data differ" if section == "data" else f"{name} was {saved.get(name)!r}, now {value!r}"
            raise InputError(f"checkpoint {path} cannot be resumed: {what}; train in a new run folder, or restore it")


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def named_parameters(model: torch.nn.Module, heads: torch.nn.Module | None) -> dict[str, torch.nn.Parameter]:
    """Return all that an optimiser moves, by the names that checkpoints and the compiled step give them."""
    own = dict(model.named_parameters())
    return own if heads is None else own | dict(heads.named_parameters(prefix="training_heads"))


def _optimiser_tensors(
    parameters: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer
) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in parameters.items():
        for kind in ("exp_avg", "exp_avg_sq", "step"):
            tensors[f"{kind}.{name}"] = torch.as_tensor(optimiser.state[parameter][kind])
    return tensors


def _read(file: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{file} is damaged: {error}; remove its folder to resume from the one before") from None
    if set(tensors) != set(expected) or any(tensors[name].shape != expected[name].shape for name in expected):
        raise InputError(f"{file} does not hold the tensors of this model; train in a new run folder")
    return tensors


@torch.no_grad()
def _copy_into(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        own[name].copy_(value)
