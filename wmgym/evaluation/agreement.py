"""How well imagined returns rank policies, judged by real ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from wmgym.io.arguments import whole_number
from wmgym.io.schema import STRICT, Count, Interval

LEAST = 3
"""Policies without which there is no agreement to speak of: the correlation of two points is 1 or -1."""

_RESAMPLES = 2_000
_PAIRS = 10_000_000  # of policies, over all resamples that are in memory at once
_CHECKPOINT = re.compile(r"(.+?)[-_ ]?\d[\d,]*(?:\.\d+)?(?:[km]|[-_ ]?(?:real[-_ ])?steps)(?:[-_ ].*)?", re.I)


@dataclass(frozen=True)
class Statistic:
    """A number computed over policies, and how far it depends on which ones these are.

    Attributes:
        value: over all policies.
        interval: 95 % percentile bootstrap interval, policies resampled.
        drop_one: its smallest and largest value with any one policy left out.
    """

    __pydantic_config__ = STRICT

    value: float
    interval: Interval
    drop_one: Interval

    def __str__(self) -> str:
        """Value, interval and drop-one range."""
        ends = (*self.interval, *self.drop_one)
        return "{:.3f} [{:.3f}, {:.3f}], drop-one {:.3f} to {:.3f}".format(self.value, *ends)


@dataclass(frozen=True)
class Agreement:
    """Real beside imagined mean returns over policies.

    Returns are in shares of ``scale``, the range of real mean returns, so 0.02 is 2 % of the range.

    Attributes:
        policies: number of policies.
        lineages: how many of them are independent; checkpoints of one training run, and copies, count once.
        pearson: linear correlation of the mean returns; correlations are 0 where one side is constant.
        spearman: correlation of their ranks.
        kendall: Kendall's tau-b.
        mmrv: mean maximum rank violation (SIMPLER, arXiv:2405.05941): for each policy, the largest difference
            of real returns to a policy that imagination puts on the other side of it; mean over policies. 0
            is a perfect ranking.
        pairwise_accuracy: share of pairs that both order alike; pairs of equal real returns do not count,
            and a tie in imagination counts one half.
        regret_at_1: real return lost by deploying the policy with the best imagined return.
        regret_at_3: real return lost by deploying the best of the three with the best imagined returns.
        bias: mean imagined minus real return; positive is optimistic.
        absolute_error: mean absolute difference of imagined and real return.
    """

    __pydantic_config__ = STRICT

    policies: Count
    lineages: Count
    pearson: Statistic
    spearman: Statistic
    kendall: Statistic
    mmrv: Statistic
    pairwise_accuracy: Statistic
    regret_at_1: Statistic
    regret_at_3: Statistic
    bias: Statistic
    absolute_error: Statistic

    def __str__(self) -> str:
        """One line for each statistic."""
        names = [name for name in self.__dataclass_fields__ if name not in ("policies", "lineages")]
        lines = [f"{name.replace('_', ' ')}: {getattr(self, name)}" for name in names]
        return "\n".join([f"{self.policies} policies, {self.lineages} independent", *lines])


def agreement(
    real: Sequence[float] | np.ndarray,
    imagined: Sequence[float] | np.ndarray,
    *,
    scale: float | None = None,
    lineages: int | None = None,
    seed: int = 0,
) -> Agreement:
    """Compare the real and imagined mean returns of several policies.

    Args:
        real: ``(policies,)`` real mean returns.
        imagined: ``(policies,)`` imagined mean returns, in the same order.
        scale: the return that counts as 1; None takes the range of ``real``.
        lineages: how many of the policies are independent; None takes all of them.
        seed: decides the bootstrap.

    Raises:
        ValueError: shapes that do not match, fewer than 3 policies, a value that is not finite, or a seed
            that is no whole number.
    """
    pairs = [np.asarray(side, np.float64) for side in (real, imagined)]
    if pairs[0].ndim != 1 or pairs[0].shape != pairs[1].shape:
        raise ValueError(f"one real and one imagined mean for each policy, got {[p.shape for p in pairs]}")
    count = len(pairs[0])
    if count < LEAST:
        raise ValueError(f"agreement needs at least {LEAST} policies, got {count}")
    if not all(np.isfinite(side).all() for side in pairs):
        raise ValueError("mean returns must be finite")
    unit = float(np.ptp(pairs[0])) if scale is None else scale
    shares = np.stack(pairs) / (unit if unit > 0 else 1.0)  # (2, policies)
    rng = np.random.default_rng(whole_number("seed", seed, least=0))
    drawn = rng.integers(count, size=(_RESAMPLES, count))
    # Fewer than so many have no correlation to speak of; of three, it would leave nothing but all of them.
    drawn = drawn[[len(np.unique(rows)) >= min(LEAST, count - 1) for rows in drawn]]
    parts = np.array_split(drawn, 1 + drawn.size * count // _PAIRS)
    kept = np.array([np.delete(np.arange(count), left_out) for left_out in range(count)])

    def measured(statistic: _Function) -> Statistic:
        over = np.concatenate([statistic(*shares[:, rows]) for rows in parts])
        low, high = np.quantile(over, [0.025, 0.975])
        without = statistic(*shares[:, kept])
        value = statistic(*shares)
        ends = float(without.min()), float(without.max())
        return Statistic(float(value), (float(low), float(high)), ends)

    found = {name: measured(statistic) for name, statistic in _STATISTICS.items()}
    return Agreement(policies=count, lineages=count if lineages is None else lineages, **found)


def count_lineages(policies: Mapping[str, Any], actions: Mapping[str, np.ndarray] | None = None) -> int:
    """How many policies are independent: checkpoints of one training run, and copies, count once.

    A policy's card names its run by algorithm and seed. Without a card, names that differ only in a number of
    steps, such as "ppo-50k" and "ppo-200k", "model_1000_steps" and "model_2000_steps", or "SAC after 1,000
    real steps" and "SAC after 2,000 real steps", are one run. Copies are policies of the same ``actions``,
    those of episodes from the same start states.
    """
    groups: list[set[Any]] = []  # of what policies of one lineage share
    for name, policy in policies.items():
        mine: set[Any] = {_lineage(name, policy)}
        if actions is not None:
            mine.add((str(actions[name].dtype), actions[name].tobytes()))
        mine = mine.union(*(group for group in groups if group & mine))
        groups = [group for group in groups if not group & mine] + [mine]
    return len(groups)


def _lineage(name: str, policy: Any) -> tuple[str, ...]:
    card = getattr(policy, "card", None)
    if card is not None:
        return card.algorithm, str(card.seed)
    checkpoint = _CHECKPOINT.fullmatch(name)
    return (checkpoint[1].rstrip("-_ ") if checkpoint else name,)


def mmrv(real: np.ndarray, imagined: np.ndarray) -> np.ndarray:
    """Mean maximum rank violation of ``(..., policies)``, in the unit of ``real``; see ``Agreement``."""
    gaps = np.abs(real[..., :, None] - real[..., None, :])
    above = [side[..., :, None] > side[..., None, :] for side in (imagined, real)]
    return np.asarray((gaps * (above[0] != above[1])).max(-1).mean(-1))


def regret(real: np.ndarray, imagined: np.ndarray, k: int = 1) -> np.ndarray:
    """Best real return minus the best among the ``k`` of ``(..., policies)`` that imagination prefers."""
    preferred = np.argsort(-imagined, axis=-1, kind="stable")[..., :k]
    return np.asarray(real.max(-1) - np.take_along_axis(real, preferred, -1).max(-1))


def pairwise_accuracy(real: np.ndarray, imagined: np.ndarray) -> np.ndarray:
    """Share of pairs of unlike real returns in the same order; 1/2 for a tie in imagination."""
    signs = [_signs(side) for side in (real, imagined)]
    counted = np.abs(signs[0]).sum(-1)
    alike = (np.abs(signs[0]) + signs[0] * signs[1]).sum(-1) / 2
    return np.where(counted > 0, alike / np.maximum(counted, 1), 1.0)


def _pearson(real: np.ndarray, imagined: np.ndarray) -> np.ndarray:
    sides = [side - side.mean(-1, keepdims=True) for side in (real, imagined)]
    return np.asarray(np.clip(_cosine(*sides), -1, 1))


def _spearman(real: np.ndarray, imagined: np.ndarray) -> np.ndarray:
    return _pearson(stats.rankdata(real, axis=-1), stats.rankdata(imagined, axis=-1))


def _kendall(real: np.ndarray, imagined: np.ndarray) -> np.ndarray:
    return _cosine(_signs(real), _signs(imagined))


def _cosine(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Of vectors ``(..., n)``; 0 where one has no length."""
    norm = np.sqrt((one**2).sum(-1) * (two**2).sum(-1))
    return np.where(norm > 0, (one * two).sum(-1) / np.where(norm > 0, norm, 1.0), 0.0)


def _signs(side: np.ndarray) -> np.ndarray:
    """Of the difference of every pair: ``(..., pairs)``."""
    above, below = np.triu_indices(side.shape[-1], 1)
    return np.asarray(np.sign(side[..., above] - side[..., below]))


_Function: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
_STATISTICS: dict[str, _Function] = {
    "pearson": _pearson,
    "spearman": _spearman,
    "kendall": _kendall,
    "mmrv": mmrv,
    "pairwise_accuracy": pairwise_accuracy,
    "regret_at_1": regret,
    "regret_at_3": lambda real, imagined: regret(real, imagined, 3),
    "bias": lambda real, imagined: np.asarray((imagined - real).mean(-1)),
    "absolute_error": lambda real, imagined: np.asarray(np.abs(imagined - real).mean(-1)),
}
"""Each over the last axis: all resamples at once."""
