"""Kinetics of discrete trajectories, each value with a confidence interval and the number of events behind it."""

from __future__ import annotations

from nanomd.kinetics.compare import validate
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.leakage import Leakage, leakage
from nanomd.kinetics.passage_error import mfpt_error
from nanomd.kinetics.paths import PathTimes, transition_times
from nanomd.kinetics.processes import Processes, match_timescales
from nanomd.kinetics.quantities import ck_test, free_energies, implied_timescales, mfpt, pcca, populations, residence
from nanomd.kinetics.results import Cell, MfptError, SourceKinetics, ValidationResult, VerdictRow

__all__ = [
    "Cell",
    "Interval",
    "Leakage",
    "MfptError",
    "PathTimes",
    "Processes",
    "SourceKinetics",
    "ValidationResult",
    "VerdictRow",
    "ck_test",
    "free_energies",
    "implied_timescales",
    "leakage",
    "match_timescales",
    "mfpt",
    "mfpt_error",
    "pcca",
    "populations",
    "residence",
    "transition_times",
    "validate",
]
