"""Means of few real returns with intervals, sharpened by many imagined ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

_LEAST = 5
"""Real episodes without which the coefficient of the control variate cannot be estimated."""
_LARGEST = 1.5
"""Most that an imagined difference counts for; a world may vary less than the real env, but not by far."""
_WIDEST = 2.0
"""Most by which the variance of imagined returns may exceed that of the real ones and still count."""
_SHAPE = 50
"""Imagined returns without which the shape of their distribution is unknown."""
_RESAMPLES = 2_000


@dataclass(frozen=True)
class Estimate:
    """A mean real return from real and imagined episodes together.

    Attributes:
        mean: unbiased estimate of the real mean.
        interval: confidence interval of it.
        variance: estimated variance of ``mean``.
        coefficient: how much of the imagined difference was subtracted; 0 ignores imagination.
        variance_ratio: ``variance`` relative to that of the mean of the real returns alone.
    """

    mean: float
    interval: tuple[float, float]
    variance: float
    coefficient: float
    variance_ratio: float


def prediction_powered(
    real: np.ndarray, imagined: np.ndarray, more: np.ndarray, *, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Estimate the mean of real returns, imagined ones being a control variate (PPI++, arXiv:2311.01453).

    The estimate is ``mean(real - c * (imagined - mean(more)))``: an error of imagination that is the same
    from every start state cancels, so no bias of the world enters. The coefficient ``c`` is the one of least
    variance. With few real episodes a coefficient estimated from the very episodes that it corrects makes
    intervals too short; here each episode is corrected with the coefficient of the others (cross-fitting,
    leave-one-out), which keeps the estimate unbiased.

    Returns are often skewed by rare events, such as a fall, that few real episodes need not show. The
    interval is therefore a bootstrap-t one with critical values from imagination, where such events show: of
    the t statistic of as many imagined returns, resampled. They are never less than those of Student's t.

    Args:
        real: ``(n,)`` real returns of independent episodes.
        imagined: ``(n,)`` imagined returns from the same start states, single ones or means over draws.
        more: ``(m,)`` imagined returns from further start states of the same distribution. Without any, and
            with fewer than 5 real episodes, the real returns alone are used.
        level: of the confidence interval.
        seed: decides the resampling.

    Raises:
        ValueError: shapes that do not match, fewer than 2 real returns, or a value that is not finite.
    """
    real, imagined, more = (np.asarray(values, np.float64) for values in (real, imagined, more))
    count = len(real)
    if real.ndim != 1 or real.shape != imagined.shape or more.ndim != 1:
        raise ValueError(f"real and imagined returns must pair up, got {real.shape} and {imagined.shape}")
    if count < 2:
        raise ValueError(f"an interval needs at least 2 real returns, got {count}")
    if not all(np.isfinite(values).all() for values in (real, imagined, more)):
        raise ValueError("returns must be finite")
    alone = float(real.var(ddof=1)) / count
    if count < _LEAST or not len(more):
        critical = stats.t.ppf((1 + level) / 2, count - 1)
        return _estimate(real, 0.0, 0.0, alone, (-critical, critical))
    slopes = _without_each(real, imagined, float(more.var()) / 2)
    coefficient = (slopes / (1 + count / len(more))).clip(0.0, _LARGEST)  # (n,)
    corrected = real - coefficient * (imagined - more.mean())
    used = float(coefficient.mean())
    shared = used**2 * float(np.concatenate([imagined, more]).var(ddof=1)) / len(more)
    left = float(corrected.var(ddof=1)) / count / alone if alone > 0 else 1.0
    missed = min(float(more.var()) / count / alone, _WIDEST) if alone > 0 else 1.0
    wider = (1 + max(missed - 1, 0.0) / count) ** 0.5
    low, high = _critical(more, count, min(left, 1.0), level, seed)
    return _estimate(corrected, shared, used, alone, (wider * low, wider * high))


def _without_each(real: np.ndarray, imagined: np.ndarray, spread: float) -> np.ndarray:
    """Slopes ``(n,)`` of real on imagined returns, each over all episodes but one.

    Imagined returns whose variance is less than ``spread`` count as if it were ``spread``: their slope is the
    least certain.
    """
    sums = [values.sum() - values for values in (real, imagined, real * imagined, imagined**2)]
    mean_real, mean_imagined, product, square = (values / (len(real) - 1) for values in sums)
    variance = np.maximum(square - mean_imagined**2, spread)
    slope = np.zeros(len(real))
    moving = variance > 1e-12 * np.maximum(square, 1e-300)
    np.divide(product - mean_real * mean_imagined, variance, out=slope, where=moving)
    return slope


def _critical(more: np.ndarray, count: int, left: float, level: float, seed: int) -> tuple[float, float]:
    """Lower and upper critical value of the t statistic of ``count`` returns.

    ``left`` is the share of their variance that the control variate left: what it took away was what
    imagination knows the shape of, so the less is left, the nearer are the values to those of Student's t.
    """
    student = float(stats.t.ppf((1 + level) / 2, count - 2))  # the slope costs a degree of freedom
    if len(more) < _SHAPE:
        return -student, student
    rng = np.random.default_rng(seed)
    drawn = more[rng.integers(len(more), size=(_RESAMPLES, count))]
    error = drawn.std(1, ddof=1) / count**0.5
    statistic = np.zeros(_RESAMPLES)
    np.divide(drawn.mean(1) - more.mean(), error, out=statistic, where=error > 0)
    low, high = np.quantile(statistic, [(1 - level) / 2, (1 + level) / 2])
    beyond = max(-student - float(low), 0.0), max(float(high) - student, 0.0)
    return -student - left * beyond[0], student + left * beyond[1]


def _estimate(
    values: np.ndarray, shared: float, coefficient: float, alone: float, critical: tuple[float, float]
) -> Estimate:
    """Mean and t interval of values; ``shared`` is variance that all of them have in common."""
    mean = float(values.mean())
    variance = float(values.var(ddof=1)) / len(values) + shared
    low, high = (mean - end * variance**0.5 for end in reversed(critical))
    return Estimate(mean, (low, high), variance, coefficient, variance / alone if alone > 0 else 1.0)


def mean_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of ``values`` ``(n,)``, with 2,000 resamples."""
    found = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=2_000, rng=np.random.default_rng(seed)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def interquartile_mean(scores: np.ndarray, axis: int | None = None) -> Any:
    """Mean of the middle half of the scores, outliers left out on both sides (arXiv:2108.13264)."""
    return stats.trim_mean(scores, 0.25, axis=axis)


def stratified_interval(
    scores: Sequence[np.ndarray], resamples: int = 2_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the interquartile mean of all tasks' scores.

    It is the interval of Agarwal et al. 2021, as rliable computes it.

    Args:
        scores: the runs of every task, an array a task; runs are resampled within their task.
        resamples: how many times.
        level: of the interval.
    """
    rng = np.random.default_rng(0)
    drawn = [task[rng.integers(len(task), size=(resamples, len(task)))] for task in map(np.asarray, scores)]
    found = interquartile_mean(np.concatenate(drawn, axis=1), axis=1)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
