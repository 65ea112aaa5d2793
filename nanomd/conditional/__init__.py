"""One model for several ensembles: temperatures, ligands and mutants share their weights and borrow from each other."""

from __future__ import annotations

from nanomd.conditional.estimator import ConditionalGPTEstimator
from nanomd.conditional.model import ConditionalModel

__all__ = ["ConditionalGPTEstimator", "ConditionalModel"]
