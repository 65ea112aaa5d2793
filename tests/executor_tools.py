"""What tests of executors share: workers that are libraries, their warnings, and Ray's slow start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nanomd.rollout.executors import Executor

LIBRARY = {"local": None, "ray": "ray", "dask": "distributed", "slurm": "submitit"}
ADDRESS = {"slurm": "local"}  # submitit's stand-in for SLURM: processes of this machine

# Of the libraries, not of ours.
their_warnings = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning",
    "ignore::UserWarning",
    "ignore::FutureWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


def engine(name: str, **options: object) -> Executor:
    """Return an executor of this machine, or skip the test where its library is missing."""
    if LIBRARY[name] is not None:
        pytest.importorskip(LIBRARY[name])
    return Executor(name=name, address=ADDRESS.get(name), **options)


@contextmanager
def ray_may_be_late() -> Iterator[None]:
    """Skip the test if Ray, which allows itself 30 s, does not start in time."""
    try:
        yield
    except Exception as error:
        if "timed out during startup" in str(error):
            pytest.skip("Ray did not start on this busy machine")
        raise
