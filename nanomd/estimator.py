"""The public face of training: `GPTEstimator` learns, `GPTModel` generates, scores and saves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from nanomd import __version__
from nanomd.base.config import ModelConfig, TrainConfig, model_preset
from nanomd.base.errors import InputError
from nanomd.base.progress import Progress
from nanomd.base.units import FrameInterval
from nanomd.data.counts import sparse_transition_counts
from nanomd.data.dtrajs import DtrajsLike, load_dtrajs, split_dtrajs
from nanomd.data.states import StateMap
from nanomd.model.files import ModelFiles, Starts, load_model_files, save_model
from nanomd.model.starts import start_windows, stationary_distribution

if TYPE_CHECKING:
    from nanomd.model.network import NanoGPT
    from nanomd.rollout.sampler import Rollout

_MODEL_FIELDS = frozenset(field.name for field in dataclasses.fields(ModelConfig)) - {"n_states"}
_TRAIN_FIELDS = frozenset(field.name for field in dataclasses.fields(TrainConfig))
Tokens = NDArray[Any]
_MASKED = -1e4  # as a logit: no probability in any precision, and finite also in 16 bits


class GPTEstimator:
    """Learn the next-state distribution of discrete trajectories with a nano-GPT.

    Parameters
    ----------
    preset : str
        Shape of the model, see `nanomd.base.config.PRESETS`.
    train : TrainConfig, optional
        How to train; the defaults when None.
    frame_interval : str or FrameInterval, optional
        Time between frames, such as ``"0.2 ns"``; kept with the model.
    run_dir : path, optional
        Where checkpoints and metrics go; nothing is written when None.
    resume : bool
        Continue an interrupted training in `run_dir`.
    progress : Progress, optional
        Advanced by one a step; see `nanomd.base.progress.progress_bar`.
    **overrides
        Fields of `ModelConfig` and `TrainConfig`, such as ``objective=``, ``context_length=``, ``seed=``.

    Raises
    ------
    InputError
        For an unknown preset or option.

    Examples
    --------
    >>> import numpy as np
    >>> dtraj = np.tile([3, 3, 7], 200)
    >>> model = GPTEstimator("tiny", n_steps=5, seed=1).fit(dtraj).fetch_model()
    >>> model.state_map.symbols
    array([3, 7])
    """

    def __init__(
        self,
        preset: str = "small",
        *,
        train: TrainConfig | None = None,
        frame_interval: str | FrameInterval | None = None,
        run_dir: str | Path | None = None,
        resume: bool = False,
        progress: Progress | None = None,
        **overrides: Any,
    ) -> None:
        unknown = sorted(set(overrides) - _MODEL_FIELDS - _TRAIN_FIELDS)
        if unknown:
            reason = ": the number of states comes from the data" if unknown == ["n_states"] else ""
            raise InputError(
                f"GPTEstimator has no option {', '.join(unknown)}{reason}; "
                f"it knows {', '.join(sorted(_MODEL_FIELDS | _TRAIN_FIELDS))}"
            )
        self.preset = preset
        self.model_overrides = {name: value for name, value in overrides.items() if name in _MODEL_FIELDS}
        model_preset(preset, 2, **self.model_overrides)  # refuse bad shapes now rather than after loading the data
        base = (train or TrainConfig()).to_dict()
        self.train_config = TrainConfig.from_dict(base | {k: v for k, v in overrides.items() if k in _TRAIN_FIELDS})
        self.frame_interval = FrameInterval.parse(frame_interval)
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.resume, self.progress = resume, progress
        self._model: GPTModel | None = None
        self._last: GPTModel | None = None

    def fit(self, dtrajs: DtrajsLike) -> Self:
        """Train on discrete trajectories: arrays of raw labels, or paths and patterns of .npy, .npz or .txt files.

        Negative labels are unassigned frames; a trajectory is cut there.

        Raises
        ------
        InputError
            For one state only, labels that are no whole numbers (NaN), empty or too short trajectories, a
            `train_length` longer than all of them, or a checkpoint of another training.
        """
        from nanomd.training.loop import train

        labels = load_dtrajs(dtrajs)
        state_map = StateMap.fit(labels)
        if state_map.n_states < 2:
            raise InputError(
                f"dtrajs visit one state only (label {state_map.symbols[0]}): there are no kinetics to learn; "
                "use finer states or more data"
            )
        tokens = state_map.encode(labels)
        if not tokens:
            raise InputError(
                "dtrajs hold no two successive assigned frames, so no transition; "
                "give trajectories of at least 2 frames"
            )
        fraction = self.train_config.validation_fraction
        training, validation = split_dtrajs(tokens, fraction) if fraction > 0 else (tokens, [])
        config = model_preset(self.preset, state_map.n_states, **self.model_overrides)
        result = train(
            config,
            self.train_config,
            training,
            validation,
            run_dir=self.run_dir,
            resume=self.resume,
            progress=self.progress,
        )
        provenance = {
            "nanomd": __version__,
            "preset": self.preset,
            "train": self.train_config.to_dict(),
            "n_frames": int(sum(len(trajectory) for trajectory in tokens)),
            "n_trajectories": len(tokens),
            "selection": result.selection,
            "best_step": result.best_step,
            "validation_loss": result.best_loss if np.isfinite(result.best_loss) else None,
        }
        files = ModelFiles(
            config=config,
            tensors=result.model.to_tensors(),
            state_map=state_map,
            starts=Starts(
                stationary=stationary_distribution(tokens, state_map.n_states),
                windows=start_windows(tokens, config.context_length),
            ),
            frame_interval=self.frame_interval,
            provenance=provenance,
        )
        self._model = self._finish(files, result.history, tokens)
        self._last = self._model
        if result.best_step != self.train_config.n_steps:
            last = dataclasses.replace(
                files,
                tensors={name: value.float().cpu().numpy() for name, value in result.last.items()},
                provenance=provenance | {"best_step": self.train_config.n_steps, "validation_loss": None},
            )
            self._last = self._finish(last, result.history, tokens)
        return self

    def _finish(self, files: ModelFiles, history: list[dict[str, float]], tokens: list[Tokens]) -> GPTModel:
        """Fit the output layer to all the data, those of the validation too, where that is asked for."""
        from nanomd.training.refit import MAX_STATES

        model, chosen = GPTModel(files, history=history), self.train_config
        if chosen.refit == "off" or (chosen.refit == "auto" and files.config.n_states > MAX_STATES):
            return model
        return _refitted(
            model,
            tokens,
            both_ways=chosen.time_reversal,
            pseudocount=chosen.refit_pseudocount,
            ridge=chosen.refit_ridge,
            device=chosen.device,
            n_threads=chosen.n_threads,
            progress=self.progress,
        )

    def fetch_model(self, which: str = "best") -> GPTModel:
        """Return the trained model.

        Parameters
        ----------
        which : str
            ``"best"``: the weights chosen by ``select``, by default the latest whose validation loss is within 0.2 %
            of the lowest; ``"last"``: those of the last step. Both with the output layer fitted to all data, where
            ``refit`` asks for it.
        """
        if self._model is None or self._last is None:
            raise InputError("the estimator has no model yet: call fit(dtrajs) first")
        if which not in ("best", "last"):
            raise InputError(f"which must be best or last, got {which!r}")
        return self._model if which == "best" else self._last


class GPTModel:
    """A trained nano-GPT with what belongs to it: state map, start states, time unit, history.

    Parameters
    ----------
    files : ModelFiles
        What a model folder holds.
    history : sequence of dict
        Training metrics; empty for a model that was loaded.
    """

    def __init__(self, files: ModelFiles, history: Sequence[Mapping[str, float]] = ()) -> None:
        self._files = files
        self.history: list[dict[str, float]] = [dict(record) for record in history]
        self._module: NanoGPT | None = None

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        return self._files.config

    @property
    def state_map(self) -> StateMap:
        """The map between raw labels and tokens."""
        return self._files.state_map

    @property
    def frame_interval(self) -> FrameInterval:
        """The time between frames."""
        return self._files.frame_interval

    @property
    def provenance(self) -> dict[str, Any]:
        """How the model came to be."""
        return dict(self._files.provenance)

    @property
    def module(self) -> NanoGPT:
        """The PyTorch module, on the CPU, in evaluation mode."""
        if self._module is None:
            from nanomd.model.network import NanoGPT

            self._module = NanoGPT(self.config)
            self._module.load_tensors(self._files.tensors)
            self._module.eval()
        return self._module

    def to_files(self) -> ModelFiles:
        """Return what `Sampler` and `save_model` take."""
        return self._files

    def save(self, path: str | Path) -> Path:
        """Write a model folder: safetensors weights and JSON."""
        save_model(path, self._files)
        return Path(path)

    def refit(
        self,
        dtrajs: DtrajsLike,
        *,
        both_ways: bool = False,
        pseudocount: float = 10.0,
        ridge: float = 30.0,
        device: str = "auto",
        n_threads: int | None = None,
        progress: Progress | None = None,
    ) -> GPTModel:
        """Return a model whose output layer is fitted to all transitions of the data, the other layers as they are.

        A training does it by itself, unless ``refit="off"``: this is for models that were trained without, or for
        further data of the same dynamics. See `nanomd.training.refit` for what it does and why. A model without a
        markov head gets one.

        Parameters
        ----------
        dtrajs : arrays or paths
            Raw labels, usually the training data.
        both_ways : bool
            Read trajectories backwards too; for equilibrium data that were learnt with `time_reversal`.
        pseudocount, ridge : float
            How strongly few data leave the layer as trained: observations in each state, and a ridge on the weights.
        device : str
            ``"auto"``, ``"cpu"`` or ``"cuda"``.
        n_threads : int, optional
            CPU threads; PyTorch's own choice when None.
        progress : Progress, optional
            Told how far the work is.

        Raises
        ------
        InputError
            For states that the model does not know, no transition at all, or more than 4096 states.
        """
        return _refitted(
            self,
            self.state_map.encode(load_dtrajs(dtrajs)),
            both_ways=both_ways,
            pseudocount=pseudocount,
            ridge=ridge,
            device=device,
            n_threads=n_threads,
            progress=progress,
        )

    def mask_unseen(self, dtrajs: DtrajsLike, *, both_ways: bool = False) -> GPTModel:
        """Return a model that never makes a transition, frame to frame, that the data do not show.

        Next-state training gives every state a little probability from everywhere; over a high barrier that leak can be
        faster than the real crossings. The mask removes it, and with it every rare transition that the data happen to
        have missed: rates can only be too slow. So it is never applied unasked. It lives in the markov head, which a
        model without one gets, empty but for the mask; probabilities of seen transitions keep their ratios. A
        state that only ends trajectories keeps its row.

        Parameters
        ----------
        dtrajs : arrays or paths
            Raw labels, usually the training data.
        both_ways : bool
            A transition counts as seen if its reverse is; for equilibrium data that was learnt with `time_reversal`.

        Raises
        ------
        InputError
            For states that the model does not know.
        """
        tokens = self.state_map.encode(load_dtrajs(dtrajs))
        n = self.config.n_states
        seen = sparse_transition_counts(tokens, n).toarray() > 0
        if both_ways:
            seen |= seen.T
        seen |= ~seen.any(axis=1, keepdims=True)  # nothing is known of where such a state goes: its row stays
        tensors = dict(self._files.tensors)
        table = tensors.get("markov.weight", np.zeros((n, n), np.float32))
        tensors["markov.weight"] = np.where(seen, table, np.float32(_MASKED))
        files = dataclasses.replace(
            self._files,
            config=self.config.replace(markov_head=True),
            tensors=tensors,
            provenance=self.provenance | {"mask_unseen": "both ways" if both_ways else "as seen"},
        )
        return GPTModel(files, history=self.history)

    def generate(self, n_steps: int, n_trajs: int = 1, *, backend: str = "auto", **options: Any) -> Rollout:
        """Roll out trajectories; the options are those of `nanomd.Sampler.generate` (start, mode, seed, stride, ...).

        Parameters
        ----------
        n_steps, n_trajs : int
            States per trajectory, and trajectories.
        backend : str
            ``"auto"``, ``"cpu"``, ``"cuda"``, or ``"reference"``: eager PyTorch without a cache, slow and readable.
        """
        from nanomd.rollout.sampler import Sampler

        return Sampler(self._files, backend=backend).generate(n_steps, n_trajs, **options)

    def log_likelihood(self, dtrajs: DtrajsLike) -> float:
        """Return the mean log-likelihood of the next state in nats per frame, by teacher forcing.

        Every frame sees what a rollout would see: L (W - 1) + 1 frames with rotary positions, the hop window with
        learned ones. The first frames of a trajectory have less, and count.

        Raises
        ------
        InputError
            For states that the model does not know, or no transition at all.
        """
        from nanomd.model.scoring import mean_log_likelihood

        tokens = self.state_map.encode(load_dtrajs(dtrajs))
        if not tokens:
            raise InputError("dtrajs hold no two successive assigned frames, so there is nothing to score")
        return mean_log_likelihood(self.module, tokens)


def load_model(path: str | Path) -> GPTModel:
    """Load a model folder written by `GPTModel.save` or ``nanomd train``."""
    return GPTModel(load_model_files(path))


def _refitted(
    model: GPTModel,
    tokens: list[Tokens],
    *,
    both_ways: bool,
    pseudocount: float,
    ridge: float,
    device: str,
    n_threads: int | None,
    progress: Progress | None,
) -> GPTModel:
    from nanomd.model.network import NanoGPT
    from nanomd.training.refit import refit
    from nanomd.training.setup import resolve_device, torch_settings

    files = model.to_files()
    place = resolve_device(device)
    with torch_settings(place, n_threads):
        module = NanoGPT(files.config)
        module.load_tensors(files.tensors)
        found = refit(
            module.to(place),
            tokens,
            both_ways=both_ways,
            pseudocount=pseudocount,
            ridge=ridge,
            note=None if progress is None else progress.note,
        )
    layer = {"head.weight": found.head, "head.bias": found.bias, "markov.weight": found.table}
    options = {"both_ways": both_ways, "pseudocount": pseudocount, "ridge": ridge}
    refitted = dataclasses.replace(
        files,
        config=files.config.replace(markov_head=True),
        tensors={**files.tensors, **layer},
        provenance={**files.provenance, "refit": {**options, **found.describe()}},
    )
    return GPTModel(refitted, history=model.history)
