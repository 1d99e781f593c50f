"""Values that no robot shows are named, and those that many robots show are not."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from tests.data.importers.pendulums import run, write_csv
from tests.data.test_checks import found, log
from wmgym.data.collect import collect
from wmgym.data.importers.from_log import from_log

ODD = {"far actions", "far rewards", "placeholders"}
N = len(log())


def test_one_bad_row_is_named() -> None:
    action, reward = np.array(log().action), np.array(log().reward)
    action[77, 1], reward[99] = 900, -1e9
    said = found(log(action=action, reward=reward))
    assert re.search(
        "action_1 is 900 in row 77, .*where all but 0.5 % of the rows are within -", said["far actions"]
    )
    assert re.search("the reward is -1e.09 in row 99, where all but", said["far rewards"])


def test_a_bad_cell_of_a_file_is_named_by_its_column(tmp_path: Path) -> None:
    for seed in range(8):
        rows = run(seed, jitter=0.1)  # resampled, which would blur a placeholder
        if seed == 3:
            rows[60, 3] = 1e6
        rows[::37, 1] = -999
        rows[5, 4] = -1e9 if seed == 5 else rows[5, 4]
        write_csv(tmp_path / f"run{seed}.csv", rows)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_log(tmp_path, quiet=True)
    said = "\n".join(str(each.message) for each in caught)
    assert re.search(
        r"^u is 1e\+06 in row 60 of .*run3.csv, where .* else pass action_space=", said, re.MULTILINE
    )
    assert re.search(r"^q1 is -999 in row 0 of .*run0.csv and 31 more, and within -\d", said, re.MULTILINE)
    assert re.search(r"^the reward is -1e\+09 in row 5 of .*run5.csv, where", said, re.MULTILINE)


@pytest.mark.parametrize("value", [-999.0, 999.0, -40.0])
@pytest.mark.parametrize("rows", [slice(5, 9), slice(20, None, 37)])
def test_a_placeholder_is_named(value: float, rows: slice) -> None:
    def change(path: np.ndarray) -> np.ndarray:
        path[:, rows, 1] = value
        return path

    assert re.search(
        f"^y is {value:g} in row [52].* and .* more, and within", found(log(change=change))["placeholders"]
    )


def starts(path: np.ndarray) -> np.ndarray:
    path[:, :3, 0] = 50.0  # and the same at rest before it moves
    return path


def ends(path: np.ndarray) -> np.ndarray:
    path[:, -3:, 0] = 50.0
    return path


def clipped(path: np.ndarray) -> np.ndarray:
    return np.clip(path, -0.3, 0.3)


def flags(path: np.ndarray) -> np.ndarray:
    path[..., 0] = np.arange(path[..., 0].size).reshape(path.shape[:2]) % 40 == 7
    return path


def levels(path: np.ndarray) -> np.ndarray:
    path[..., 0] = np.array([0, 1, 2, 255])[np.arange(path[..., 0].size).reshape(path.shape[:2]) % 4]
    return path


def two_states(path: np.ndarray) -> np.ndarray:
    """A foot's force, which is 0 in the air and about the robot's weight on the ground."""
    air = np.arange(path.shape[1]) // 10 % 2 == 0
    path[..., 0] = np.where(air, 0.0, 600 + path[..., 0])
    return path


def constant(path: np.ndarray) -> np.ndarray:
    path[..., 0] = 3.0
    return path


@pytest.mark.parametrize("change", [starts, ends, clipped, flags, levels, two_states, constant])
def test_what_many_robots_show_is_no_placeholder(change: Callable[[np.ndarray], np.ndarray]) -> None:
    assert not ODD & set(found(log(change=change)))


@pytest.mark.parametrize(
    "reward",
    [
        np.where(np.arange(N) % 60 == 59, 100.0, -0.1),  # at the goal
        -0.01 * np.random.default_rng(0).random(N) + 10 * (np.arange(N) % 300 == 50),  # on the way to it
        np.random.default_rng(0).standard_t(3, N),
    ],
)
def test_a_bonus_is_no_bad_reward(reward: np.ndarray) -> None:
    assert "far rewards" not in found(log(reward=reward, terminated=np.arange(N) % 60 == 59))


@pytest.mark.parametrize("env_id", ["Ant-v5", "Pusher-v5", "InvertedDoublePendulum-v5", "Swimmer-v5"])
def test_robots_are_silent(env_id: str) -> None:
    assert not ODD & set(found(collect(env_id, steps=1_000, seed=0, workers=1)))


def test_small_envs_are_silent() -> None:
    for env_id in ("MountainCarContinuous-v0", "CartPole-v1", "Acrobot-v1"):
        assert not ODD & set(found(collect(lambda env_id=env_id: gym.make(env_id), steps=1_000, seed=0)))


@pytest.mark.parametrize(("gap", "digits"), [(1.0, 17), (1.0, 4), (0.02, 17)])
def test_a_run_that_is_in_one_file_twice_is_named(tmp_path: Path, gap: float, digits: int) -> None:
    parts, end = [], 1_700_000_000.0
    for seed in (0, 1, 2, 3, 4, 2) if gap == 1 else (2, 2):
        rows = run(seed, jitter=0.1)  # so that steps are interpolated, each time between other rows
        rows[:, 0] += end
        end = rows[-1, 0] + gap
        parts.append(rows)
    parts[-1] = np.concatenate([parts[-1][:, :1], parts[-1][:, 1:].round(digits)], 1)
    path = write_csv(tmp_path / "run.csv", np.concatenate(parts))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_log(path, quiet=True)
    said = "\n".join(str(each.message) for each in caught)
    row, of = (600, 240) if gap == 1 else (120, 0)
    assert re.search(
        f"^120 rows from row {row} of .*run.csv on repeat those from row {of} of", said, re.MULTILINE
    )
