"""Whole-number actions of files, and what files hold that a world cannot be made of."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests.data.importers.pendulums import run, write_csv
from tests.data.importers.test_from_log import read, refused
from wmgym.data.importers.from_log import from_log
from wmgym.data.importers.rows import NO_IMAGES
from wmgym.data.importers.task import said_action_space, said_observation_space
from wmgym.data.logs import assembled, from_arrays
from wmgym.tasks.actions import stored
from wmgym.tasks.task import make_task


@pytest.mark.parametrize(
    ("said", "space"),
    [
        (
            {"type": "MultiDiscrete", "nvec": [3, 2], "start": [0, 1]},
            spaces.MultiDiscrete([3, 2], start=[0, 1]),
        ),
        ({"type": "MultiBinary", "n": 3}, spaces.MultiBinary(3)),
        ({"type": "Text"}, None),
    ],
)
def test_whole_number_spaces_of_metadata(said: dict[str, Any], space: Any) -> None:
    assert said_action_space({"action_space": said}) == space


def test_whole_numbers_are_known_by_their_values(tmp_path: Path) -> None:
    rows = run(0, jitter=0.1)  # resampled, where means over a step would be fractions
    pairs = np.column_stack([rows[:, :3], rows[:, 3] > 0, 1 + np.round(rows[:, 3])]).astype(float)
    path = write_csv(tmp_path / "run.csv", pairs, "t,q1,dq1,u1,u2")
    space = spaces.MultiDiscrete([2, 3])
    data = read(path, action_space=space)
    assert data.task.action_space == space
    assert {tuple(row) for row in data.action} <= {(0, 0), (0, 1), (1, 1), (1, 2)}
    task, n = make_task("CartPole-v1"), 4
    columns = {"obs": np.zeros((n, 4)), "next_obs": np.zeros((n, 4)), "episode": np.zeros(n, int)}
    for dtype in (float, bool, np.uint8):
        given = np.array([0, 1, 1, 0], dtype)
        taken = assembled(task, action=given, terminated=np.zeros(n, bool), **columns)
        np.testing.assert_array_equal(taken.action, [0, 1, 1, 0])


@pytest.mark.parametrize(("value", "got"), [(0.5, "0.5"), (np.nan, "nan"), (1e30, "1e.30"), (-1.0, "-1")])
def test_other_values_are_no_whole_number_actions(value: float, got: str) -> None:
    with pytest.raises(
        ValueError, match=rf"whole numbers inside Discrete\(2\), one action a row, got {got}$"
    ):
        stored(spaces.Discrete(2), np.array([0.0, value]))


@pytest.mark.parametrize("word", [str, lambda k: f"day {k}"])
def test_rows_of_no_episode_are_refused(tmp_path: Path, word: Any) -> None:
    rows = [[*row, word(k // 40) if k % 10 else ""] for k, row in enumerate(run(0))]
    path = write_csv(tmp_path / "run.csv", rows, "t,q1,dq1,u,reward,episode")
    refused(r"run.csv: column 'episode' names no episode in 12 of 120 rows; fill them in", path)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (
            {"max_episode_steps": -5},
            "max_episode_steps must be a whole number of at least 1, or None, got -5",
        ),
        ({"max_episode_steps": 0}, "max_episode_steps must be"),
        ({"max_episode_steps": 2.5}, "max_episode_steps must be"),
        ({"max_episode_steps": True}, "max_episode_steps must be"),
        ({"task": "Pendulum-v1"}, r"task must be a Task, got str; pass wmgym.make_task\('Pendulum-v1'\)"),
        ({"action_space": (-1, 1)}, r"action_space must be a space such as .*Box.*, got \(-1, 1\)"),
        ({"observation_space": spaces.Dict()}, r"observation_space must be a space .*, got Dict\(\)"),
        ({"scale": 2}, "scale must name columns, such as .*, got 2"),
        ({"obs": [1, 2]}, r"obs must be the name of a column, or a list of names, got \[1, 2\]"),
        ({"time": 0}, "time must be the name of a column"),
        ({"paths": None}, "paths must be a path or a list of paths, got None"),
        ({"paths": [1]}, r"paths must be a path or a list of paths, got \[1\]"),
    ],
)
def test_arguments_of_other_kinds(given: dict[str, Any], match: str) -> None:
    refused(match, **{"paths": "run.csv", **given})


def test_an_env_is_no_task() -> None:
    rows = np.zeros((2, 3)), np.zeros((2, 1)), np.zeros((2, 3)), np.zeros(2), np.zeros(2)
    for given, said in (("Pendulum-v1", "'Pendulum-v1'"), (gym.make("Pendulum-v1"), "env")):
        with pytest.raises(ValueError, match=rf"task must be a Task, .*; pass wmgym.make_task\({said}\)"):
            from_arrays(given, *rows)  # type: ignore[arg-type]


def test_images_and_nothing_are_no_state(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "run.npz"
    np.savez(path, obs=rng.integers(0, 256, (120, 8, 8, 3), np.uint8), action=run(0)[:, 3:4])
    refused(rf"observation 'obs' is an image of shape \(8, 8, 3\), .*; {NO_IMAGES}", path)
    np.savez(path, obs=np.zeros((120, 0)), action=run(0)[:, 3:4])
    refused("the observation has no numbers", path)
    box = {"type": "Box", "dtype": "uint8", "shape": [8, 8, 3], "low": 0, "high": 255}
    facts = {"observation_space": {"type": "Dict", "subspaces": {"eye": box}}}
    with pytest.raises(ValueError, match="observation 'eye' is an image"):
        said_observation_space(facts)


@pytest.mark.parametrize(
    ("values", "space"),
    [
        ([0, 1], spaces.Discrete(2)),
        ([1, 2, 4], spaces.Discrete(4, start=1)),
        ([-1, 1], None),  # forward and back: a torque of 0 may be asked for, and was never tried
        ([-1, 0, 1], None),
        ([0, 255], None),
        (range(200), None),
        ([0, 0.5, 1], None),
    ],
)
def test_actions_are_kinds_by_their_values_in_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: Any, space: Any
) -> None:
    rows, pick = run(0), np.random.default_rng(0).permutation(240) % len(values)
    u = np.array(values, float)[pick[:120]]
    write_csv(tmp_path / "whole.csv", [[*row[:3], f"{x:g}", row[4]] for row, x in zip(rows, u, strict=True)])
    write_csv(tmp_path / "points.csv", np.column_stack([rows[:, :3], u, rows[:, 4]]))
    for dtype in (np.float32, np.int64, np.uint8, bool):
        if np.array_equal(u.astype(dtype), u):
            np.savez(
                tmp_path / f"{np.dtype(dtype)}.npz", t=rows[:, 0], q=rows[:, 1:3], u=u[:, None].astype(dtype)
            )
    read_as = []
    for path in sorted(tmp_path.iterdir()):
        with warnings.catch_warnings(action="ignore"):
            read_as.append(from_log(path).task.action_space)
        said = capsys.readouterr().out
        assert ("whole numbers" in said) == (0.5 not in values), path
    low, high = np.float32([min(u[:-1])]), np.float32([max(u[:-1])])
    assert len(read_as) > 2
    assert set(map(str, read_as)) == {str(space or spaces.Box(low, high))}
