r"""What a condition is in numbers: temperatures, ligands and mutants as features phi of one model.

A numeric condition x has one feature, (f(x) - m) / s, with the mean m and the spread s of f over the conditions that
were trained. f is the one in which logarithms of rates are most nearly straight: 1/x for a temperature (Arrhenius), x
or ln x for others. A category has a feature for every level, one for its own and zero for the others: what levels have
in common is the shared part of the model, and what they differ in is shrunk towards zero.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError, shown

Scale: TypeAlias = Literal["inverse", "linear", "log"]
Kind: TypeAlias = Literal["inverse", "linear", "log", "category"]
Value: TypeAlias = float | str
Condition: TypeAlias = Mapping[str, Value]
FloatArray: TypeAlias = NDArray[np.float64]

MAX_FEATURES = 64
_LONGEST_NAME = 100
_SAME = 1e-9  # relative: values this near are one
_FARTHEST = 1e6  # spreads from the trained values: no rate is carried on so far


@dataclass(frozen=True, slots=True)
class Numeric:
    """A condition that is a number.

    Parameters
    ----------
    name : str
    scale : str
        ``"inverse"``, ``"linear"`` or ``"log"``.
    centre, spread : float
        Mean and standard deviation of the scaled values that were trained.
    low, high : float
        The range that was trained.
    """

    name: str
    scale: Scale
    centre: float
    spread: float
    low: float
    high: float

    def __post_init__(self) -> None:
        """Check what a file may have said."""
        numbers = (self.centre, self.spread, self.low, self.high)
        if not all(map(math.isfinite, numbers)) or self.spread <= 0 or self.low >= self.high:
            raise InputError(f"condition {shown(self.name)} has a scale or a range that cannot be: {numbers}")
        if self.scale != "linear" and self.low <= 0:
            raise InputError(f"condition {shown(self.name)} is {self.scale} and has a range that is not positive")

    @property
    def n_features(self) -> int:
        """One."""
        return 1

    def check(self, value: Any) -> float:
        """Return the value as a number, or raise `InputError`."""
        return _number(self.name, value, self.scale)

    def features(self, value: Value) -> list[float]:
        """Return the feature of a value."""
        number = self.check(value)
        feature = (_scaled(number, self.scale) - self.centre) / self.spread
        if not abs(feature) <= _FARTHEST:
            raise InputError(
                f"condition {self.name} = {number:g} is too far from the range that was trained, {self.trained_range}"
            )
        return [feature]

    @property
    def trained_range(self) -> str:
        """The range that was trained, in words."""
        return f"{self.low:g} to {self.high:g}"

    def describe(self) -> str:
        """Return what values there are, in words."""
        return f"{self.name} from {self.low:g} to {self.high:g} ({self.scale})"

    def outside(self, value: float) -> str:
        """Say how far a value lies outside of the trained range; nothing inside of it."""
        if self.low * (1 - _SAME) <= value <= self.high * (1 + _SAME):
            return ""
        return f"{self.name} = {value:g} lies outside of the trained range, {self.trained_range}"


@dataclass(frozen=True, slots=True)
class Category:
    """A condition that is one of some names.

    Parameters
    ----------
    name : str
    levels : tuple of str
        Sorted.
    """

    name: str
    levels: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check what a file may have said."""
        if len(self.levels) < 2 or any(a >= b for a, b in zip(self.levels[:-1], self.levels[1:], strict=True)):
            raise InputError(f"condition {shown(self.name)} must have different levels in order, got {self.levels[:5]}")

    @property
    def n_features(self) -> int:
        """As many as there are levels."""
        return len(self.levels)

    def check(self, value: Any) -> str:
        """Return the value if it is a level, or raise `InputError`."""
        if value not in self.levels:
            raise InputError(
                f"condition {self.name} must be one of {', '.join(self.levels)}, which were trained; got {shown(value)}"
            )
        return str(value)

    def features(self, value: Value) -> list[float]:
        """Return the features of a value."""
        level = self.check(value)
        return [float(level == one) for one in self.levels]

    def describe(self) -> str:
        """Return what values there are, in words."""
        return f"{self.name} one of {', '.join(self.levels)}"


