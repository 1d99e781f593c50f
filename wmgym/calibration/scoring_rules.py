"""Proper scoring rules: how good a stated uncertainty is, by what then happened.

Pure functions of NumPy arrays. ``samples`` are draws ``(m, ..., d)`` of a forecast, ``truth`` ``(..., d)``. A
rule is proper where no other forecast than the true distribution does better on average (Gneiting & Raftery
2007, doi:10.1198/016214506000001437). Lower is better, in the unit of the data.
"""

from __future__ import annotations

import numpy as np


def coverage(error: np.ndarray, half_width: np.ndarray) -> float:
    """Share of errors within their bounds, over all entries that are not NaN."""
    error, half_width = np.broadcast_arrays(np.abs(error), half_width)
    there = ~np.isnan(error)
    return float((error[there] <= half_width[there]).mean())


def pit(samples: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Probability integral transform ``(..., d)``: where the truth ranks among the draws, in [0, 1].

    Uniform for a calibrated forecast; ties, and the gap that the truth falls into, are broken at random.
    """
    below, equal = (samples < truth).sum(0), (samples == truth).sum(0)
    rank: np.ndarray = (below + rng.random(truth.shape) * (equal + 1)) / (len(samples) + 1)
    return rank


def crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score ``(..., d)``, one dimension at a time.

    The fair estimator E|X - y| - E|X - X'| / 2 over pairs of different draws (Ferro 2014,
    doi:10.1002/qj.2270), which does not reward forecasts for few draws.
    """
    count = _draws(samples)
    ordered = np.sort(samples, axis=0)
    rank = np.arange(1, count + 1).reshape(-1, *[1] * truth.ndim)
    between = (2 * rank - count - 1) * ordered  # sums to half of all absolute differences of pairs
    score: np.ndarray = np.abs(samples - truth).mean(0) - between.sum(0) / (count * (count - 1))
    return score


def energy_score(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Energy score ``(...)`` of whole vectors: the CRPS with Euclidean distances, fair as well."""
    count = _draws(samples)
    total = np.zeros(truth.shape[:-1])
    for shift in range(1, count):  # every pair of different draws, without an array of all of them
        total += np.linalg.norm(samples[shift:] - samples[:-shift], axis=-1).sum(0)
    score: np.ndarray = np.linalg.norm(samples - truth, axis=-1).mean(0) - total / (count * (count - 1))
    return score


def interval_score(low: np.ndarray, high: np.ndarray, truth: np.ndarray, level: float) -> np.ndarray:
    """Width of a central interval, and what it misses by times 2 / (1 - level)."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    missed = np.maximum(low - truth, 0) + np.maximum(truth - high, 0)
    score: np.ndarray = (high - low) + 2 / (1 - level) * missed
    return score


def _draws(samples: np.ndarray) -> int:
    if len(samples) < 2:
        raise ValueError(f"a spread needs at least 2 draws, got {len(samples)}")
    return len(samples)
