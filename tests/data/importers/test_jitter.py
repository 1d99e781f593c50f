"""Rows that were sampled irregularly are told from rows that were only stamped late."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.data.importers.pendulums import PERIOD, run, write_csv
from wmgym.data.importers.from_log import from_log
from wmgym.data.importers.jitter import jitter_is_real
from wmgym.data.importers.runs import Run


def runs(seed: int, files: int, rows: int, sampled: bool, share: float, noise: float, dims: int) -> list[Run]:
    """Short recordings of a pendulum whose stamps jitter, be it with the sampling or alone."""
    rng, found = np.random.default_rng(seed), []
    for k in range(files):
        table = run(100 * seed + k, rows, jitter=share if sampled else 0.0)
        if not sampled:
            table[:, 0] += rng.uniform(-share, share, rows) * PERIOD
        obs = table[:, 1 : 1 + dims]
        obs = obs + noise * obs.std(0) * rng.normal(size=obs.shape)
        found.append(Run("", obs, table[:-1, 3:4], None, None, False, table[:, 0], PERIOD))
    return found


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(("noise", "dims"), [(0.0, 2), (0.0, 1), (0.002, 2)])
@pytest.mark.parametrize(("files", "rows"), [(10, 12), (2, 100)])
def test_many_draws_of_either_kind(sampled: bool, noise: float, dims: int, files: int, rows: int) -> None:
    told = [jitter_is_real(runs(seed, files, rows, sampled, 0.1, noise, dims)) for seed in range(20)]
    assert told == [sampled] * 20


def test_too_few_rows_are_taken_as_they_are() -> None:
    assert not jitter_is_real(runs(0, 1, 4, True, 0.1, 0.0, 2))
    assert not jitter_is_real([])


def test_jitter_of_stamps_does_not_change_the_length_of_a_step(tmp_path: Path) -> None:
    rng, durations = np.random.default_rng(0), []
    for k in range(6):
        rows = run(k, 20)
        rows[:, 0] += rng.uniform(-0.15, 0.15, 20) * PERIOD
        durations.append(np.diff(rows[:, 0]))
        write_csv(tmp_path / f"{k}.csv", rows)
    assert abs(np.median(durations) / PERIOD - 1) > 0.005
    with warnings.catch_warnings(action="ignore"):
        data = from_log(tmp_path, quiet=True)
    assert (data.task.dt, len(data)) == (PERIOD, 114)
    np.testing.assert_allclose(data.obs[:19], run(0, 20)[:-1, 1:3], rtol=1e-6)
