"""Results as plain JSON and back: every number, null for what is undefined, and one line for what does not fit."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from nanomd.base.plain import from_plain, to_plain


@dataclass
class Inner:
    number: float
    numbers: NDArray[np.float64]


@dataclass
class Outer:
    name: str
    labels: NDArray[np.int64]
    parts: dict[str, Inner]
    rows: list[Inner]
    perhaps: Inner | None = None
    pair: tuple[int, int] = (-1, -1)
    more: list[str] = field(default_factory=list)


def made() -> Outer:
    inner = Inner(math.nan, np.array([[1.5, np.nan], [np.inf, -2.0]]))
    return Outer("x", np.array([3, -1]), {"a": inner}, [inner, inner], inner, (2, 5))


def test_every_number_comes_back() -> None:
    text = json.dumps(to_plain(made()), allow_nan=False)
    back = from_plain(json.loads(text), Outer)
    assert back.labels.dtype == np.int64 and back.labels.tolist() == [3, -1]
    assert back.pair == (2, 5) and back.more == []
    for inner in (back.parts["a"], *back.rows, back.perhaps):
        assert inner is not None and math.isnan(inner.number)
        np.testing.assert_array_equal(inner.numbers, [[1.5, np.nan], [np.nan, -2.0]])
    assert from_plain({**json.loads(text), "perhaps": None}, Outer).perhaps is None


def test_digits() -> None:
    assert to_plain([1 / 3, np.float64(2 / 3)], digits=4) == [0.3333, 0.6667]
    assert to_plain(1 / 3) == 1 / 3


@pytest.mark.parametrize(
    "change",
    [{"name": 3}, {"labels": ["a"]}, {"labels": {"a": 1}}, {"parts": []}, {"rows": [{"number": 1.0}]}, {"name": None}],
)
def test_what_does_not_fit_is_one_line(change: dict[str, object]) -> None:
    with pytest.raises(ValueError) as caught:
        from_plain({**to_plain(made()), **change}, Outer)
    assert "\n" not in str(caught.value)
