"""Intervals: against ppi-python and scipy, and coverage by simulation where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from wmgym.evaluation.intervals import mean_interval, prediction_powered


def world_and_truth(
    rng: np.random.Generator, real: int, more: int, correlation: float, shape: str = "normal"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Real returns of mean 3, imagined ones of mean 2 from the same and from further starts."""
    x = rng.normal(size=real + more) if shape == "normal" else rng.gamma(4, 0.5, size=real + more) - 2
    noise = rng.normal(size=real) * (1 / correlation**2 - 1) ** 0.5 if correlation else 0
    truth = 3 + x[:real] + noise if correlation else 3 + rng.normal(size=real)
    return truth, 2 + 0.8 * x[:real], 2 + 0.8 * x[real:]


def test_ppi_python_agrees() -> None:
    """Numbers that ppi-python 0.2.3 gave for these draws: ``ppi_mean_ci(..., alpha=0.05)``, tuned.

    It is no dependency of the tests since it needs numba; on many episodes its normal quantiles and its
    coefficient, which is estimated once and not left-one-out, make no difference.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=2_000)
    real = 3 + x + 0.5 * rng.normal(size=2_000)
    imagined = 2 + 0.8 * x + 0.3 * rng.normal(size=2_000)
    more = 2 + 0.8 * rng.normal(size=20_000) + 0.3 * rng.normal(size=20_000)
    found = prediction_powered(real, imagined, more)
    assert found.mean == pytest.approx(2.98791329, abs=1e-3)
    assert found.interval == pytest.approx((2.95843898, 3.01738759), abs=4e-3)


def test_without_further_starts_it_is_the_t_interval() -> None:
    real = np.random.default_rng(0).normal(3, 2, 10)
    ends = stats.t.interval(0.95, 9, real.mean(), stats.sem(real))
    for imagined, more in ((real, np.zeros(0)), (real, real)):
        found = prediction_powered(real, imagined, more)
        assert (found.coefficient == 0) == (len(more) == 0)
    found = prediction_powered(real, real, np.zeros(0))
    assert found.interval == pytest.approx(ends)
    assert (found.mean, found.variance_ratio) == (pytest.approx(real.mean()), 1.0)
    assert prediction_powered(real[:4], real[:4], real).coefficient == 0


@pytest.mark.parametrize("correlation", [0.0, pytest.param(0.5, marks=pytest.mark.slow), 0.95])
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_it_covers_the_mean_as_often_as_it_says(correlation: float, shape: str) -> None:
    rng, inside, means = np.random.default_rng(1), [], []
    for _ in range(1_000):
        found = prediction_powered(*world_and_truth(rng, 10, 1_000, correlation, shape))
        inside.append(found.interval[0] <= 3 <= found.interval[1])
        means.append(found.mean)
    assert 0.93 <= np.mean(inside) <= (0.97 if shape == "normal" else 0.98)  # safe where skew is averaged out
    assert abs(np.mean(means) - 3) < 4 * np.std(means) / 1_000**0.5  # unbiased


def test_a_rare_fall_that_imagination_knows_of_is_allowed_for() -> None:
    """One episode in twelve falls: most samples of 10 show it once or never, and a t interval misses it."""
    rng, inside = np.random.default_rng(1), []

    def returns(count: int, level: float) -> np.ndarray:
        return level * rng.binomial(1, 11 / 12, size=count) + rng.normal(size=count) * 0.05 * level

    for _ in range(500):
        real = returns(10, 1_000.0)
        found = prediction_powered(real, returns(10, 800.0), returns(1_000, 800.0))
        ends = (found.interval, stats.t.interval(0.95, 9, real.mean(), stats.sem(real)))
        inside.append([low <= 1_000 * 11 / 12 <= high for low, high in ends])
    informed, plain = np.mean(inside, 0)
    assert plain < 0.7
    assert informed > 0.9


def test_real_returns_that_vary_less_than_imagined_ones_may_have_missed_an_event() -> None:
    """Imagination counts as one more degree of freedom of the variance, with at most twice the real one."""
    rng = np.random.default_rng(6)
    real, more = rng.normal(size=10), rng.normal(size=5_000)
    real, more = (real - real.mean()) / real.std(ddof=1), (more - more.mean()) / more.std()
    width = [
        float(np.ptp(prediction_powered(real, np.zeros(10), spread * more).interval))
        for spread in (0.5, 1.0, 1.5**0.5, 10.0)
    ]
    assert np.array(width) / width[0] == pytest.approx([1, 1, 1.05**0.5, 1.1**0.5], rel=1e-6)


def test_variance_falls_with_correlation() -> None:
    """With a correlation of r, n real episodes and no end of imagined ones it is 1 - r^2 at best."""
    rng = np.random.default_rng(2)
    for correlation, most in ((0.0, 1.25), (0.5, 0.95), (0.95, 0.17)):
        draws = [world_and_truth(rng, 10, 1_000, correlation) for _ in range(500)]
        means = [prediction_powered(*each).mean for each in draws]
        ratio = np.var(means) / np.var([real.mean() for real, *_ in draws])
        assert 0.9 * (1 - correlation**2) < ratio < most


def test_a_perfect_world_leaves_no_doubt() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=1_010)
    found = prediction_powered(x[:10] + 5, x[:10], x[10:])
    assert found.coefficient == pytest.approx(1000 / 1010)
    assert found.variance_ratio < 0.05


def test_a_biased_world_does_not_matter() -> None:
    rng = np.random.default_rng(4)
    real, imagined, more = world_and_truth(rng, 10, 200, 0.8)
    shifted = prediction_powered(real, imagined + 1e4, more + 1e4)
    assert shifted.mean == pytest.approx(prediction_powered(real, imagined, more).mean, abs=1e-4)


def test_a_world_that_gets_it_backwards_is_ignored() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=220)
    found = prediction_powered(x[:20], -x[:20], -x[20:])
    assert found.coefficient == 0
    assert found.mean == pytest.approx(x[:20].mean())


@pytest.mark.parametrize("real", [[5.0] * 10, [0.0] * 10, [1e100, -1e100] * 5])
@pytest.mark.parametrize("imagined", [[5.0] * 10, list(range(10))])
def test_odd_samples(real: list[float], imagined: list[float]) -> None:
    found = prediction_powered(np.array(real), np.array(imagined, float), np.arange(50.0))
    assert np.isfinite([found.mean, *found.interval, found.variance_ratio]).all()
    assert found.interval[0] <= found.mean <= found.interval[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (([1.0], [1.0], []), "at least 2"),
        (([1.0, 2.0], [1.0], []), "pair up"),
        (([1.0, np.nan], [1.0, 2.0], []), "finite"),
    ],
)
def test_bad_input(given: tuple[list[float], ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        prediction_powered(*map(np.array, given))


# Bootstrap


def test_interval_of_a_normal_sample() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = mean_interval(values, 0)
    half = 1.96 * values.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert mean_interval(values, 0) == (low, high)


def test_interval_covers_the_mean() -> None:
    rng = np.random.default_rng(0)
    inside = []
    for seed in range(200):
        low, high = mean_interval(rng.exponential(size=60), seed)
        inside.append(low <= 1.0 <= high)
    assert 0.88 < np.mean(inside) < 0.98


@pytest.mark.parametrize("values", [[5.0] * 4, [0.0, 0.0], [1.0, 2.0], [1e100, -1e100]])
def test_interval_of_odd_samples(values: list[float]) -> None:
    low, high = mean_interval(np.array(values), 0)
    assert min(values) <= low <= high <= max(values)
