"""Conformal tables: made the same way of any scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import wmgym
from wmgym.calibration.conformal import (
    ConformalTable,
    error_bounds,
    grouped_quantile,
    left_out_coverage,
    marginal_calibration,
    raised_level,
)
from wmgym.calibration.open_loop import OpenLoopStep


def scores(horizon: int, groups: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Windows that grow fewer; each group's errors have a spread of their own."""
    rng, group = np.random.default_rng(seed), np.repeat(np.arange(groups), 40)
    spread = np.exp(0.7 * rng.normal(size=groups))[group, None]
    steps = (np.abs(rng.normal(size=(len(group), 2))) * spread * h for h in range(1, horizon + 1))
    return [(values[h:], group[h:]) for h, values in enumerate(steps)]


def test_a_table_holds_the_quantile_after_each_number_of_steps() -> None:
    given = scores(6, 30, 0)
    table = ConformalTable.of(given, 0.8, few_groups=False)
    for row, each in zip(table.quantile, given, strict=True):
        np.testing.assert_array_equal(row, grouped_quantile(*each, 0.8))
    assert np.isfinite(table.coverage).tolist() == [h in (1, 2, 4) for h in range(1, 7)]
    assert table.coverage[3] == left_out_coverage(*given[3], 0.8)


def test_few_groups_raise_the_level_to_cover_the_one_left_out() -> None:
    promised, raised = [], []
    for seed in range(20):
        given = scores(4, 4, seed)
        level = raised_level(given, 0.8)
        assert 0.8 <= level < 1
        promised.append(ConformalTable.of(given, 0.8, few_groups=False).coverage[:2].mean())
        raised.append(ConformalTable.of(given, 0.8, few_groups=True).coverage[:2].mean())
    assert np.mean(promised) < 0.78  # four groups say little about the next
    assert 0.8 < np.mean(raised) < 0.9  # by a standard error, which is large for four groups


def test_many_groups_raise_the_level_less() -> None:
    few, many = (np.mean([raised_level(scores(4, n, seed), 0.8) for seed in range(8)]) for n in (4, 60))
    assert 0.8 < many < 0.86 < few
    same = [(np.tile(np.linspace(0, 1, 40)[:, None], (4, 1)), np.repeat(np.arange(4), 40))]
    assert raised_level(same, 0.8) < 0.82  # policies that are all alike


def test_one_group_says_nothing_of_another() -> None:
    values, group = np.ones((5, 2)), np.zeros(5)
    assert np.isnan(left_out_coverage(values, group, 0.9))
    table = ConformalTable.of([(values, group)], 0.9, few_groups=True)
    assert np.isnan(table.coverage).all()
    np.testing.assert_array_equal(table.quantile, [[1.0, 1.0]])


def replays(error: np.ndarray) -> OpenLoopStep:
    """Errors ``(horizon, n, 1)`` with nothing to tell good windows from bad ones."""
    return OpenLoopStep(error, np.zeros_like(error), 0 * error + 1, error[..., 0])


def test_bounds_hold_for_the_few_that_last() -> None:
    """Nine of ten policies fall at once, before they are wrong; those that last are wrong more and more."""
    rng, horizon = np.random.default_rng(0), 20
    group = np.repeat(np.arange(40), 20)
    error = np.arange(1, horizon + 1)[:, None, None] * np.abs(rng.normal(size=(1, len(group), 1)))
    over = error.copy()
    over[2:, group % 10 != 0] = np.nan
    kept = over.copy()
    kept[2:, group % 10 != 0] = over[1, group % 10 != 0]
    wide = np.full(1, 1e9, np.float32)
    data = wmgym.collect("CartPole-v1", steps=30, seed=0, workers=1)
    blank = replace(
        marginal_calibration(data, np.ones(4), 0.8), reach=wide, center=0 * wide, data_std=wide / wide
    )
    found = {
        name: error_bounds(blank, replays(kept), group, False, lasting)["half_width"][:, 0]
        for name, lasting in (("all", None), ("lasting too", replays(over)))
    }
    lasts = group % 10 == 0
    covered = {name: (error[-1, lasts, 0] <= bound[-1]).mean() for name, bound in found.items()}
    assert covered["all"] < 0.3
    assert covered["lasting too"] == pytest.approx(0.8, abs=0.06)
    np.testing.assert_array_equal(found["all"][:2], found["lasting too"][:2])  # none is over yet


def test_knowing_nothing_reaches_as_far_as_most_policies_do() -> None:
    data = wmgym.collect("CartPole-v1", {f"p{k}": None for k in range(12)}, steps=1_200, seed=0, workers=1)
    names = np.array(data.episode_policy)
    far = names[data.episode] < "p2"  # p0, p1, p10 and p11 get ten times as far as the others
    core = data.core.copy()
    core[far] *= 10
    reach = marginal_calibration(replace(data, core=core), np.ones(4), 0.9).reach
    assert (np.abs(core[far] - np.median(core, 0)) <= reach).mean() > 0.85
