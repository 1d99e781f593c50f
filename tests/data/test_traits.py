"""What data tell of the numbers of a state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import wmgym
from tests.families import Rover
from wmgym.calibration.open_loop import open_loop_errors
from wmgym.data.checks import check
from wmgym.data.collect import collect
from wmgym.data.logs import assembled
from wmgym.data.traits import geometry_of, with_traits
from wmgym.data.transitions import Transitions
from wmgym.tasks.described import describe_task
from wmgym.tasks.geometry import Geometry
from wmgym.tasks.task import make_task


def log(*columns: np.ndarray) -> Transitions:
    """One episode whose observations are these columns."""
    path = np.stack(columns, 1)
    box = spaces.Box(-np.inf, np.inf, (path.shape[1],), np.float32)
    task = describe_task(box, spaces.Box(-1.0, 1.0, (1,)), dt=0.1)
    n = len(path) - 1
    zeros = np.zeros((n, 1))
    return assembled(task, path[:-1], zeros, path[1:], np.zeros(n, int), np.zeros(n, bool))


def walk(n: int = 400, step: float = 0.3) -> np.ndarray:
    return np.cumsum(np.random.default_rng(0).uniform(-0.5, 1.5, n) * step)


def test_a_rover_tells_its_traits() -> None:
    data = collect(Rover, steps=800, seed=0, workers=1)
    geometry = geometry_of(data)
    assert geometry == Geometry(5, fixed=(4,), wrapped=((0, -np.pi, np.pi),), whole=(3,), copies=((2, 1),))
    assert with_traits(data).task.core.geometry == geometry
    assert data.task.core.geometry == Geometry(5)  # the caller's data stay as they are


@pytest.mark.parametrize(
    ("turn", "low"), [(2 * np.pi, -np.pi), (2 * np.pi, 0.0), (360.0, -180.0), (360.0, 0.0), (2.0, -1.0)]
)
def test_wrapped_angles_are_found_in_any_unit(turn: float, low: float) -> None:
    angle = (walk() * turn / (2 * np.pi) - low) % turn + low
    assert geometry_of(log(angle)).wrapped == ((0, low, low + turn),)


@pytest.mark.parametrize(
    "column",
    [
        np.cos(walk(step=3.0)),  # jumps as far as a half turn, and as far as anything between
        np.sin(walk()),
        np.sign(np.sin(walk())),  # a flag
        np.random.default_rng(0).uniform(-np.pi, np.pi, 400),  # no path at all
        walk(),  # many turns, not wrapped
    ],
)
def test_what_is_no_wrapped_angle_is_not_taken_for_one(column: np.ndarray) -> None:
    assert geometry_of(log(column)).wrapped == ()


def test_readings_in_fine_steps_are_not_rounded() -> None:
    assert geometry_of(log(np.rint(1_000 * np.sin(walk())))).whole == ()
    assert geometry_of(log(np.rint(np.sin(walk())))).whole == (0,)


def test_known_tasks_are_left_alone() -> None:
    data = collect("Hopper-v5", steps=100, seed=0, workers=1)
    assert with_traits(data) is data


def test_traits_survive_storage(tmp_path: Any) -> None:
    data = with_traits(collect(Rover, steps=200, seed=0, workers=1))
    data.save(tmp_path / "data")
    assert Transitions.load(tmp_path / "data").task.core == data.task.core


def test_declared_angles_need_no_jump() -> None:
    task = make_task(Rover, angles=[0])
    assert task.core.geometry.angles == (0,)
    still = collect(task, lambda obs: -np.sign(obs[:, 1:2]), steps=200, seed=0, workers=1)
    assert geometry_of(still).wrapped == ((0, -np.pi, np.pi),)
    with pytest.raises(ValueError, match=r"angles= must lie in 0 .. 4, got \(9,\)"):
        make_task(Rover, angles=[9])
    with pytest.raises(ValueError, match="angles= is for envs whose observation is all"):
        make_task("Hopper-v5", angles=[0])


def test_an_imagined_heading_stays_on_the_circle() -> None:
    data, test = (collect(Rover, steps=n, seed=n, workers=1) for n in (1_500, 800))
    world = wmgym.fit(data, wmgym.FitConfig(members=2, width=64, depth=2, max_updates=300))
    env = wmgym.ImaginedVectorEnv(world, len(test), autoreset_mode="Disabled", max_episode_steps=40)
    env.reset(seed=0, options={"obs": test.obs})
    obs, *_, infos = env.step(test.action)
    apart = np.abs((obs[:, 0] - test.next_obs[:, 0] + np.pi) % (2 * np.pi) - np.pi)
    crossing = np.abs(test.next_obs[:, 0] - test.obs[:, 0]) > 3
    assert crossing.sum() > 3
    assert np.median(apart[crossing]) < 0.05
    assert not infos["diverged"].any()
    np.testing.assert_array_equal(obs[:, 1], obs[:, 2])  # a copy
    np.testing.assert_array_equal(obs[:, 4], test.obs[:, 4])  # a load
    assert set(np.unique(obs[:, 3])) <= {0, 1}  # a flag
    assert np.abs(obs[:, 0]).max() <= np.float32(np.pi)
    steps = open_loop_errors(world, test, np.flatnonzero(crossing), 1, "mean")
    assert next(iter(steps))[:, 0].max() < 1  # errors too take the shorter way round


def test_check_names_what_data_tell() -> None:
    found = {finding.about: finding.text for finding in check(collect(Rover, steps=800, seed=0, workers=1))}
    assert "obs_4 never change within an episode and are kept" in found["numbers of the state"]
    assert "obs_2 always equal another number" in found["numbers of the state"]
    assert "obs_3 hold two whole numbers" in found["numbers of the state"]
    assert "shorter way round" in found["wrapped angles"]
