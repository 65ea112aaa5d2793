"""The sampler draws from the right distribution, rare states included."""

import numpy as np
import pytest
from scipy import stats

from nanomd import _native


def test_philox_known_answers():
    """Random123's vectors for philox4x32-10."""
    assert _native.philox(0, 0, 0) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    ones = 2**64 - 1
    assert _native.philox(ones, ones, ones) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    pi = (0x299F31D0A4093822, 0x85A308D3243F6A88, 0x0370734413198A2E)
    assert _native.philox(*pi) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)
    high, low = _native.philox(3, 4, 5)[:2]
    assert _native.rollout_uniform(3, 4, 5) == ((high << 32 | low) >> 11) / 2**53


def test_uniforms_are_uniform_and_uncorrelated():
    u = np.array([[_native.rollout_uniform(11, s, g) for s in range(3000)] for g in (0, 1, 2**40)])
    for row in u:
        assert stats.kstest(row, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(row[:-1], row[1:])[0, 1]) < 0.08
    assert np.abs(np.corrcoef(u) - np.eye(3)).max() < 0.08


@pytest.mark.parametrize("isa", _native.available_isas())
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_draws_follow_the_distribution(isa, temperature):
    logits = np.random.default_rng(1).normal(0, 2, 100).astype(np.float32)
    p = np.exp(logits.astype(np.float64) / temperature)
    p /= p.sum()
    n = 4_000_000
    counts = _native.sample_counts(logits, n, seed=5, temperature=temperature, isa=isa)
    assert counts.sum() == n
    assert stats.chisquare(counts[p * n > 5], p[p * n > 5] / p[p * n > 5].sum() * counts[p * n > 5].sum()).pvalue > 1e-4


def test_rare_states_come_at_their_rate():
    """Thirty states of p = 1e-6 in 6e7 draws: 1800 events, so a factor of 1.3 would be thirteen standard deviations."""
    p = np.full(34, 1e-6)
    p[[3, 12, 20, 33]] = (1 - 30e-6) / 4
    n = 60_000_000
    counts = _native.sample_counts(np.log(p).astype(np.float32), n, seed=2)
    rare = np.delete(counts, [3, 12, 20, 33])
    assert abs(rare.sum() - 1800) < 4.5 * np.sqrt(1800)
    assert stats.chisquare(rare).pvalue > 1e-4
    assert stats.chisquare(counts, p / p.sum() * n).pvalue > 1e-4


def test_impossible_states_never_come():
    logits = np.full(40, -200.0, np.float32)
    logits[[7, 30]] = 0.0
    counts = _native.sample_counts(logits, 200_000)
    assert counts[[7, 30]].sum() == 200_000 and (counts[[7, 30]] > 99_000).all()
