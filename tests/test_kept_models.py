"""Markov models that a validation estimates once."""

import numpy as np
import pytest

from nanomd import kinetics
from nanomd.kinetics import markov


def test_validation_estimates_each_markov_model_once(monkeypatch):
    """Lags, yardstick and sources ask for the same ones; outside of a validation nothing is kept."""
    asked = []
    estimate = markov._estimate

    def counted(counts, lagtime):
        asked.append((counts.tobytes(), lagtime))
        return estimate(counts, lagtime)

    monkeypatch.setattr(markov, "_estimate", counted)
    counts = np.array([[90, 10], [10, 40]])
    with markov.kept_models():
        first = markov.estimate_markov_model(counts, 2)
        assert markov.estimate_markov_model(counts.astype(float), 2) is first
        assert markov.estimate_markov_model(counts, 3) is not first
        with pytest.raises(ValueError, match="read-only"):
            first.transition[0, 0] = 1
    assert len(asked) == 2
    assert markov.estimate_markov_model(counts, 2) is not first
    asked.clear()
    random = np.random.default_rng(0)
    walks = [np.cumsum(random.random(3000) < 0.02) % 2 for _ in range(3)]
    kinetics.validate(walks, lagtimes=[1, 5], lagtime=5, n_bootstrap=20)
    assert len(asked) == len(set(asked)) >= 2


def test_kept_models_are_bounded(monkeypatch):
    monkeypatch.setattr(markov, "_KEPT_BYTES", 8 * 4 * 2)  # two models of two states
    with markov.kept_models():
        models = [markov.estimate_markov_model(np.array([[9, k], [k, 4]]), 1) for k in (1, 2, 3)]
        assert markov.estimate_markov_model(np.array([[9, 3], [3, 4]]), 1) is models[2]
        assert markov.estimate_markov_model(np.array([[9, 1], [1, 4]]), 1) is not models[0]
