"""What an env remembers by an exact rule is computed, not predicted: last actions, delays, counts, phases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from gymnasium import spaces

import wmgym
from wmgym.data.checks import check
from wmgym.data.traits import with_traits
from wmgym.data.transitions import Transitions
from wmgym.models.coordinates import Coordinates
from wmgym.tasks.geometry import Geometry, Rule

CART = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body name="cart">
      <joint name="cart" type="slide" axis="1 0 0" damping="1"/>
      <geom type="box" size=".1 .1 .1"/>
      <body>
        <joint name="pole" axis="0 1 0" damping=".1"/>
        <geom type="capsule" fromto="0 0 0 0 0 .5" size=".02"/>
      </body>
    </body>
    <body pos="0 0 2"><freejoint/><geom type="box" size=".1 .2 .3"/></body>
  </worldbody>
  <actuator><motor joint="cart" gear="5"/></actuator>
</mujoco>
"""
CONFIG = wmgym.FitConfig(members=2, width=16, max_updates=30)


class Remembers(gym.Env[np.ndarray, Any]):
    """Shows what it remembers beside a state; in MuJoCo, or, with ``model=False``, of its own arithmetic."""

    dt = 0.02

    def __init__(self, model: bool = True, choices: int = 0, noise: float = 0.0) -> None:
        self.noise, self.choices = noise, choices
        if model:
            self.model = mujoco.MjModel.from_xml_string(CART)
            self.data = mujoco.MjData(self.model)
        self.x, self.last, self.memory, self.t = np.zeros(4), 0.0, np.zeros(4), 0
        self.action_space = spaces.Discrete(choices) if choices else spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (11,), np.float64)

    def look(self) -> np.ndarray:
        x = np.concatenate([self.data.qpos[:2], self.data.qvel[:2]]) if hasattr(self, "data") else self.x
        turn = 0.4 * self.t
        noise = self.noise * self.np_random.normal(size=4)
        return np.array([*x, *(self.memory + noise), np.cos(turn), np.sin(turn), 0.02 * self.t])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=4)
        if hasattr(self, "data"):
            mujoco.mj_resetData(self.model, self.data)
            self.data.qpos[:2], self.data.qvel[:] = self.x[:2], self.np_random.normal(size=8)
        self.memory, self.t = np.array([0, 0, 0, self.x[0]]), int(self.np_random.integers(5))
        return self.look(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        u = float(action) if self.choices else float(action[0])
        before = self.look()[0]
        if hasattr(self, "data"):
            self.data.ctrl[:] = u
            mujoco.mj_step(self.model, self.data, 2)
        else:
            force = u - 0.3 * np.sin(3 * self.x[:2])
            self.x = self.x + 0.1 * np.array([*np.tanh(self.x[2:]), *force])
        # The last action, the one before, a filter of them, and where the first number was a step ago.
        self.memory = np.array([u, self.memory[0], 0.8 * self.memory[2] + 0.2 * u, before])
        self.t += 1
        return self.look(), -u * u, False, False, {}


def _collected(make: Callable[[], Remembers]) -> Transitions:
    return wmgym.collect(make, steps=600, max_episode_steps=50, workers=1)


@pytest.mark.parametrize("choices", [0, 3])
def test_what_a_robot_remembers_by_a_rule_is_as_in_the_env(choices: int, tmp_path: Path) -> None:
    def make() -> Remembers:
        return Remembers(choices=choices)

    data = _collected(make)
    layout, geometry = data.task.core.layout, data.task.core.geometry
    assert layout is not None
    assert layout.columns() == {"exact": list(range(11)), "predicted": [], "remembered": []}
    assert len(geometry.rules) == 7
    assert layout.kept == tuple(range(4, 11))
    world = wmgym.fit(data, seed=0, config=CONFIG)
    _follows(world, make, range(4, 11))
    world.save(tmp_path / "world")
    again = wmgym.load(tmp_path / "world", task=data.task)
    assert again.task.core.geometry.rules == geometry.rules
    _follows(again, make, range(4, 11))


def test_what_an_env_without_a_model_remembers_is_as_in_the_env() -> None:
    def make() -> Remembers:
        return Remembers(model=False)

    data = _collected(make)
    rules = with_traits(data).task.core.geometry.rules
    # Filters and phases are laws of motion like any other where nothing says what else the state is.
    assert [rule.number for rule in rules] == [4, 5, 7, 10]
    assert any("follow exactly from a step" in finding.text for finding in check(data))
    _follows(wmgym.fit(data, seed=0, config=CONFIG), make, [4, 5, 7, 10])


def test_a_few_choices_are_followed_too() -> None:
    def make() -> Remembers:
        return Remembers(model=False, choices=3)

    rules = {rule.number: rule for rule in with_traits(_collected(make)).task.core.geometry.rules}
    assert {4, 5, 7, 10} <= rules.keys()
    _follows(wmgym.fit(_collected(make), seed=0, config=CONFIG), make, [4, 5, 7, 10])


def _follows(world: wmgym.WorldModel, make: Callable[[], Remembers], columns: Any) -> None:
    """Imagined episodes from a real start, under the actions of a real one, remember what it does."""
    env, at = make(), list(columns)
    start, _ = env.reset(seed=3)
    core = world.task.core
    state = core.from_obs(start) if core.layout is None else core.layout.read(env, start)
    state = np.asarray(state, np.float32)[: core.dim]
    batch, single = wmgym.ImaginedVectorEnv(world, 2), wmgym.ImaginedEnv(world)
    batch.reset(seed=0, options={"state": state})
    single.reset(seed=0, options={"state": state})
    firsts = [start[0], np.full(2, start[0]), start[0]]
    env.action_space.seed(0)
    for _ in range(5):
        action = env.action_space.sample()
        real = env.step(action)[0]
        rows, row = batch.step(np.stack([action, action]))[0], single.step(action)[0]
        for shown, first in zip((real, rows, row), firsts, strict=True):
            if 7 in at:  # where its own first number was
                np.testing.assert_allclose(shown[..., 7], first, atol=1e-5)
        firsts = [real[0], rows[:, 0], row[0]]
        alike = [k for k in at if k != 7]
        np.testing.assert_allclose(rows[:, alike], np.stack([real[alike]] * 2), atol=1e-5)
        np.testing.assert_allclose(row[alike], real[alike], atol=1e-5)


@pytest.mark.parametrize("model", [True, False])
def test_what_only_resembles_a_rule_is_predicted(model: bool) -> None:
    data = with_traits(_collected(lambda: Remembers(model, noise=1e-3)))
    followed = {data.task.core.names[rule.number] for rule in data.task.core.geometry.rules}
    assert followed == ({"obs_8", "obs_9", "obs_10"} if model else {"obs_10"})


def test_rules_take_what_was_before_what_comes_after_and_the_action() -> None:
    rules = (Rule(3, ((0, 1.0),)), Rule(4, ((5, 2.0), (11, -1.0)), 0.5), Rule(2, ((10, 1.0),)))
    coordinates = Coordinates(Geometry(5, rules=rules))
    assert coordinates.change_dim == 2
    core, action = np.arange(10, dtype=np.float32).reshape(2, 5), np.array([[7, 8], [9, 10]], np.float32)
    change = np.array([[1, 2], [3, 4]], np.float32)
    after = coordinates.followed(core, coordinates.move(core, change)[0], action)
    first = core[:, 0] + change[:, 0]
    np.testing.assert_array_equal(after[:, :2], core[:, :2] + change)
    np.testing.assert_array_equal(after[:, 2], action[:, 0])
    np.testing.assert_array_equal(after[:, 3], core[:, 0])
    np.testing.assert_array_equal(after[:, 4], 2 * first - action[:, 1] + 0.5)
    given = torch.tensor(action, requires_grad=True)
    before = torch.tensor(core)
    said = coordinates.followed(before, coordinates.move(before, torch.tensor(change))[0], given)
    np.testing.assert_array_equal(said.detach().numpy(), after)
    (gradient,) = torch.autograd.grad(said.sum(), given)
    np.testing.assert_array_equal(gradient.numpy(), [[1, -1], [1, -1]])
    np.testing.assert_array_equal(coordinates.difference(core, after, core[:, :0]), change)


def test_rules_of_numbers_that_are_not_there_are_refused() -> None:
    assert Geometry(3, rules=(Rule(2, ((7, 1.0),)),)).follows(2)
    assert not Geometry(3, rules=(Rule(2, ((7, 1.0),)),)).follows(1)
    assert not Geometry(3, rules=(Rule(3, ((0, 1.0),)),)).follows(2)
    assert not Geometry(3, rules=(Rule(2, ((5, 1.0),)),)).follows(2)  # of itself after the step
