"""Where an episode's last step leads, in files without next_obs."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.data.importers.pendulums import run, write_csv
from wmgym.data.importers.from_log import from_log
from wmgym.data.transitions import Transitions

LENGTHS = (8, 3, 12, 2, 6)  # rows of each episode, the one after the last step included


def read(folder: Path) -> Transitions:
    with warnings.catch_warnings(action="ignore"):
        return from_log(folder, quiet=True)


def episodes(extra: str, flag: tuple[object, object]) -> list[list[list[object]]]:
    """Rows of t, q1, dq1, u, reward and a flag; the last of each episode has an action as ``extra`` says."""
    found = []
    for seed, rows in enumerate(LENGTHS):
        table: list[list[object]] = [[*row, 0] for row in run(seed, rows)]
        if extra:
            table[-1][3:5] = [0.0, 0.0] if extra == "zeros" else ["", ""]
        table[-2][5], table[-1][5] = flag
        found.append(table)
    return found


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
@pytest.mark.parametrize(
    ("extra", "flag"),
    [
        ("", (1, 0)),
        ("", (1, 1)),
        ("zeros", (1, "")),
        ("zeros", (0, 1)),
        ("empty", (1, 1)),
        ("empty", (0, 1)),
        ("empty", (1, "")),
    ],
)
@pytest.mark.parametrize("kept", ["a file each", "an episode column"])
def test_one_more_row_after_the_step_that_ended_the_episode(
    tmp_path: Path, extra: str, flag: tuple[object, object], ends: str, kept: str
) -> None:
    tables, header = episodes(extra, flag), f"t,q1,dq1,u,reward,{ends}"
    if kept == "a file each":
        for seed, table in enumerate(tables):
            write_csv(tmp_path / f"{seed}.csv", table, header)
    else:
        rows = [[*row, seed] for seed, table in enumerate(tables) for row in table]
        write_csv(tmp_path / "all.csv", rows, f"{header},episode")
    data = read(tmp_path)
    assert data.lengths.tolist() == [rows - 1 for rows in LENGTHS]
    last = data.first + data.lengths - 1
    assert data.terminated[last].all() == (ends == "terminated")
    assert data.terminated.sum() == (5 if ends == "terminated" else 0)
    np.testing.assert_allclose(data.next_obs[last[0]], run(0, 8)[-1, 1:3], rtol=1e-6)


def test_a_row_without_an_action_ends_an_episode_anywhere_in_a_file(tmp_path: Path) -> None:
    rows = [row for table in episodes("empty", (1, 0)) for row in table]
    data = read(write_csv(tmp_path / "all.csv", [row[1:] for row in rows], "q1,dq1,u,reward,terminated"))
    assert data.lengths.tolist() == [rows - 1 for rows in LENGTHS]
    assert data.terminated.sum() == 5


def test_a_last_row_of_another_episode_is_not_where_the_step_before_led(tmp_path: Path) -> None:
    """A logger that was stopped right after a reset, or that logs each step's own row alone."""
    rows = np.column_stack([run(0, 40)[:, 1:], np.zeros(40)])
    rows[-1, :2], rows[-2, 4] = [9.0, -9.0], 1
    header = "q1,dq1,u,reward,terminated"
    data = read(write_csv(tmp_path / "reset.csv", rows, header))
    assert (len(data), data.terminated.sum()) == (38, 0)
    rows = np.column_stack([run(0, 40)[:, 1:], np.arange(40) == 39])
    data = read(write_csv(tmp_path / "own.csv", rows, header))
    assert (len(data), data.terminated.sum()) == (39, 0)
    several = np.concatenate([rows, rows])
    assert read(write_csv(tmp_path / "own.csv", several, header)).terminated.sum() == 0
