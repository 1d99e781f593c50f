"""Places that an env reads of its simulation after a step are those of a moment ago."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from gymnasium import spaces

import wmgym
from wmgym.data.checks import check
from wmgym.models.contacts import ContactFeatures
from wmgym.tasks.mjcf.places import seconds_late

ARM = """
<mujoco>
  <option timestep="0.004" integrator="{integrator}"/>
  <worldbody>
    <body name="cart" pos="0 0 1">
      <joint name="cart" type="slide" axis="1 0 0" range="-1 1" limited="true" damping="1"/>
      <geom type="box" size=".1 .1 .1"/>
      <body name="upper">
        <joint name="shoulder" axis="0 -1 0" damping=".2"/>
        <geom type="capsule" fromto="0 0 0 .3 0 0" size=".02"/>
        <body name="fore" pos=".3 0 0">
          <joint name="elbow" axis="0 1 0" damping=".1"/>
          <geom type="capsule" fromto="0 0 0 .2 0 0" size=".02"/>
          <site name="tip" pos=".2 0 .05"/>
        </body>
      </body>
    </body>
    <body name="ball" pos="2 0 .3"><freejoint/><geom type="sphere" size=".1"/></body>
    <body name="sphere" pos="2 1 1"><joint type="ball"/><geom type="box" size=".1 .2 .1" pos=".1 0 0"/></body>
    <geom type="plane" size="5 5 .1"/>
  </worldbody>
  <actuator><motor joint="cart" gear="5"/><motor joint="shoulder" gear="2"/><motor joint="elbow"/></actuator>
