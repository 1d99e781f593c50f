"""Conformal tables: made the same way of any scores."""

from __future__ import annotations

import numpy as np

from wmgym.calibration.conformal import ConformalTable, grouped_quantile, left_out_coverage, raised_level


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
