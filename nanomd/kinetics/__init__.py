"""Kinetics of discrete trajectories, each value with a confidence interval and the number of events behind it."""

from __future__ import annotations

from nanomd.kinetics.compare import validate
from nanomd.kinetics.quantities import ck_test, free_energies, implied_timescales, mfpt, pcca, populations, residence
from nanomd.kinetics.results import Cell, Interval, SourceKinetics, ValidationResult, VerdictRow

__all__ = [
    "Cell",
    "Interval",
    "SourceKinetics",
    "ValidationResult",
    "VerdictRow",
    "ck_test",
    "free_energies",
    "implied_timescales",
    "mfpt",
    "pcca",
    "populations",
    "residence",
    "validate",
]
