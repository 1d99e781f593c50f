"""Means of few real returns with intervals, sharpened by many imagined ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

_LEAST = 5
"""Real episodes without which the coefficient of the control variate cannot be estimated."""


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
    real: np.ndarray, imagined: np.ndarray, more: np.ndarray, *, level: float = 0.95
) -> Estimate:
    """Estimate the mean of real returns, imagined ones being a control variate (PPI++, arXiv:2311.01453).

    The estimate is ``mean(real - c * (imagined - mean(more)))``: an error of imagination that is the same
    from every start state cancels, so no bias of the world enters. The coefficient ``c`` is the one of least
    variance. With few real episodes a coefficient estimated from the very episodes that it corrects makes
    intervals too short; here each episode is corrected with the coefficient of the others (cross-fitting,
    leave-one-out), which keeps the estimate unbiased, and intervals use Student's t.

    Args:
        real: ``(n,)`` real returns of independent episodes.
        imagined: ``(n,)`` imagined returns from the same start states, single ones or means over draws.
        more: ``(m,)`` imagined returns from further start states of the same distribution. Without any, and
            with fewer than 5 real episodes, the real returns alone are used.
        level: of the confidence interval.

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
        return _estimate(real, 0.0, 0.0, count - 1, alone, level)
    coefficient = _without_each(real, imagined) / (1 + count / len(more))  # (n,)
    corrected = real - coefficient * (imagined - more.mean())
    used = float(coefficient.mean())
    of_more = used**2 * float(np.concatenate([imagined, more]).var(ddof=1)) / len(more)
    return _estimate(corrected, of_more, used, count - 2, alone, level)


def _without_each(real: np.ndarray, imagined: np.ndarray) -> np.ndarray:
    """Slopes ``(n,)`` of real on imagined returns, each over all episodes but one, at least 0."""
    count = len(real)
    sums = [values.sum() - values for values in (real, imagined, real * imagined, imagined**2)]
    mean_real, mean_imagined, product, square = (values / (count - 1) for values in sums)
    spread = square - mean_imagined**2
    slope = np.zeros(count)
    moving = spread > 1e-12 * np.maximum(square, 1e-300)
    np.divide(product - mean_real * mean_imagined, spread, out=slope, where=moving)
    return np.maximum(slope, 0.0)


def _estimate(
    values: np.ndarray, extra: float, coefficient: float, freedom: int, alone: float, level: float
) -> Estimate:
    """Mean and t interval of values; ``extra`` is variance that they all share."""
    mean = float(values.mean())
    variance = float(values.var(ddof=1)) / len(values) + extra
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * variance**0.5
    ratio = variance / alone if alone > 0 else 1.0
    return Estimate(mean, (mean - half, mean + half), variance, coefficient, ratio)


def mean_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of ``values`` ``(n,)``, with 2,000 resamples."""
    found = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=2_000, rng=np.random.default_rng(seed)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
