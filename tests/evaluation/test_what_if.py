"""Counterfactuals: the logged actions reproduce the log, others are what MuJoCo makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import wmgym
from tests import toy
from tests.families import Line
from wmgym.data.transitions import Transitions
from wmgym.models.world import WorldModel

ID = "InvertedPendulum-v5"


@pytest.fixture(scope="module")
def log() -> Transitions:
    return wmgym.collect(ID, lambda obs: -2.0 * obs[:, 1:2] - 0.3 * obs[:, 3:4], episodes=3, seed=4,
                         max_episode_steps=60, workers=1)  # fmt: skip


def test_the_logged_actions_reproduce_the_log_within_the_bound(
    pendulum_world: WorldModel, log: Transitions
) -> None:
    inside = []
    for episode in range(log.num_episodes):
        first = int(log.first[episode])
        found = wmgym.counterfactual(
            log, 2, log.action[first + 2 : first + 12], pendulum_world, episode=episode
        )
        assert found.bound is not None
        inside.append(np.abs(found.simulated - found.logged) <= found.bound)
        assert found.mujoco is not None
        np.testing.assert_allclose(found.mujoco, found.logged, atol=1e-5)
    assert np.concatenate(inside).mean() > 0.6


def test_mujoco_as_the_simulator_reproduces_the_log_itself(log: Transitions) -> None:
    actions = log.action[3 : log.lengths[0]]
    found = wmgym.counterfactual(log, 3, actions[:20], ID)
    np.testing.assert_allclose(found.simulated, found.logged[:20], atol=1e-3)
    assert found.bound is None
    assert found.logged_return == pytest.approx(found.reward.sum(), abs=1e-3)


def test_other_actions_are_what_the_robot_would_have_done(log: Transitions) -> None:
    push = np.full((8, 1), 1.5, np.float32)
    found = wmgym.counterfactual(log, 5, push, ID)
    assert found.mujoco is not None
    there = ~np.isnan(found.mujoco[:, 0])
    np.testing.assert_allclose(found.simulated[there], found.mujoco[there], atol=1e-3)
    assert np.abs(found.simulated - found.logged)[there].max() > 0.01
    assert "simulated" in repr(found)


def rest(obs: np.ndarray) -> np.ndarray:
    return np.zeros((len(obs), 1), np.float32)


def test_a_policy_acts_in_both(pendulum_world: WorldModel, log: Transitions) -> None:
    still = wmgym.counterfactual(
        log, 0, lambda obs: np.zeros((len(obs), 1), np.float32), pendulum_world, steps=12
    )
    assert (len(still.simulated), len(still.action)) == (12, 12)
    np.testing.assert_array_equal(still.action, 0)
    assert still.mujoco is not None


def test_a_changed_robot_is_itself_and_not_the_nominal_one() -> None:
    robot = wmgym.make_task(wmgym.shift(ID, mass=5.0, delay=1))
    log = wmgym.collect(robot, steps=40, seed=0, workers=1)
    found = wmgym.counterfactual(log, 2, log.action[2:6], ID)
    assert found.mujoco is not None
    np.testing.assert_allclose(found.mujoco, found.logged, atol=1e-5)
    assert np.abs(found.simulated - found.logged).max() > 1e-2


def test_moments_and_actions_that_are_not_there_are_refused(
    pendulum_world: WorldModel, log: Transitions
) -> None:
    with pytest.raises(ValueError, match="no step 999"):
        wmgym.counterfactual(log, 999, np.zeros((2, 1)), pendulum_world)
    with pytest.raises(ValueError, match="actions must be"):
        wmgym.counterfactual(log, 0, np.zeros((2, 3)), pendulum_world)
    with pytest.raises(ValueError, match="pass actions"):
        wmgym.counterfactual(log, 0, None, pendulum_world)


@pytest.mark.parametrize("actions", [np.zeros((3, 1)), [[0]] * 3, lambda obs: np.float64(-2.0) * obs[:, 1:2]])
def test_actions_of_any_number_type_are_taken(
    pendulum_world: WorldModel, log: Transitions, actions: Any
) -> None:
    found = wmgym.counterfactual(log, 2, actions, pendulum_world, steps=3)
    assert found.simulated.shape == (3, 4)
    assert np.isfinite(found.simulated).all()


@pytest.mark.parametrize(
    ("actions", "steps", "message"),
    [
        (np.full((3, 1), np.nan), None, "NaN"),
        (np.zeros((0, 1)), None, "at least one step"),
        (np.full((3, 1), 1e300), None, "finite in float32"),
        (np.full((3, 1), 3.1), None, "actions reach from 3.1 to 3.1, beyond the robot's, -3 to 3; clip them"),
        (np.array([[0.0], [-4.0]]), None, "from -4 to 0, beyond"),
        (np.zeros((3, 1)), 0, "steps must be a whole number of at least 1"),
    ],
)
def test_actions_that_lead_nowhere_are_refused(
    pendulum_world: WorldModel, log: Transitions, actions: Any, steps: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        wmgym.counterfactual(log, 2, actions, pendulum_world, steps=steps)


def test_nothing_follows_the_end_of_an_episode(pendulum_world: WorldModel, log: Transitions) -> None:
    push = np.full((40, 1), 3.0, np.float32)
    found = wmgym.counterfactual(log, 1, push, ID)
    assert found.mujoco is not None
    assert found.mujoco_reward is not None
    there = ~np.isnan(found.mujoco_reward)
    assert 0 < there.sum() < len(push)
    for part in (found.simulated, found.action, found.reward[:, None]):
        np.testing.assert_array_equal(~np.isnan(part).any(1), there)
    assert np.nansum(found.reward) == pytest.approx(np.nansum(found.mujoco_reward))
    assert f"after {there.sum()} of 40, where the simulated episode ends" in repr(found)
    learned = wmgym.counterfactual(log, 1, lambda obs: np.full((len(obs), 1), 3.0), pendulum_world, steps=40)
    assert learned.bound is not None
    went = ~np.isnan(learned.reward)
    assert 0 < went.sum() < 40
    np.testing.assert_array_equal(~np.isnan(learned.bound).any(1), went)
    np.testing.assert_array_equal(learned.action[went], 3.0)


def test_the_time_limit_of_the_robot_is_an_end_in_both() -> None:
    task = replace(wmgym.make_task(ID), max_episode_steps=6)
    limited = wmgym.collect(task, rest, episodes=2, workers=1)
    found = wmgym.counterfactual(limited, 2, np.zeros((9, 1)), ID)
    assert found.mujoco_reward is not None
    np.testing.assert_array_equal(np.isnan(found.reward), np.isnan(found.mujoco_reward))
    assert np.isfinite(found.reward).sum() == 4
    assert len(found.logged) == 9


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *[({"t": t}, "t must be a whole number of at least 0") for t in (float("inf"), None, 1.5, True, -1)],
        *[({"episode": value}, "episode must be a whole number") for value in ("0", 0.5, -1)],
        ({"episode": 3}, "no step 1 in an episode 3"),
        *[({"steps": value}, "steps must be a whole number") for value in (2.5, True, "2")],
        *[({"seed": value}, "seed must be") for value in (1.5, -1, 2**64)],
    ],
)
def test_numbers_are_whole(
    pendulum_world: WorldModel, log: Transitions, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        wmgym.counterfactual(
            log, **{"t": 1, "actions": np.zeros((3, 1)), "simulator": pendulum_world, **given}
        )
    whole = wmgym.counterfactual(log, 1.0, np.zeros((3, 1)), pendulum_world, episode=0.0, steps=2.0)  # type: ignore[arg-type]
    assert len(whole.reward) == 2


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=2), spaces.MultiDiscrete([2, 3], start=[1, 2])])
def test_whole_number_actions_are_those_of_the_env(space: Any) -> None:
    task = wmgym.make_task(lambda: Line(space), reward_fn=toy.paid, terminated_fn=toy.never)
    log = wmgym.collect(lambda: Line(space), steps=20, workers=1)
    world = toy.world(toy.Stub([0.3]), task)
    given = log.action[:4] + space.start
    np.testing.assert_array_equal(wmgym.counterfactual(log, 0, given, world).action, given)
    for wrong in (np.zeros_like(given), given + 9, given + 0.5):
        with pytest.raises(ValueError, match=r"whole numbers inside .*log\.action counts from 0: add"):
            wmgym.counterfactual(log, 0, wrong, world)