</mujoco>
"""


class Arm(gym.Env[np.ndarray, np.ndarray]):
    """An arm on a cart that tells where its tip is, how its forearm is turned, and where the cart is."""

    dt = 0.02

    def __init__(self, integrator: str = "Euler", forward: bool = False) -> None:
        self.model = mujoco.MjModel.from_xml_string(ARM.format(integrator=integrator))
        self.data, self.forward = mujoco.MjData(self.model), forward
        self.action_space = spaces.Box(-1, 1, (3,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (12,), np.float64)

    def look(self) -> np.ndarray:
        data = self.data
        tip, fore = data.site("tip").xpos, data.body("fore").xmat.reshape(3, 3)
        q = data.qpos[:3]
        return np.array([q[0], *np.cos(q[1:]), *np.sin(q[1:]), *data.qvel[:3],
                         tip[0], tip[2], fore[0, 2], data.body("cart").xpos[0]])  # fmt: skip

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[: min(3, self.model.nq)] = self.np_random.uniform(-0.5, 0.5, min(3, self.model.nq))
        self.data.qvel[:] = self.np_random.normal(size=self.model.nv)
        mujoco.mj_forward(self.model, self.data)
        return self.look(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, 5)
        if self.forward:
            mujoco.mj_forward(self.model, self.data)
        return self.look(), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("settings", "late"),
    [
        ({}, 0.004),
        ({"integrator": "implicitfast"}, 0.004),
        ({"forward": True}, 0.0),
        ({"integrator": "RK4"}, 0.0),
    ],
)
def test_the_moment_of_what_an_env_reads_is_measured(settings: dict[str, Any], late: float) -> None:
    assert seconds_late(Arm(**settings)) == late


@pytest.mark.parametrize("forward", [False, True])
def test_places_are_exact_columns_of_the_joints_a_moment_ago(forward: bool) -> None:
    """MuJoCo placed the tip; what is shown of a step is what it said, and so it is at a start at rest."""
    data = wmgym.collect(lambda: Arm(forward=forward), steps=400, max_episode_steps=50, workers=1)
    core = data.task.core
    assert core.shown_dim == 0
    np.testing.assert_allclose(core.observe(data.next_state), data.next_obs, atol=2e-6)
    places = core.observe(data.state[data.first])[:, 8:]
    moved = np.abs(places - data.obs[data.first][:, 8:]).max()
    assert moved < 2e-6 if forward else 1e-4 < moved < 0.02  # within a moment of where it starts
    back = core.from_obs(data.next_obs)
    shown = [core.names.index(name) for name in ("cart", "shoulder", "elbow", "cart_velocity")]
    np.testing.assert_allclose(np.cos(back[:, shown]), np.cos(data.next_core[:, shown]), atol=2e-6)


def test_an_integrator_of_several_stages_leaves_places_to_be_predicted() -> None:
    data = wmgym.collect(lambda: Arm("RK4"), steps=400, max_episode_steps=50, workers=1)
    assert data.task.core.shown_dim == 4


def test_readouts_see_contacts_of_the_moment_that_the_env_reads() -> None:
    """Features a moment ago are those of the state that MuJoCo integrates back to."""
    data = wmgym.collect(Arm, steps=400, max_episode_steps=50, workers=1)
    geometry, model = data.task.core.geometry, Arm().model
    assert geometry.contacts.pairs  # the ball and the floor
    now, then = geometry.contacts, geometry.in_world().contacts
    assert (now.ago, then.ago) == (0.0, 0.004)
    core = data.next_core.astype(np.float64)
    earlier = core.copy()
    for row in earlier:
        mujoco.mj_integratePos(
            model, position := row[: model.nq].copy(), row[model.nq : model.nq + model.nv], -0.004
        )
        row[: model.nq] = position
    seen = ContactFeatures(then, ())(core)
    np.testing.assert_allclose(seen, ContactFeatures(now, ())(earlier), atol=1e-6)
    torch.testing.assert_close(
        ContactFeatures(then, ())(torch.tensor(core)), torch.tensor(seen), atol=1e-6, rtol=0
    )


class Reach(Arm):
    """Its goal is drawn anew in every episode; it tells the goal and how far that is from the tip."""

    def __init__(self, forward: bool = False) -> None:
        super().__init__(forward=forward)
        self.observation_space = spaces.Box(-np.inf, np.inf, (16,), np.float64)
        self.goal = np.zeros(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        gym.Env.reset(self, seed=seed)
        self.goal = self.np_random.uniform(-1, 1, 2)
        return super().reset(seed=None)

    def look(self) -> np.ndarray:
        return np.concatenate([super().look(), self.goal - self.data.site("tip").xpos[[0, 2]], self.goal])


@pytest.mark.parametrize("forward", [False, True])
def test_what_is_left_to_a_goal_is_an_exact_column(forward: bool) -> None:
    data = wmgym.collect(lambda: Reach(forward=forward), steps=600, max_episode_steps=50, workers=1)
    core = data.task.core
    assert core.shown_dim == 0
    assert core.names[-2:] == ("obs_14", "obs_15")  # the goal, and nothing else, is remembered
    np.testing.assert_allclose(core.observe(data.next_state), data.next_obs, atol=4e-6)
    assert not [each for each in check(data) if "otherwise than" in each.text]


class HiddenReach(Reach):
    """It tells how far its goal is, and not where."""

    def __init__(self, forward: bool = False) -> None:
        super().__init__(forward)
        self.observation_space = spaces.Box(-np.inf, np.inf, (14,), np.float64)

    def look(self) -> np.ndarray:
        return super().look()[:14]


@pytest.mark.parametrize("forward", [False, True])
def test_what_is_left_to_a_goal_that_nothing_shows_is_exact_but_for_the_goal(forward: bool) -> None:
    data = wmgym.collect(lambda: HiddenReach(forward=forward), steps=600, max_episode_steps=50, workers=1)
    core = data.task.core
    assert (core.shown_dim, core.hidden) == (0, ())
    np.testing.assert_array_equal(data.core[:, -2:], data.next_core[:, -2:])  # the goal, but for a constant
    assert core.geometry.fixed[-2:] == (core.dim - 2, core.dim - 1)
    np.testing.assert_allclose(core.observe(data.next_state), data.next_obs, atol=4e-6)
    np.testing.assert_allclose(core.from_obs(data.next_obs)[:, -2:], data.next_core[:, -2:], atol=4e-6)
    assert data.describe()["observation_columns"]["remembered"] == []
    more = wmgym.collect(
        lambda: HiddenReach(forward=forward), steps=600, max_episode_steps=50, seed=7, workers=1
    )
    assert wmgym.concat([data, more]).core.shape == (1_200, core.dim)
    world = wmgym.fit(data, wmgym.FitConfig(members=2, width=8, depth=1, max_updates=2))
    state = world.init(torch.tensor(data.state[:5]), torch.Generator().manual_seed(0))
    after = world.step(state, torch.zeros(5, 3)).state.full
    tip = [8, 9]
    moved = core.observe(after)[:, tip] - core.observe(state.full)[:, tip]
    left = core.observe(after)[:, 12:] - core.observe(state.full)[:, 12:]
    torch.testing.assert_close(left, -moved, atol=1e-5, rtol=0)


class HiddenCart(Reach):
    """It tells its joints, and how far its cart is from a goal that it does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-np.inf, np.inf, (9,), np.float64)

    def look(self) -> np.ndarray:
        return np.append(super().look()[:8], self.goal[0] - self.data.qpos[0])


