"""Scoring rules against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from wmgym.calibration.scoring_rules import coverage, crps, energy_score, interval_score, pit

RNG = np.random.default_rng(0)


def gaussian_crps(mean: float, std: float, truth: np.ndarray) -> np.ndarray:
    """Closed form (Gneiting & Raftery 2007, equation 21)."""
    z = (truth - mean) / std
    return std * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (2.0, 0.3), (-1.0, 5.0)])
def test_crps_of_a_gaussian(mean: float, std: float) -> None:
    truth = np.linspace(-3, 3, 7)[:, None]
    samples = RNG.normal(mean, std, (20_000, 7, 1))
    np.testing.assert_allclose(crps(samples, truth), gaussian_crps(mean, std, truth), atol=0.03 * std)


def test_crps_is_fair_for_few_draws() -> None:
    """On average over draws and truths of one distribution it is what infinitely many draws would give."""
    truth = RNG.normal(size=(100_000, 1))
    for count in (2, 5):
        samples = RNG.normal(size=(count, 100_000, 1))
        assert crps(samples, truth).mean() == pytest.approx(1 / np.sqrt(np.pi), abs=0.01)


def test_crps_and_energy_score_are_one_in_one_dimension() -> None:
    samples, truth = RNG.normal(size=(30, 50, 1)), RNG.normal(size=(50, 1))
    np.testing.assert_allclose(energy_score(samples, truth), crps(samples, truth)[:, 0], atol=1e-12)
    brute = np.abs(samples - truth).mean(0) - np.abs(samples - samples[:, None]).sum((0, 1)) / (2 * 30 * 29)
    np.testing.assert_allclose(crps(samples, truth), brute, atol=1e-12)


def test_energy_score_of_a_gaussian_at_its_mean() -> None:
    """E|X| - E|X - X'| / 2 in d dimensions, by the mean of a chi distribution."""
    for d in (2, 5):
        mean_norm = np.sqrt(2) * special.gamma((d + 1) / 2) / special.gamma(d / 2)
        samples = RNG.normal(size=(400, 60, d))
        expected = mean_norm * (1 - np.sqrt(2) / 2)
        assert energy_score(samples, np.zeros((60, d))).mean() == pytest.approx(expected, rel=0.02)


def test_the_true_distribution_scores_best() -> None:
    truth = RNG.normal(size=(4_000, 3))
    found = {
        (shift, scale): (
            crps(samples := RNG.normal(shift, scale, (40, 4_000, 3)), truth).mean(),
            energy_score(samples, truth).mean(),
        )
        for shift, scale in ((0.0, 1.0), (0.5, 1.0), (0.0, 0.5), (0.0, 2.0))
    }
    for other in ((0.5, 1.0), (0.0, 0.5), (0.0, 2.0)):
        assert found[0.0, 1.0][0] < found[other][0]
        assert found[0.0, 1.0][1] < found[other][1]
    scores = {
        width: interval_score(np.full(truth.shape, -width), np.full(truth.shape, width), truth, 0.9).mean()
        for width in (1.0, 1.6449, 2.5)
    }
    assert min(scores, key=lambda width: scores[width]) == 1.6449


def test_pit_is_uniform_for_a_calibrated_forecast_and_not_for_a_narrow_one() -> None:
    truth = RNG.normal(size=(3_000, 1))
    for scale, calibrated in ((1.0, True), (0.5, False)):
        ranks = pit(RNG.normal(0, scale, (30, 3_000, 1)), truth, np.random.default_rng(1)).ravel()
        assert (stats.kstest(ranks, "uniform").pvalue > 0.01) == calibrated
        assert ((ranks >= 0) & (ranks <= 1)).all()
    constant = pit(np.zeros((9, 2_000, 1)), np.zeros((2_000, 1)), np.random.default_rng(2))
    assert stats.kstest(constant.ravel(), "uniform").pvalue > 0.01  # ties are broken evenly


def test_coverage_counts_what_is_there() -> None:
    error = np.array([[0.5, -2.0], [np.nan, 1.0]])
    assert coverage(error, np.array([1.0, 1.5])) == pytest.approx(2 / 3)
    assert coverage(RNG.normal(size=100_000), np.float64(1.0)) == pytest.approx(0.6827, abs=0.005)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="2 draws"):
        crps(np.zeros((1, 3)), np.zeros(3))
    with pytest.raises(ValueError, match="level"):
        interval_score(np.zeros(1), np.ones(1), np.zeros(1), 1.0)
