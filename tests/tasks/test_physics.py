"""MuJoCo as a function of robots that nobody described, and the envs that it cannot stand for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import wmgym
from tests.tasks.test_mjcf import Everything
from wmgym.tasks import actions
from wmgym.tasks.physics import Physics


class Lively(Everything):
    """``Everything`` whose step is changed by a function ``(env, action)``, which may act on the data."""

    def __init__(
        self, before: Callable[[Any, np.ndarray], Any], space: spaces.Space[Any] | None = None
    ) -> None:
        super().__init__()
        self.before = before
        self.action_space = space or self.action_space  # type: ignore[assignment]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        given = self.before(self, action)
        return super().step(action if given is None else given)


def same(env: Callable[[], Any], rows: int = 120) -> Physics:
    """Check MuJoCo's steps against the env's, and return what made them."""
    data = wmgym.collect(env, steps=rows, max_episode_steps=40, workers=1)
    physics = Physics.of(data.task)
    given = data.action + actions.first(data.task.action_space)
    core, moved = physics.step(data.core.astype(float), actions.encoded(data.task.action_space, given))
    names = np.array(data.task.core.names)
    stepped = ~np.char.startswith(names, "obs_")  # what the env remembers in Python is not MuJoCo's
    change = np.abs(data.next_core - data.core).max(0)
    off = np.abs(core - data.next_core) / np.maximum(change, 1.0)
    assert np.quantile(off[:, stepped].max(1), 0.9) < 1e-4
    np.testing.assert_array_equal(core[:, ~stepped], data.core[:, ~stepped])
    assert moved.shape == (rows, 0)
    return physics


def test_activations_mocap_bodies_and_balls_are_stepped() -> None:
    physics = same(Everything)
    assert physics.control.skip == 4
    assert physics.control.factor is None


def test_scaled_actions_reach_the_actuators_scaled() -> None:
    physics = same(partial(Lively, lambda env, action: np.array([0.5, -0.2]) * action[::-1] + 0.1))
    np.testing.assert_allclose(physics.control.factor, [[0, -0.2], [0.5, 0]], atol=1e-9)
    np.testing.assert_allclose(physics.control.offset, 0.1)


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 3])])
def test_whole_number_actions_are_controls_too(space: spaces.Space[Any]) -> None:
    table = np.array([[-1.0, 0.5], [0.3, 0.0], [0.9, -0.4]])

    def chosen(env: Any, action: Any) -> np.ndarray:
        first = table[int(action) - 1] if np.ndim(action) == 0 else table[int(action[1])]
        return first if np.ndim(action) == 0 else first - 0.05 * int(action[0])

    same(partial(Lively, chosen, space))


def feedback(env: Any, action: np.ndarray) -> np.ndarray:
    return np.asarray(action - 0.3 * env.data.qpos[:2])


def pushed(env: Any, action: np.ndarray) -> None:
    env.data.xfrc_applied[1, 2] = env.np_random.normal() * 5


def carried(env: Any, action: np.ndarray) -> None:
    env.data.mocap_pos[0] += 0.01


def hurried(env: Any, action: np.ndarray) -> None:
    env.model.opt.timestep = 0.005 if action[0] > 0 else 0.002


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (feedback, "does not hand its actions on to muscle"),
        (pushed, "more than a step of its model"),
        (carried, "more than a step of its model: a mocap body"),
        (hurried, "not all as long"),
    ],
)
def test_an_env_that_does_more_than_its_model_is_refused(before: Any, message: str) -> None:
    data = wmgym.collect(partial(Lively, before), steps=60, max_episode_steps=20, workers=1)
    with pytest.raises(ValueError, match=message):
        Physics.of(data.task)


class Heavier(Everything):
    def reset(self, **kwargs: Any) -> Any:
        found = super().reset(**kwargs)
        self.model.body_mass[1] = 1 + self.np_random.uniform()
        return found


def test_a_model_that_changes_between_episodes_is_named() -> None:
    data = wmgym.collect(Heavier, steps=60, max_episode_steps=20, workers=1)
    with pytest.warns(UserWarning, match="body_mass"):
        Physics.of(data.task)


class Stiffer(Everything):
    def reset(self, **kwargs: Any) -> Any:
        found = super().reset(**kwargs)
        self.model.opt.gravity[2] = -5 - 5 * self.np_random.uniform()
        self.model.jnt_stiffness[:] = 1 + self.np_random.uniform()
        self.model.qpos_spring[0] = self.np_random.uniform()
        return found


def test_any_change_of_the_model_between_episodes_is_named() -> None:
    data = wmgym.collect(Stiffer, steps=60, max_episode_steps=20, workers=1)
    with pytest.warns(UserWarning, match=r"jnt_stiffness, opt.gravity, qpos_spring"):
        Physics.of(data.task)


def test_forces_beside_the_controls_are_named() -> None:
    data = wmgym.collect(partial(Lively, pushed), steps=60, max_episode_steps=20, workers=1)
    with pytest.raises(ValueError, match=r"mjData.xfrc_applied decides it too"):
        Physics.of(data.task)
