"""Rare events: rates far below what a rollout sees, by weighted ensembles and by adaptive multilevel splitting."""

from __future__ import annotations

from nanomd.rare.paths import ReactivePaths
from nanomd.rare.result import RareEvents
from nanomd.rare.splitting import Splitting
from nanomd.rare.weighted_ensemble import WeightedEnsemble

__all__ = ["RareEvents", "ReactivePaths", "Splitting", "WeightedEnsemble"]