Axis: TypeAlias = Numeric | Category


@dataclass(frozen=True, slots=True)
class Conditions:
    """The axes along which conditions differ, and the conditions that were trained.

    Parameters
    ----------
    axes : tuple of Numeric and Category
    trained : tuple of mappings
        Distinct, each with a value for every axis.
    """

    axes: tuple[Axis, ...]
    trained: tuple[dict[str, Value], ...]

    def __post_init__(self) -> None:
        """Check what a file may have said."""
        names = [axis.name for axis in self.axes]
        if not names or len(set(names)) != len(names) or not all(0 < len(x) <= _LONGEST_NAME for x in names):
            raise InputError(
                f"conditions must have different names of at most {_LONGEST_NAME} letters, got {names[:5]}"
            )
        if self.n_features > MAX_FEATURES:
            raise InputError(f"conditions have {self.n_features} features, more than {MAX_FEATURES}; use fewer levels")
        object.__setattr__(self, "trained", tuple(self.check(one) for one in self.trained))
        if not 2 <= len(self.trained) == len({tuple(sorted(one.items())) for one in self.trained}):
            raise InputError(f"a model needs at least two different conditions, got {len(self.trained)}")

    @classmethod
    def of(cls, given: Sequence[Any], kinds: Mapping[str, Kind] | None = None) -> tuple[Self, list[int]]:
        """Find the axes of the conditions of some trajectories or groups of them.

        Parameters
        ----------
        given : sequence of mappings
            Name to value: a number or a text.
        kinds : mapping, optional
            ``"inverse"``, ``"linear"``, ``"log"`` or ``"category"`` by name. By default a text is a category, a
            temperature inverse, and other numbers linear.

        Returns
        -------
        Conditions, list of int
            And which of the trained conditions each of `given` is.

        Raises
        ------
        InputError
            For conditions that lack a name, values of two types, or a condition that is the same everywhere.
        """
        kinds = dict(kinds or {})
        for number, one in enumerate(given):
            if not isinstance(one, Mapping) or not one or not all(isinstance(name, str) for name in one):
                raise InputError(f"conditions[{number}] must be a mapping of names to values, got {shown(one)}")
            if set(one) != set(given[0]):
                raise InputError(
                    f"conditions[{number}] must name {', '.join(given[0])}, as the first does, got {', '.join(one)}"
                )
        names = list(given[0]) if given else []
        unknown = sorted(set(kinds) - set(names))
        if unknown:
            raise InputError(f"features names the unknown condition {unknown[0]!r}; there are {', '.join(names)}")
        axes = tuple(_axis(name, [one[name] for one in given], kinds.get(name)) for name in names)
        distinct: list[dict[str, Value]] = []
        places = []
        for one in given:
            value = {axis.name: axis.check(one[axis.name]) for axis in axes}
            if value not in distinct:
                distinct.append(value)
            places.append(distinct.index(value))
        return cls(axes, tuple(distinct)), places

    @property
    def n_features(self) -> int:
        """K: numbers that stand for a condition."""
        return sum(axis.n_features for axis in self.axes)

    @property
    def names(self) -> list[str]:
        """What conditions are called."""
        return [axis.name for axis in self.axes]

    def check(self, condition: Condition) -> dict[str, Value]:
        """Return a condition with values of the right types, in the order of the axes.

        Raises
        ------
        InputError
            For a name that is missing or unknown, and a value that cannot be.
        """
        given: object = condition  # whatever a user hands in
        if not isinstance(given, Mapping) or set(given) != set(self.names):
            got = shown(given)
            if isinstance(given, Mapping):
                got = ", ".join(f"{name}={shown(value)}" for name, value in given.items()) or "nothing"
            raise InputError(f"a condition of this model is a value for each of {', '.join(self.names)}; got {got}")
        return {axis.name: axis.check(condition[axis.name]) for axis in self.axes}

    def features(self, condition: Condition) -> FloatArray:
        """Return phi (K,) of a condition."""
        checked = self.check(condition)
        return np.array([x for axis in self.axes for x in axis.features(checked[axis.name])])

    @property
    def categories(self) -> NDArray[np.bool_]:
        """Which features (K,) are those of categories."""
        return np.array([isinstance(axis, Category) for axis in self.axes for _ in range(axis.n_features)])

    def table(self) -> FloatArray:
        """Return phi (M, K) of the trained conditions."""
        return np.stack([self.features(one) for one in self.trained])

    def shares(self, condition: Condition) -> FloatArray:
        """Return how near the trained conditions are (M,), in shares of one: the inverse squared distances."""
        distance = ((self.table() - self.features(condition)) ** 2).sum(axis=1)
        near = 1.0 / np.maximum(distance, _SAME**2)
        return np.asarray(near / near.sum(), np.float64)

    def place(self, condition: Condition) -> int | None:
        """Return which of the trained conditions one is; None for another."""
        distance = np.abs(self.table() - self.features(condition)).max(axis=1)
        nearest = int(distance.argmin())
        return nearest if distance[nearest] < _SAME else None

    def describe(self, condition: Condition) -> list[str]:
        """Say in a line each where a condition lies among those that were trained."""
        checked = self.check(condition)
        outside = [
            line
            for axis in self.axes
            if isinstance(axis, Numeric) and (line := axis.outside(float(checked[axis.name])))
        ]
        if outside:
            return [f"warning: extrapolated: {line}; no data say whether rates go on as they did" for line in outside]
        seen = "which was trained" if self.place(checked) is not None else "where nothing was trained: interpolated"
        return [f"at {in_words(checked)}, {seen}"]