def test_a_single_episode_takes_a_hidden_goal_for_a_constant_and_more_are_told_apart() -> None:
    one = wmgym.collect(HiddenCart, steps=100, workers=1)
    assert "obs_8" not in one.task.core.names
    with pytest.warns(UserWarning, match="show obs_8 otherwise than the data in which it was found"):
        later = wmgym.collect(one.task, steps=100, max_episode_steps=50, seed=5, workers=1)
    with pytest.warns(UserWarning, match=r"join with wmgym\.concat"):
        wmgym.concat([one, later])
    more = wmgym.collect(HiddenCart, steps=100, max_episode_steps=50, seed=5, workers=1)
    for joined in (wmgym.concat([one, more]), wmgym.concat([more, one])):
        assert joined.task.core.names[-1] == "obs_8"


SPACE_ARM = """
<mujoco>
  <option timestep="0.004"/>
  <worldbody>
    <body pos="0 0 1">
      <joint name="yaw" axis="0 0 1" damping=".2"/>
      <geom type="capsule" fromto="0 0 0 .1 0 0" size=".02"/>
      <body pos=".1 0 0">
        <joint name="lift" axis="0 1 0" damping=".2"/>
        <geom type="capsule" fromto="0 0 0 .3 0 0" size=".02"/>
        <body pos=".3 0 0">
          <joint name="roll" axis="1 0 0" damping=".1"/><joint name="bend" axis="0 1 0" damping=".1"/>
          <geom type="capsule" fromto="0 0 0 .2 0 0" size=".02"/>
          <site name="tip" pos=".2 0 .05"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="yaw"/><motor joint="lift" gear="3"/><motor joint="bend"/></actuator>
</mujoco>
"""


class SpaceArm(Arm):
    """Its hinges turn about different axes; it tells where its tip is."""

    def __init__(self) -> None:
        super().__init__()
        self.model = mujoco.MjModel.from_xml_string(SPACE_ARM)
        self.data = mujoco.MjData(self.model)
        self.observation_space = spaces.Box(-np.inf, np.inf, (15,), np.float64)

    def look(self) -> np.ndarray:
        q = self.data.qpos
        return np.concatenate([np.cos(q), np.sin(q), self.data.qvel, self.data.site("tip").xpos])


def test_places_in_space_are_predicted_and_not_remembered() -> None:
    core = wmgym.collect(SpaceArm, steps=1_000, max_episode_steps=50, workers=1).task.core
    assert core.shown_dim == 3
    assert not [name for name in core.names if name.startswith("obs_")]


class Cart(Arm):
    """It has no hinge, and tells where its body is."""

    def __init__(self) -> None:
        super().__init__()
        self.model = mujoco.MjModel.from_xml_string(
            """<mujoco><option timestep="0.004"/><worldbody><body name="cart">
            <joint name="cart" type="slide" axis="1 0 0" damping="1"/><geom size=".1"/></body></worldbody>
            <actuator><motor joint="cart"/></actuator></mujoco>"""
        )
        self.data = mujoco.MjData(self.model)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)

    def look(self) -> np.ndarray:
        return np.array([self.data.qpos[0], self.data.qvel[0], self.data.body("cart").xpos[0]])


def test_places_of_slides_alone_are_exact_a_moment_ago_too() -> None:
    data = wmgym.collect(Cart, steps=400, max_episode_steps=50, workers=1)
    assert data.task.core.shown_dim == 0
    assert data.task.core.dim == 2
    np.testing.assert_allclose(data.task.core.observe(data.next_state), data.next_obs, atol=2e-6)
