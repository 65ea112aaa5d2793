"""Experiments in the loop: a learnt model changed as little as possible to meet what was measured (maximum caliber)."""

from __future__ import annotations

from nanomd.caliber.observables import karplus, state_averages
from nanomd.caliber.result import Constrained, Row
from nanomd.caliber.reweight import constrain
from nanomd.caliber.wishes import Average, Population, Rate, Relaxation

__all__ = [
    "Average",
    "Constrained",
    "Population",
    "Rate",
    "Relaxation",
    "Row",
    "constrain",
    "karplus",
    "state_averages",
]