def in_words(condition: Condition) -> str:
    """Return a condition as ``temperature = 310, ligand = atp``."""
    return ", ".join(f"{k} = {v:g}" if isinstance(v, float) else f"{k} = {v}" for k, v in condition.items())


def _axis(name: str, values: Sequence[Any], kind: Kind | None) -> Axis:
    if kind is not None and kind not in get_args(Kind):
        raise InputError(f"features[{name!r}] must be one of {', '.join(get_args(Kind))}, got {shown(kind)}")
    if kind == "category" or (kind is None and all(isinstance(value, str) for value in values)):
        wrong = [value for value in values if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME]
        if wrong:
            raise InputError(f"condition {name} is a category, whose values are texts, got {shown(wrong[0])}")
        levels = tuple(sorted(set(values)))
        if len(levels) < 2:
            raise InputError(f"condition {name} is {levels[0]!r} everywhere, so it cannot be learnt; leave it out")
        return Category(name, levels)
    scale: Scale = ("inverse" if name.lower() == "temperature" else "linear") if kind is None else kind
    numbers = [_number(name, value, scale) for value in values]
    if max(numbers) - min(numbers) <= _SAME * abs(max(numbers)):
        raise InputError(f"condition {name} is {numbers[0]:g} everywhere, so it cannot be learnt; leave it out")
    # Over the values, however many frames each has: what is far from the others is not so by having few of them.
    scaled = np.array([_scaled(x, scale) for x in sorted(set(numbers))])
    return Numeric(name, scale, float(scaled.mean()), float(scaled.std()), min(numbers), max(numbers))


def _number(name: str, value: Any, scale: Scale) -> float:
    plain = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(plain, bool) or not isinstance(plain, (int, float)) or not abs(plain) <= sys.float_info.max:
        raise InputError(f"condition {name} must be a finite number, got {shown(value)}")
    if scale != "linear" and not plain > 0:
        raise InputError(f"condition {name} is {scale}, so it must be positive, got {plain}")
    return float(plain)


def _scaled(value: float, scale: Scale) -> float:
    return {"inverse": 1.0 / value if value else 0.0, "linear": value, "log": math.log(value) if value > 0 else 0.0}[
        scale
    ]
