"""Best-arm identification with prior means: which policy to try next, and how sure the pick is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_SAMPLES = 4_000
_PRIOR_FREEDOM = 4.0
"""Real returns that an imagined spread counts for in the spread of real returns."""
_GAP_FREEDOM = 2.0
"""Policies that the assumed size of the world's errors counts for beside those seen."""
_GAP_SHARE = 0.1
"""Assumed size of the world's error in a mean return, as a share of the range of imagined ones."""


@dataclass(frozen=True)
class Posterior:
    """What is known of the real mean returns, ``(policies,)`` each: Student's t of ``freedom`` degrees."""

    mean: np.ndarray
    scale: np.ndarray
    freedom: np.ndarray

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Mean returns that may be the real ones: ``(samples, policies)``."""
        return self.mean + self.scale * rng.standard_t(self.freedom, size=(_SAMPLES, len(self.mean)))


def posterior(imagined: Sequence[np.ndarray], real: Sequence[Sequence[float]]) -> Posterior:
    """Real mean returns given imagined ones and the real returns seen so far.

    Real mean returns are imagined ones plus an error of the world, normal over policies, whose mean and
    spread are estimated from the policies that were tried: shrinkage, as strong as the world turns out right.
    The more real episodes a policy has, the less its imagined return counts. Imagined returns from the start
    states of the real episodes are a control variate, with one coefficient for all policies.

    Args:
        imagined: the imagined returns of each policy, from the start states of its real episodes first.
        real: the real returns of each policy; none of some.
    """
    imagined_mean = np.array([each.mean() for each in imagined])
    imagined_std = np.array([each.std(ddof=1) for each in imagined])
    drawn = imagined_std**2 / [len(each) for each in imagined]  # what few imagined episodes leave open
    slope = _slope(imagined, real)
    real = [
        np.asarray(each) - slope * (own[: len(each)] - own.mean())
        for own, each in zip(imagined, real, strict=True)
    ]
    count = np.array([len(each) for each in real], np.float64)
    tried = count > 0
    mean = np.array([np.mean(each) if len(each) else 0.0 for each in real])
    squares = np.array([np.var(each) * len(each) if len(each) else 0.0 for each in real])
    freedom = _PRIOR_FREEDOM + np.maximum(count - 1, 0)
    spread = (_PRIOR_FREEDOM * imagined_std**2 + squares) / freedom  # of one real return
    noise = spread / np.maximum(count, 1)
    assumed = (_GAP_SHARE * max(float(np.ptp(imagined_mean)), 1e-9)) ** 2
    bias, size = 0.0, assumed
    for _ in range(10 if tried.any() else 0):
        weight = 1 / (size + drawn[tried] + noise[tried])
        gap = mean[tried] - imagined_mean[tried]
        bias = float((weight * gap).sum() / (weight.sum() + 1 / assumed))
        excess = np.maximum((gap - bias) ** 2 - drawn[tried] - noise[tried], 0.0)
        size = float((_GAP_FREEDOM * assumed + excess.sum()) / (_GAP_FREEDOM + tried.sum()))
    prior = imagined_mean + bias
    precision = 1 / (size + drawn) + np.where(tried, 1 / noise.clip(1e-12), 0.0)
    centre = (prior / (size + drawn) + np.where(tried, mean / noise.clip(1e-12), 0.0)) / precision
    return Posterior(centre, precision**-0.5, np.where(tried, freedom, _GAP_FREEDOM + tried.sum()))


def _slope(imagined: Sequence[np.ndarray], real: Sequence[Sequence[float]]) -> float:
    """Slope of real on imagined returns from the same starts, within policies; shrunk while they are few."""
    product = square = freedom = 0.0
    for own, each in zip(imagined, real, strict=True):
        if len(each) > 1:
            centred = own[: len(each)] - own[: len(each)].mean()
            product += float(centred @ (np.asarray(each) - np.mean(each)))
            square += float(centred @ centred)
            freedom += len(each) - 1
    return min(max(product / square, 0.0), 1.0) * freedom / (freedom + 4) if square > 0 else 0.0


def spend(
    imagined: Mapping[str, np.ndarray],
    play: Callable[[str, int], float],
    budget: int,
    seed: int = 0,
) -> tuple[str, float, dict[str, list[float]]]:
    """Spend real episodes on the policies that may be best, and pick one.

    Each episode goes to the policy of the highest expected return or to the one that most likely beats it,
    whichever of the two is known less well (the leader and its challenger of EB-TC, arXiv:2206.05979).
    Policies that cannot be best any more are never a challenger.

    Args:
        imagined: imagined returns of each policy, at least ``budget``, from the start states of its real
            episodes first.
        play: the real return of a policy's ``i``-th real episode.
        budget: real episodes in all.
        seed: decides the draws from the posterior.

    Returns:
        The pick, the probability that it is the best, and the real returns of each policy.
    """
    names = list(imagined)
    expected = list(imagined.values())
    real: list[list[float]] = [[] for _ in names]
    for _ in range(budget):
        known = posterior(expected, real)
        leader = int(np.argmax(known.mean))
        lead = (known.mean[leader] - known.mean) / np.hypot(known.scale[leader], known.scale)
        lead[leader] = np.inf
        challenger = int(np.argmin(lead))
        arm = max(leader, challenger, key=lambda each: known.scale[each])
        real[arm].append(play(names[arm], len(real[arm])))
    found = posterior(expected, real)
    best = int(np.argmax(found.mean))
    sure = float((found.draw(np.random.default_rng(seed)).argmax(1) == best).mean())
    return names[best], sure, dict(zip(names, real, strict=True))
