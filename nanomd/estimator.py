"""The public face of training: `GPTEstimator` learns; `GPTModel` generates, scores and saves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, Unpack

import numpy as np
from numpy.typing import NDArray

from nanomd import __version__
from nanomd.base.config import ModelConfig, Objective, Select, Switch, TrainConfig, model_preset
from nanomd.base.errors import InputError
from nanomd.base.extras import needs
from nanomd.base.progress import Progress, expect, reporting
from nanomd.base.units import FrameInterval
from nanomd.data.dtrajs import DtrajsLike, load_dtrajs, split_dtrajs, stride_trajectories
from nanomd.data.states import StateMap
from nanomd.model.files import ModelFiles, Starts
from nanomd.model.starts import start_windows, stationary_distribution
from nanomd.training.gpt_model import GPTModel, load_model

if TYPE_CHECKING:
    from nanomd.training.options import FurtherOptions

__all__ = ["GPTEstimator", "GPTModel", "load_model"]

_MODEL_FIELDS = frozenset(field.name for field in dataclasses.fields(ModelConfig)) - {"n_states", "group_sizes"}
FEW_VISITS = 10.0  # frames a state: below, most of what a state does next was seen once, or never
_TRAIN_FIELDS = frozenset(field.name for field in dataclasses.fields(TrainConfig))
Tokens = NDArray[Any]


class _Chosen(NamedTuple):
    """What a training is to be, and what the data said for it."""

    model: ModelConfig
    train: TrainConfig
    stride: int
    reasons: list[str]


class GPTEstimator:
    """Learn the next-state distribution of discrete trajectories with a nano-GPT.

    Options that are None are those of `preset` (the model's) and of `train`.

    Parameters
    ----------
    preset : str
        ``"auto"`` (the default): a small shape, with the stride, context, directions and length of the training chosen
        by the data (`nanomd.training.plan`), where the options below say nothing. Or only a shape: ``"small"`` (width
        64, 2 layers, 4 heads, window 64), ``"base"`` (128, 4, 4, 128), ``"tiny"`` (32, 2, 2, 32), ``"xs"``, or one of
        the published ones; see `nanomd.base.config.PRESETS`.
    d_model, n_layer, n_head : int, optional
        Width, layers, and attention heads.
    context_length : int, optional
        The window, in steps: how far back a layer looks.
    frame_stride : int, optional
        Frames a step: every n-th is read, with all n offsets as data. Chosen with ``"auto"``, else 1.
    n_groups : int, optional
        Groups of states, of which the next is drawn before the state: for many states. 0: none; about sqrt(V) for more
        than 4096 states when None. See `nanomd.data.groups`.
    markov_head : bool, optional
        Start from the Markov model of the data, of which the transformer learns the rest; False.
    dropout : float, optional
        On residual branches and embeddings while training; 0, and 0.2 with ``"auto"``.
    objective : str, optional
        ``"one_pass"`` (the default), ``"two_pass_token"`` or ``"two_pass_hidden"``; see `nanomd.training.objectives`.
    n_steps, batch_size, learning_rate : optional
        Optimiser steps (2000; at most 800 with ``"auto"``), windows a step (32; 32 to 512), and the highest learning
        rate (2e-3).
    time_reversal : bool, optional
        Read the data backwards too, as equilibrium MD may be; False, or by a test of its currents with ``"auto"``.
    validation_fraction : float, optional
        Part of the frames that is held out; 0.1.
    select : str, optional
        Which weights are kept: ``"loss"`` (the default; the latest within 0.2 % of the lowest on held-out data),
        ``"kinetics"`` or ``"last"``.
    refit : str, optional
        Whether the output layer is fitted to all the data at the end: ``"auto"`` (the default; up to 4096 states),
        ``"on"`` or ``"off"``. See `nanomd.training.refit`.
    seed : int, optional
        Of weights, windows, dropout and replacement; 0.
    device : str, optional
        ``"auto"`` (the default), ``"cpu"`` or ``"cuda"``.
    n_threads : int, optional
        CPU threads; PyTorch's own choice when None.
    train : TrainConfig, optional
        How to train where the options above and below say nothing; ``TrainConfig()`` when None.
    frame_interval : str or FrameInterval, optional
        Time between frames, such as ``"0.2 ns"``; kept with the model.
    run_dir : path, optional
        Where checkpoints and metrics go; nothing is written when None.
    resume : bool
        Continue an interrupted training in `run_dir`.
    progress : bool or Progress, optional
        True shows a bar, None says in a line a minute how far it is, False nothing; anything else is advanced by one a
        step (`nanomd.base.progress.progress_bar`).
    **options
        The other fields of `ModelConfig` and `TrainConfig`: `nanomd.training.options.FurtherOptions`.

    Raises
    ------
    InputError
        For an unknown preset or option.

    Examples
    --------
    >>> import numpy as np
    >>> estimator = GPTEstimator("tiny", n_steps=5, seed=1)
    >>> estimator
    GPTEstimator('tiny', n_steps=5, seed=1)
    >>> estimator.fit(np.tile([3, 3, 7], 200)).has_model
    True
    >>> print(estimator.fetch_model().state_map.symbols)
    [3 7]
    """

    def __init__(
        self,
        preset: str = "auto",
        *,
        d_model: int | None = None,
        n_layer: int | None = None,
        n_head: int | None = None,
        context_length: int | None = None,
        frame_stride: int | None = None,
        n_groups: int | None = None,
        markov_head: bool | None = None,
        dropout: float | None = None,
        objective: Objective | None = None,
        n_steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        time_reversal: bool | None = None,
        validation_fraction: float | None = None,
        select: Select | None = None,
        refit: Switch | None = None,
        seed: int | None = None,
        device: Literal["auto", "cpu", "cuda"] | None = None,
        n_threads: int | None = None,
        train: TrainConfig | None = None,
        frame_interval: str | FrameInterval | None = None,
        run_dir: str | Path | None = None,
        resume: bool = False,
        progress: Progress | bool | None = None,
        **options: Unpack[FurtherOptions],
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "options")}
        self._spelt_out = frozenset(arguments)
        self._set(arguments | dict(options))
        self._model: GPTModel | None = None
        self._last: GPTModel | None = None
        self._finish_last: Callable[[], GPTModel] | None = None
        self._epochs: list[GPTModel] = []

    def _set(self, parameters: dict[str, Any]) -> None:
        """Take arguments by name; refuse what no training could be made of."""
        unknown = sorted(set(parameters) - self._spelt_out - _MODEL_FIELDS - _TRAIN_FIELDS)
        if unknown:
            reason = {
                "n_states": ": the number of states comes from the data",
                "group_sizes": ": give n_groups, and the data say which states go together",
            }.get(unknown[0], "")
            raise InputError(
                f"GPTEstimator has no option {', '.join(unknown)}{reason}; "
                f"it knows {', '.join(sorted(_MODEL_FIELDS | _TRAIN_FIELDS))}"
            )
        given = {name: value for name, value in parameters.items() if value is not None or name not in self._spelt_out}
        self.model_overrides = {name: value for name, value in given.items() if name in _MODEL_FIELDS}
        model_preset(parameters["preset"], 2, **self.model_overrides)  # refuse bad shapes before loading the data
        own = {name: value for name, value in given.items() if name in _TRAIN_FIELDS}
        self._train_given = frozenset(own if given.get("train") is None else _TRAIN_FIELDS)
        self.train_config = TrainConfig.from_dict((given.get("train") or TrainConfig()).to_dict() | own)
        self.preset, self.resume, self.progress = parameters["preset"], parameters["resume"], parameters["progress"]
        self.frame_interval = FrameInterval.parse(parameters["frame_interval"])
        self.run_dir = None if parameters["run_dir"] is None else Path(parameters["run_dir"])
        self._parameters = parameters

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002  # scikit-learn's signature
        """Return the arguments of the constructor by name, as given."""
        return dict(self._parameters)

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor; a model that was fitted stays until the next `fit`."""
        self._set(self._parameters | params)
        return self

    def __repr__(self) -> str:
        default = {"preset": self.preset, "resume": False}
        given = {name: x for name, x in self._parameters.items() if x is not None and x is not default.get(name)}
        return (
            f"GPTEstimator({', '.join([repr(self.preset), *(f'{name}={value!r}' for name, value in given.items())])})"
        )

    @property
    def has_model(self) -> bool:
        """Whether `fit` has given a model."""
        return self._model is not None

    def fit(self, dtrajs: DtrajsLike, *, coordinates: NDArray[np.floating] | None = None) -> Self:
        """Train on discrete trajectories: arrays of raw labels, or paths and patterns of .npy, .npz or .txt files.

        Negative labels are unassigned frames; a trajectory is cut there.

        Parameters
        ----------
        dtrajs : arrays or paths
        coordinates : array, shape (n_labels, k), optional
            Where the states lie, a row for every label, such as centres of clusters: embeddings begin alike for states
            near each other, which helps where there are thousands. Those in groups lie among the slow processes when
            None.

        Raises
        ------
        InputError
            For one state only, labels that are no whole numbers (NaN), empty or too short trajectories, a
            `train_length` longer than all of them, or a checkpoint of another training.
        """
        needs("a training", "torch", "scipy", "deeptime")
        with reporting(self.progress, self.train_config.n_steps, "train") as bar:
            return self._fit(dtrajs, bar, coordinates)

    def _fit(self, dtrajs: DtrajsLike, progress: Progress, coordinates: NDArray[np.floating] | None) -> Self:
        from nanomd.model.geometry import check_coordinates
        from nanomd.training.epochs import resolve_epochs
        from nanomd.training.floor import TOLERANCE, markov_loss, without_context
        from nanomd.training.grouping import group_states, resolve_n_groups
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
        n_groups = resolve_n_groups(state_map.n_states, self.train_config.n_groups)
        state_map, tokens, sizes, place = group_states(state_map, tokens, n_groups, self.train_config.seed)
        if coordinates is not None:
            place = check_coordinates(coordinates, state_map.symbols)
        chosen = self._choose(tokens, state_map.n_states, sizes)
        config, train_config, stride = chosen.model, chosen.train, chosen.stride
        fraction, every_frame = train_config.validation_fraction, tokens
        training, validation = split_dtrajs(tokens, fraction) if fraction > 0 else (tokens, [])
        tokens, training, validation = (stride_trajectories(part, stride) for part in (tokens, training, validation))
        train_config = resolve_epochs(config, train_config, training)
        expect(progress, train_config.n_steps)
        result = train(
            config,
            train_config,
            training,
            validation,
            run_dir=self.run_dir,
            resume=self.resume,
            progress=progress,
            coordinates=place,
        )
        floor = markov_loss(training, validation, config.n_states, train_config.time_reversal)
        worse = floor is not None and not result.best_loss <= floor * (1 + TOLERANCE)
        # Without its transformer a grouped model would not be the Markov model: its table knows the next group alone.
        off = worse and self.preset == "auto" and not sizes
        if worse:
            remedy = "its transformer is switched off" if off else "train it less or on more data"
            chosen.reasons.append(
                f"warning: worse on held-out data than the Markov model of one step ({result.best_loss:.4f} nats "
                f"against {floor:.4f}): {remedy}"
            )
        provenance = {
            "nanomd": __version__,
            "preset": self.preset,
            "train": train_config.to_dict(),
            "choices": chosen.reasons,
            "n_frames": int(sum(len(trajectory) for trajectory in tokens)),
            "n_trajectories": len(every_frame),
            "selection": result.selection,
            "best_step": result.best_step,
            "validation_loss": result.best_loss if np.isfinite(result.best_loss) else None,
            "markov_validation_loss": floor,
        }
        files = ModelFiles(
            config=config,
            tensors=result.model.to_tensors(),
            state_map=state_map,
            starts=Starts(
                stationary=stationary_distribution(tokens, state_map.n_states),
                windows=start_windows(tokens, config.context_length),
            ),
            frame_interval=FrameInterval(self.frame_interval.value * stride, self.frame_interval.unit),
            provenance=provenance,
            frame_stride=stride,
        )
        if off:
            files = without_context(files)
        self._model = self._finish(files, result.history, every_frame, train_config, progress)
        self._last, self._finish_last = self._model, None

        def earlier(weights: dict[str, Any], step: int, **record: Any) -> GPTModel:
            return self._finish(
                dataclasses.replace(
                    files,
                    tensors={name: value.float().cpu().numpy() for name, value in weights.items()},
                    provenance=provenance | {"best_step": step, "validation_loss": None} | record,
                ),
                result.history,
                every_frame,
                train_config,
            )

        steps = train_config.steps_per_epoch or 0
        self._epochs = [earlier(weights, epoch * steps, epoch=epoch) for epoch, weights in result.kept.items()]
        if result.best_step != train_config.n_steps:
            # Few ask for it: its output layer is fitted when somebody does.
            self._last, self._finish_last = None, partial(earlier, result.last, train_config.n_steps)
        return self

    def _choose(self, tokens: list[Tokens], n_states: int, sizes: tuple[int, ...]) -> _Chosen:
        """Let the data decide what neither the preset nor the options say."""
        model, train, reasons = dict(self.model_overrides), self.train_config, []
        if self.preset == "auto":
            from nanomd.data.groups import to_groups
            from nanomd.training.plan import make_plan

            # Of many states the groups: they are cut along the slow processes that a plan goes by.
            seen = to_groups(tokens, sizes) if sizes else tokens
            plan = make_plan(seen, len(sizes) or n_states, train.frame_stride)
            model, train = plan.follow(model, train, self._train_given)
            reasons = plan.describe()
        if sizes:
            reasons.append(f"draws one of {len(sizes)} groups of states first, then a state of it: {n_states} states")
            visits = sum(map(len, tokens)) / n_states
            if visits < FEW_VISITS:
                reasons.append(
                    f"warning: {visits:.2g} frames a state are few to tell states apart; take coarser states"
                )
        config = model_preset(self.preset, n_states, **model, group_sizes=sizes)
        return _Chosen(config, train, train.frame_stride or 1, reasons)

    def _finish(
        self,
        files: ModelFiles,
        history: list[dict[str, float]],
        tokens: list[Tokens],
        chosen: TrainConfig,
        progress: Progress | None = None,
    ) -> GPTModel:
        from nanomd.training.finish import finish

        return GPTModel(finish(files, tokens, chosen, progress), history=history)

    def fit_fetch(self, dtrajs: DtrajsLike, *, coordinates: NDArray[np.floating] | None = None) -> GPTModel:
        """Fit, and return the model; arguments as of `fit`."""
        return self.fit(dtrajs, coordinates=coordinates).fetch_model()

    def fetch_model(self, which: str = "best") -> GPTModel:
        """Return the trained model.

        Parameters
        ----------
        which : str
            ``"best"``: the weights chosen by ``select``, by default the latest whose validation loss is within 0.2 %
            of the lowest; ``"last"``: those of the last step. Both with the output layer fitted to all data, where
            ``refit`` asks for it.
        """
        if self._model is None:
            raise InputError("the estimator has no model yet: call fit(dtrajs) first")
        if which not in ("best", "last"):
            raise InputError(f"which must be best or last, got {which!r}")
        if which == "best":
            return self._model
        if self._finish_last is not None:
            self._last, self._finish_last = self._finish_last(), None
        assert self._last is not None
        return self._last

    def fetch_epochs(self) -> list[GPTModel]:
        """Return the models of the epochs that `keep_epochs` names, in their order; none where it is empty."""
        if self._model is None:
            raise InputError("the estimator has no model yet: call fit(dtrajs) first")
        return list(self._epochs)
