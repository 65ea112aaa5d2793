"""The examples in docstrings run, and give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import nanomd


def modules_with_examples() -> list[str]:
    found = []
    folder = Path(nanomd.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        if ">>> " in file.read_text(encoding="utf-8"):
            found.append(".".join(("nanomd", *file.relative_to(folder).with_suffix("").parts)))
    return [name.removesuffix(".__init__") for name in found]


MODULES = modules_with_examples()


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0 and result.failed == 0


def test_there_are_examples_of_the_public_face() -> None:
    assert {"nanomd.estimator", "nanomd.training.gpt_model", "nanomd.model.network"} <= set(MODULES)
