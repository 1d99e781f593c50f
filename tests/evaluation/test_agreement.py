"""Agreement of real and imagined returns, against scipy, by hand, and against SIMPLER's own example."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from wmgym.evaluation.agreement import Agreement, agreement, count_lineages, mmrv, pairwise_accuracy, regret
from wmgym.io.schema import from_json, to_json

REAL_COKE = np.array([0.853, 0.920, 0.760, 0.907, 0.293, 0.133])
SIM_COKE = np.array([0.857, 0.710, 0.567, 0.787, 0.170, 0.027])
"""SIMPLER, picking a coke can: RT-1 converged, at 15 %, RT-1-X, RT-2-X, Octo-Base, RT-1 at the beginning."""


def noisy(count: int = 17, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    real = rng.normal(size=count) * 1_000
    return real, real + 400 * rng.normal(size=count)


def test_simplers_example() -> None:
    """Its paper gives an MMRV of 0.031 and a Pearson correlation of 0.976 for these success rates."""
    found = agreement(REAL_COKE, SIM_COKE, scale=1.0)
    assert found.mmrv.value == pytest.approx(0.031, abs=5e-4)
    assert found.pearson.value == pytest.approx(0.976, abs=1.5e-3)
    violations = [0.067, 0.067, 0.0, 0.054, 0.0, 0.0]
    assert mmrv(REAL_COKE, SIM_COKE) == pytest.approx(np.mean(violations))


@pytest.mark.parametrize("seed", range(3))
def test_correlations_are_scipys(seed: int) -> None:
    real, imagined = noisy(seed=seed)
    imagined[3], real[5] = imagined[4], real[6]  # ties
    found = agreement(real, imagined)
    assert found.pearson.value == pytest.approx(stats.pearsonr(real, imagined).statistic)
    assert found.spearman.value == pytest.approx(stats.spearmanr(real, imagined).statistic)
    assert found.kendall.value == pytest.approx(stats.kendalltau(real, imagined).statistic)


def test_intervals_over_policies_are_scipys() -> None:
    real, imagined = noisy()
    ends = stats.bootstrap(
        (real, imagined), lambda x, y: stats.pearsonr(x, y).statistic, paired=True, vectorized=False,
        method="percentile", n_resamples=2_000, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert agreement(real, imagined).pearson.interval == pytest.approx((ends.low, ends.high), abs=0.02)


def test_three_policies_are_not_certain() -> None:
    found = agreement([0.0, 1.0, 2.0], [0.0, 2.0, 1.5])
    assert found.spearman.interval == found.spearman.drop_one == (-1.0, 1.0)
    assert found.absolute_error.interval[0] < found.absolute_error.value < found.absolute_error.interval[1]


def test_drop_one_is_the_range_without_one_policy() -> None:
    real, imagined = noisy()
    kept = [np.delete(np.arange(17), one) for one in range(17)]
    every = [stats.spearmanr(real[rows], imagined[rows]).statistic for rows in kept]
    assert agreement(real, imagined).spearman.drop_one == pytest.approx((min(every), max(every)))


def test_a_perfect_ranking() -> None:
    real = np.arange(5.0)
    found = agreement(real, 2 * real - 1)
    for name in ("pearson", "spearman", "kendall", "pairwise_accuracy"):
        assert getattr(found, name).value == pytest.approx(1), name
    for name in ("mmrv", "regret_at_1", "regret_at_3"):
        assert getattr(found, name).value == 0, name
    assert found.bias.value == pytest.approx(1 / 4)  # (sum of r - 1) / 5, in shares of a range of 4
    assert found.absolute_error.value == pytest.approx(np.mean([1, 0, 1, 2, 3]) / 4)


def test_a_reversed_ranking_loses_the_whole_range() -> None:
    real = np.array([1.0, 2.0, 5.0])
    found = agreement(real, -real)
    assert (found.spearman.value, found.kendall.value, found.pairwise_accuracy.value) == (-1, -1, 0)
    assert found.regret_at_1.value == 1.0
    assert found.regret_at_3.value == 0.0
    assert found.mmrv.value == pytest.approx(np.mean([4, 3, 4]) / 4)


def test_regret_by_hand() -> None:
    real, imagined = np.array([10.0, 8.0, 3.0, 1.0]), np.array([1.0, 4.0, 6.0, 5.0])
    assert regret(real, imagined) == 7.0
    assert regret(real, imagined, 3) == 2.0


def test_pairs_by_hand() -> None:
    real, imagined = np.array([1.0, 2.0, 2.0, 4.0]), np.array([1.0, 3.0, 0.0, 3.0])
    # Of six pairs one has equal returns; 12 and 14 agree, 13 not, 24 is tied in imagination, 34 agrees.
    assert pairwise_accuracy(real, imagined) == pytest.approx(3.5 / 5)


def test_constant_returns_rank_nothing() -> None:
    flat, real = np.ones(4), np.arange(4.0)
    for pair in ((real, flat), (flat, real), (flat, flat)):
        found = agreement(*pair)
        assert found.pearson.value == found.spearman.value == found.kendall.value == 0
        assert np.isfinite([found.bias.value, *found.mmrv.interval, *found.pairwise_accuracy.drop_one]).all()


def test_json_and_text() -> None:
    found = agreement(*noisy(), lineages=4)
    assert from_json(Agreement, to_json(found)) == found
    assert "17 policies, 4 independent" in str(found)
    assert "regret at 1:" in str(found)


def test_lineages() -> None:
    names = (
        "ppo-50k",
        "ppo-200k",
        "sac-1.5M",
        "model_1000_steps",
        "model_2000_steps",
        "seed-1",
        "seed-2",
        "",
        "DynaSAC after 1,000 real steps",
        "DynaSAC after 10,000 real steps",
    )
    assert count_lineages(dict.fromkeys(names)) == 7

    def carded(seed: int) -> Any:
        return SimpleNamespace(card=SimpleNamespace(algorithm="PPO", seed=seed))

    assert count_lineages({"ppo-50k": carded(1), "ppo-200k": carded(2), "best": carded(2)}) == 2


def test_copies_count_once() -> None:
    acted = {name: np.full((4, 1), value) for name, value in zip("abcd", (1.0, 2.0, 1.0, 3.0), strict=True)}
    assert count_lineages(dict.fromkeys("abcd"), acted) == 3
    # "x-2k" is a checkpoint of x and a copy of "y-1k": both trainings are the same one
    names = ("x-1k", "x-2k", "y-1k", "y-2k", "z")
    acted = {name: np.full((4, 1), value) for name, value in zip(names, (1, 2, 2, 3, 4), strict=True)}
    assert count_lineages(dict.fromkeys(names), acted) == 2


@pytest.mark.parametrize(
    ("real", "imagined", "said"),
    [
        ([1, 2], [1, 2], "at least 3 policies, got 2"),
        ([1, 2, 3], [1, 2], "for each policy"),
        ([1, 2, np.nan], [1, 2, 3], "finite"),
    ],
)
def test_bad_input(real: list[float], imagined: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        agreement(real, imagined)
