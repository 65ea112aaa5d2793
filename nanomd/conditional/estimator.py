"""The public face of a training at several conditions: `ConditionalGPTEstimator` learns them together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nanomd import __version__
from nanomd.base.config import ModelConfig, TrainConfig, model_preset
from nanomd.base.errors import InputError, shown
from nanomd.base.extras import needs
from nanomd.base.progress import Progress, expect, reporting
from nanomd.base.units import FrameInterval
from nanomd.conditional.conditions import Condition, Conditions, Kind
from nanomd.conditional.files import ConditionalFiles
from nanomd.conditional.model import ConditionalModel
from nanomd.data.dtrajs import DtrajsLike, load_dtrajs, split_dtrajs, stride_trajectories
from nanomd.data.states import StateMap
from nanomd.model.files import ModelFiles, Starts
from nanomd.model.starts import start_windows, stationary_distribution

_MODEL_FIELDS = frozenset(field.name for field in dataclasses.fields(ModelConfig)) - {"n_states", "group_sizes"}
_TRAIN_FIELDS = frozenset(field.name for field in dataclasses.fields(TrainConfig))
Groups = list[list[NDArray[Any]]]


class ConditionalGPTEstimator:
    """Learn trajectories taken at different conditions with one nano-GPT.

    All layers are shared but for the head and the table of the markov head, which depend on the condition, and of
    categories a vector added to every embedding; see `nanomd.conditional.files`. So a transition that was not seen at
    one condition has the rate that the others say, and a numeric condition may be one that was never simulated.

    Parameters
    ----------
    preset : str
        As of `nanomd.GPTEstimator`; with ``"auto"`` one stride and window for all conditions.
    features : mapping, optional
        How conditions act, by name: ``"inverse"`` (1/x), ``"linear"``, ``"log"`` or ``"category"``. By default a text
        is a category, ``temperature`` inverse, and other numbers linear.
    frame_interval : str or FrameInterval, optional
        Time between frames, such as ``"0.2 ns"``.
    run_dir : path, optional
        Where checkpoints and metrics go; nothing is written when None.
    resume : bool
        Continue an interrupted training in `run_dir`.
    progress : bool or Progress, optional
        As of `nanomd.GPTEstimator`.
    **options
        The fields of `ModelConfig` and `TrainConfig`. The objective is ``"one_pass"``, the precision ``"fp32"``, and
        ``select`` not ``"kinetics"``.

    Raises
    ------
    InputError
        For an unknown preset or option, and one that such a training does not have.

    Examples
    --------
    >>> from nanomd import ConditionalGPTEstimator
    >>> estimator = ConditionalGPTEstimator(seed=1)
    >>> estimator.fit(
    ...     ["300K/*.npy", "330K/*.npy"], [{"temperature": 300}, {"temperature": 330}]
    ... )  # doctest: +SKIP
    >>> model = estimator.fetch_model().at(temperature=315)  # doctest: +SKIP
    """

    def __init__(
        self,
        preset: str = "auto",
        *,
        features: Mapping[str, Kind] | None = None,
        frame_interval: str | FrameInterval | None = None,
        run_dir: str | Path | None = None,
        resume: bool = False,
        progress: Progress | bool | None = None,
        **options: Any,
    ) -> None:
        unknown = sorted(set(options) - _MODEL_FIELDS - _TRAIN_FIELDS)
        if unknown:
            raise InputError(
                f"ConditionalGPTEstimator has no option {', '.join(unknown)}; "
                f"it knows {', '.join(sorted(_MODEL_FIELDS | _TRAIN_FIELDS))}"
            )
        given = {name: value for name, value in options.items() if value is not None}
        self.model_overrides = {name: value for name, value in given.items() if name in _MODEL_FIELDS}
        model_preset(preset, 2, **self.model_overrides)  # refuse bad shapes before loading the data
        own = {name: value for name, value in given.items() if name in _TRAIN_FIELDS}
        self.train_config, self._train_given = TrainConfig.from_dict(own), frozenset(own)
        self.preset, self.features, self.resume, self.progress = preset, features, resume, progress
        self.frame_interval = FrameInterval.parse(frame_interval)
        self.run_dir = None if run_dir is None else Path(run_dir)
        self._model: ConditionalModel | None = None

    def __repr__(self) -> str:
        options = {**self.model_overrides, **{name: getattr(self.train_config, name) for name in self._train_given}}
        given = "".join(f", {name}={value!r}" for name, value in sorted(options.items()))
        return f"ConditionalGPTEstimator({self.preset!r}{given})"

    def fit(self, dtrajs: Sequence[DtrajsLike], conditions: Sequence[Condition]) -> Self:
        """Train on discrete trajectories, each, or each group of them, with its condition.

        Parameters
        ----------
        dtrajs : sequence
            Trajectories of raw labels, or groups of them: lists of arrays, or patterns such as ``"300K/*.npy"``. States
            mean the same at all conditions.
        conditions : sequence of mappings
            Of every trajectory or group: ``{"temperature": 300}``, ``{"ligand": "atp", "temperature": 300}``. Some may
            be equal; at least two must differ.

        Raises
        ------
        InputError
            For lists of different lengths, conditions that do not fit each other, and what `GPTEstimator` refuses.
        """
        from nanomd.conditional.training import check_supported

        needs("a training", "torch", "scipy", "deeptime")
        check_supported(self.train_config)
        with reporting(self.progress, self.train_config.n_steps, "train") as bar:
            return self._fit(dtrajs, conditions, bar)

    def _fit(self, dtrajs: Sequence[DtrajsLike], given: Sequence[Condition], progress: Progress) -> Self:
        from nanomd.conditional.finish import finish
        from nanomd.conditional.network import split_state
        from nanomd.conditional.training import train
        from nanomd.training.floor import TOLERANCE

        conditions, state_map, groups = self._read(dtrajs, given)
        n_states = state_map.n_states
        config, train_config, reasons = self._choose(groups, n_states)
        stride, fraction = train_config.frame_stride or 1, train_config.validation_fraction
        split = [split_dtrajs(tokens, fraction) if fraction > 0 else (tokens, []) for tokens in groups]
        training, validation = ([stride_trajectories(x[k], stride) for x in split] for k in (0, 1))
        strided = [stride_trajectories(tokens, stride) for tokens in groups]
        expect(progress, train_config.n_steps)
        trained = train(
            config,
            train_config,
            conditions,
            training,
            validation,
            run_dir=self.run_dir,
            resume=self.resume,
            progress=progress,
        )
        floor = _markov_loss(training, validation, n_states, train_config.time_reversal)
        tensors, dependence = split_state(trained.weights)
        if floor is not None and not trained.best_loss <= floor * (1 + TOLERANCE):
            remedy = "train it less or on more data"
            if self.preset == "auto":
                remedy = "its transformer is switched off"
                off = ("head.weight", "head.bias")
                tensors |= {name: np.zeros_like(tensors[name]) for name in off}
                dependence |= {name: np.zeros_like(dependence[name]) for name in off}
            reasons.append(
                f"warning: worse on held-out data than the Markov models of one step ({trained.best_loss:.4f} nats "
                f"against {floor:.4f}): {remedy}"
            )
        starts = [
            Starts(stationary_distribution(tokens, n_states), start_windows(tokens, config.context_length))
            for tokens in strided
        ]
        pooled = [x for tokens in strided for x in tokens]
        shared = ModelFiles(
            config=config,
            tensors=tensors,
            state_map=state_map,
            starts=Starts(stationary_distribution(pooled, n_states), start_windows(pooled, config.context_length)),
            frame_interval=FrameInterval(self.frame_interval.value * stride, self.frame_interval.unit),
            provenance={
                "nanomd": __version__,
                "preset": self.preset,
                "train": train_config.to_dict(),
                "choices": reasons,
                "conditions": [*conditions.trained],
                "n_frames": [sum(map(len, tokens)) for tokens in groups],
                "n_trajectories": [len(tokens) for tokens in groups],
                "best_step": trained.best_step,
                "validation_loss": trained.best_loss if np.isfinite(trained.best_loss) else None,
                "markov_validation_loss": floor,
            },
            frame_stride=stride,
        )
        files = ConditionalFiles(shared, conditions, dependence, tuple(starts))
        self._model = ConditionalModel(finish(files, groups, train_config, progress), trained.history)
        return self

    def _read(self, dtrajs: Sequence[DtrajsLike], given: Sequence[Condition]) -> tuple[Conditions, StateMap, Groups]:
        """Return the conditions, the states of all of them, and the tokens of each."""
        listed = isinstance(dtrajs, (list, tuple)) and isinstance(given, (list, tuple))
        if not listed or len(dtrajs) != len(given) or not given:
            numbers = f"{len(dtrajs)} and {len(given)}" if listed else f"{shown(type(dtrajs))} and {shown(type(given))}"
            raise InputError(f"dtrajs and conditions must be lists of one length, a condition for each, got {numbers}")
        labels = [load_dtrajs(one) for one in dtrajs]
        conditions, places = Conditions.of(given, self.features)
        state_map = StateMap.fit([x for group in labels for x in group])
        if state_map.n_states < 2:
            raise InputError(
                f"dtrajs visit one state only (label {state_map.symbols[0]}): there are no kinetics to learn; "
                "use finer states or more data"
            )
        groups: Groups = [[] for _ in conditions.trained]
        for place, group in zip(places, labels, strict=True):
            groups[place] += state_map.encode(group)
        for condition, tokens in zip(conditions.trained, groups, strict=True):
            if not tokens:
                raise InputError(f"dtrajs hold no two successive assigned frames at {condition}; give longer ones")
        return conditions, state_map, groups

    def _choose(self, groups: Groups, n_states: int) -> tuple[ModelConfig, TrainConfig, list[str]]:
        """Let the data decide what neither the preset nor the options say."""
        model, train, reasons = dict(self.model_overrides), self.train_config, list[str]()
        if self.preset == "auto":
            from nanomd.conditional.plan import make_plan

            plan = make_plan(groups, n_states, train.frame_stride)
            model, train = plan.follow(model, train, self._train_given)
            reasons = plan.describe()
        return model_preset(self.preset, n_states, **model), train, reasons

    @property
    def has_model(self) -> bool:
        """Whether `fit` has given a model."""
        return self._model is not None

    def fetch_model(self) -> ConditionalModel:
        """Return the trained model."""
        if self._model is None:
            raise InputError("the estimator has no model yet: call fit(dtrajs, conditions) first")
        return self._model

    def fit_fetch(self, dtrajs: Sequence[DtrajsLike], conditions: Sequence[Condition]) -> ConditionalModel:
        """Fit, and return the model."""
        return self.fit(dtrajs, conditions).fetch_model()


def _markov_loss(training: Groups, validation: Groups, n_states: int, both_ways: bool) -> float | None:
    """Return the loss of the Markov models of the conditions on what is held out of each, nats a step."""
    from nanomd.training.floor import markov_loss

    total, number = 0.0, 0
    for known, held_out in zip(training, validation, strict=True):
        loss, frames = markov_loss(known, held_out, n_states, both_ways), sum(len(x) - 1 for x in held_out)
        if loss is not None:
            total, number = total + loss * frames, number + frames
    return total / number if number else None
