"""Robots that nobody described: the layout comes from the model, the rest from recorded steps."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

import wmgym
from tools import describe_models
from wmgym.data.checks import check
from wmgym.data.transitions import Transitions
from wmgym.io import artifacts
from wmgym.models.coordinates import Coordinates
from wmgym.tasks.mjcf import known
from wmgym.tasks.mjcf.mirror import Mirror
from wmgym.tasks.mjcf.model import describe
from wmgym.tasks.mjcf.shown import Column, Shown
from wmgym.tasks.rendering import Renderer

EVERYTHING = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 .1"/>
    <body name="arm" pos="0 0 1">
      <joint name="spin" type="hinge" axis="0 1 0" damping="0.1"/>
      <geom type="capsule" fromto="0 0 0 .3 0 0" size=".03"/>
      <body name="fore" pos=".3 0 0">
        <joint name="elbow" type="hinge" axis="0 -1 0" range="-120 30" limited="true" damping="0.1"/>
        <geom type="capsule" fromto="0 0 0 .3 0 0" size=".03"/>
        <body name="hand" pos=".3 0 0">
          <joint name="wrist" type="ball" damping="0.05"/>
          <geom type="box" size=".05 .03 .02" pos=".05 0 0"/>
        </body>
      </body>
    </body>
    <body name="ball" pos="1 0 .3"><freejoint name="ball"/><geom type="sphere" size=".1"/></body>
    <body name="box" pos="-1 0 .3"><freejoint name="box"/><geom type="box" size=".1 .1 .1"/></body>
    <body name="goal" mocap="true" pos="0 1 1"><geom type="sphere" size=".05" contype="0"/></body>
  </worldbody>
  <actuator>
    <general name="muscle" joint="spin" dyntype="filter" dynprm="0.05" gainprm="2" ctrlrange="-1 1"/>
    <motor name="motor" joint="elbow" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""


class Everything(gym.Env[np.ndarray, np.ndarray]):
    """A chain with a ball joint and an activation, two loose bodies, a mocap goal, and odd observations."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    dt = 0.02

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.model = mujoco.MjModel.from_xml_string(EVERYTHING)
        self.data = mujoco.MjData(self.model)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (len(self._get_obs()),), np.float64)
        self.count, self.task = 0, 0.0

    def _get_obs(self) -> np.ndarray:
        q, v, a = self.data.qpos, self.data.qvel, self.data.act
        wrapped = (q[0] + np.pi) % (2 * np.pi) - np.pi
        columns = [
            np.cos(q[0]), np.sin(q[0]), q[1] * 2 + 1, wrapped, np.clip(v[0], -2, 2), q[6] - q[13], a[0],
            *q[2:6], 7.0, np.cos(q[0] - q[1]), np.tanh(v[1]) * q[1], float(q[1] > -0.5),
            getattr(self, "task", 0.0), getattr(self, "count", 0) * 0.1,
        ]  # fmt: skip
        return np.array(columns)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:2] = self.np_random.uniform((-6, -1), (6, 0.3))
        self.data.qvel[2:] = self.np_random.normal(size=self.model.nv - 2)
        self.data.mocap_pos[0] = self.np_random.uniform(-1, 1, 3)
        self.task, self.count = float(self.np_random.normal()), 0
        mujoco.mj_forward(self.model, self.data)
        return self._get_obs(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, 4)
        self.count += 1
        return self._get_obs(), float(-abs(self.data.qpos[1])), False, False, {}

    def render(self) -> Any:
        raise AssertionError("drawn by a camera of wmgym's own")


@pytest.fixture(scope="module")
def data() -> Transitions:
    return wmgym.collect(Everything, steps=800, max_episode_steps=80, workers=1)


def test_the_model_gives_names_angles_limits_and_rotations(data: Transitions) -> None:
    core = data.task.core
    names = core.names
    assert names[:6] == ("spin", "elbow", "wrist_quat_w", "wrist_quat_x", "wrist_quat_y", "wrist_quat_z")
    assert {"ball_x", "ball_quat_w", "box_z_velocity", "box_x_angular_velocity", "wrist_x_angular_velocity",
            "muscle_activation", "goal_x"} <= set(names)  # fmt: skip
    g = core.geometry
    assert g.angles == (0,)  # the elbow has limits
    assert core.joint_limits == ((1, pytest.approx(np.radians(-120)), pytest.approx(np.radians(30))),)
    assert g.stops == core.joint_limits
    assert [names[at] for at in g.rotations] == ["wrist_quat_w", "ball_quat_w", "box_quat_w"]
    assert (g.quaternion, g.free) == (None, ())
    fixed = {names[i] for i in g.fixed}
    assert fixed == {
        *(f"goal_{part}" for part in ("x", "y", "z")),
        *(f"goal_quat_{k}" for k in "wxyz"),
        "obs_15",
    }


def test_exact_columns_are_found_and_the_rest_is_read_out_or_remembered(data: Transitions) -> None:
    layout: Any = data.task.core.layout
    columns = layout.shown.columns
    assert columns[2].terms == ((1, 2.0),)
    assert columns[2].offset == 1.0
    assert columns[3].wrapped
    assert (columns[4].low, columns[4].high) == (-2.0, 2.0)
    assert columns[5].terms == ((6, 1.0), (13, -1.0))
    assert columns[11].terms == ()
    assert len(columns[12].terms) == 1  # the cosine of a sum of two hinges
    assert layout.shown.readouts == (13, 14)
    assert columns[14].classed
    assert layout.kept == (15, 16)  # the task's number and the counter
    np.testing.assert_allclose(data.task.core.observe(data.state), data.obs, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(
        data.task.core.observe(torch.tensor(data.state)).numpy(), data.obs, rtol=1e-5, atol=2e-6
    )


def test_from_obs_gives_back_what_is_shown(data: Transitions) -> None:
    core = data.task.core
    back = core.from_obs(data.obs)
    shown = [
        i for i in range(core.dim) if i not in core.hidden and core.names[i] != "spin_velocity"
    ]  # clipped
    assert {core.names[i] for i in shown} >= {"spin", "elbow", "wrist_quat_w", "muscle_activation", "obs_15"}
    off = back[:, shown] - data.core[:, shown]
    off[:, 0] = (off[:, 0] + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(off).max() < 1e-4


def test_changes_compose_back_through_rotations(data: Transitions) -> None:
    coordinates = Coordinates(data.task.core.geometry)
    change = coordinates.difference(data.core, data.next_core, data.displacement.astype(np.float32))
    assert change.shape[1] == coordinates.change_dim
    action = np.asarray(data.action)
    moved = coordinates.followed(data.core, coordinates.move(data.core, change)[0], action)
    np.testing.assert_allclose(moved, data.next_core, atol=3e-6, rtol=1e-5)
    assert coordinates.features(data.core).shape[1] == coordinates.feature_dim
    core, act = torch.tensor(data.core), torch.tensor(action)
    tensors = coordinates.followed(core, coordinates.move(core, torch.tensor(change))[0], act).numpy()
    np.testing.assert_allclose(tensors, moved, atol=1e-6)


def put(document: Any, place: str, value: Any) -> Any:
    """A copy of a JSON value with another value at a dotted place."""
    key, _, rest = place.partition(".")
    at: Any = int(key) if isinstance(document, list) else key
    changed = document.copy()
    changed[at] = put(document[at], rest, value) if rest else value
    return changed


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        ("joint_limits.0.1", 9e9, "begins after its end"),
        ("geometry.stops.0.0", 999, "does not have"),
        ("geometry.stops.0.1", 9e9, "begins after its end"),
        ("shown.columns.0", {"low": 2.0, "high": 1.0}, "begins after its end"),
        ("shown.angles.0.0.1", 1e300, "observations of starts are not finite"),
        ("shown.columns.0.offset", 1e300, "observations of starts are not finite"),
    ],
)
def test_stored_layouts_that_contradict_themselves_are_refused(
    data: Transitions, tmp_path: Path, place: str, value: Any, why: str
) -> None:
    config = wmgym.FitConfig(members=1, width=4, depth=1, max_updates=1)
    wmgym.fit(data, config).save(tmp_path / "world")
    arrays, document = artifacts.read_directory(tmp_path / "world", kind="world")
    changed = put(document, f"task.layout.{place}", value)
    artifacts.write_directory(tmp_path / "world", kind="world", arrays=arrays, document=changed)
    with pytest.raises(artifacts.StoreError, match=why) as caught:
        wmgym.load(tmp_path / "world")
    assert "\n" not in str(caught.value)


def test_a_world_is_fitted_stored_scored_and_drawn(data: Transitions, tmp_path: Any) -> None:
    config = wmgym.FitConfig(members=2, width=16, depth=1, max_updates=5, eval_every=5)
    world = wmgym.fit(data, config)
    world.save(tmp_path / "world")
    with pytest.raises(ValueError, match="env"):
        wmgym.load(tmp_path / "world").task.make()
    again = wmgym.load(tmp_path / "world", task=wmgym.make_task(Everything))
    assert again.task.core.names == data.task.core.names
    state = data.state[40]
    renderer = Renderer(again.task)
    env = Everything()
    picture = mujoco.Renderer(env.model, 480, 480)
    at = wmgym.collect(Everything, steps=41, workers=1).core[40]  # the same seed and actions
    for name, values in data.task.core.layout.parts(state.astype(np.float64)).items():  # type: ignore[union-attr]
        getattr(env.data, name)[...] = values.reshape(getattr(env.data, name).shape)
    mujoco.mj_forward(env.model, env.data)
    picture.update_scene(env.data)
    np.testing.assert_array_equal(renderer.frame(state[: data.task.core.dim]), picture.render())
    np.testing.assert_allclose(at[:20], data.core[40][:20], atol=1e-6)
    picture.close()
    renderer.close()
    imagined = wmgym.ImaginedEnv(again, max_episode_steps=5)
    obs, _ = imagined.reset(seed=0)
    assert obs.shape == (17,)
    imagined.step(imagined.action_space.sample())
    with pytest.raises(ValueError, match="hides"):
        imagined.reset(options={"obs": obs})


def test_reward_functions_see_observations(data: Transitions) -> None:
    def reward(obs: Any, action: Any, next_obs: Any) -> Any:
        return next_obs[:, 2]

    task = wmgym.make_task(Everything, reward_fn=reward)
    with pytest.warns(UserWarning, match="another reward"):
        told = wmgym.collect(task, steps=100, max_episode_steps=50, workers=1)
    assert told.task.reward is not None
    arrays = (told.state, told.action, told.next_state, told.unobserved)
    said = told.task.reward(*map(torch.tensor, arrays))
    np.testing.assert_allclose(said, told.next_obs[:, 2], atol=1e-6)


@pytest.mark.parametrize(
    ("env_id", "free", "quaternion", "pitch"),
    [
        ("Hopper-v5", ["rootx"], None, None),
        ("Swimmer-v5", ["slider1", "slider2"], None, ("free_body_rot", 1)),
        ("Ant-v5", ["root_x", "root_y"], "root_quat_w", None),
        ("Pusher-v5", [], None, None),
    ],
)
def test_what_does_not_matter_is_seen_in_the_model(
    env_id: str, free: list[str], quaternion: str | None, pitch: tuple[str, int] | None
) -> None:
    env: Any = gym.make(env_id).unwrapped
    robot = describe(env.model)
    names = robot.names
    assert [names[i] for i in robot.nowhere] == free
    assert (None if robot.base is None else names[robot.base]) == quaternion
    assert (robot.pitch and (names[robot.pitch[0]], robot.pitch[1])) == pitch


def test_an_angle_that_a_spring_or_a_servo_holds_counts_its_turns() -> None:
    body = '<body><joint name="{0}" axis="0 0 1" {1}/><geom size=".1"/></body>'
    joints = (("spring", 'stiffness="1"'), ("servo", ""), ("loose", ""))
    bodies = "".join(body.format(*each) for each in joints)
    model = mujoco.MjModel.from_xml_string(
        f"<mujoco><worldbody>{bodies}</worldbody>"
        '<actuator><position joint="servo" kp="1"/></actuator></mujoco>'
    )
    robot = describe(model)
    assert [robot.names[i] for i in robot.circle] == ["loose"]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shimmy", None)  # as if it were not installed
    for env_id in [each for each in gym.registry if each.startswith("dm_control/")]:
        monkeypatch.delitem(gym.registry, env_id)
    with pytest.raises(ValueError, match=r"pip install 'shimmy\[dm-control\]'"):
        wmgym.make_task("dm_control/walker-walk-v0")


@pytest.mark.parametrize("sums", [False, True])
def test_arrays_show_what_tensors_show(sums: bool) -> None:
    """Columns that are no sums are picked from an array, and multiplied by a matrix in a tensor."""
    columns = (
        Column(((2, 1.0),)), Column((), offset=4.0), Column(((0, -2.0),), offset=1.0),
        Column(((1, 1.0), (2, -1.0)) if sums else ((1, 1.0),), low=-0.5, high=0.5),
    )  # fmt: skip
    mirror = Mirror(Shown(3, (), columns, (0.0, 0.0, 0.0)))
    assert mirror.picked is not sums
    core = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    before = core.copy()
    said = mirror.observe(core)
    np.testing.assert_allclose(said, mirror.observe(torch.tensor(core)).numpy(), rtol=1e-6)
    np.testing.assert_allclose(mirror.observe(core[0]), said[0], rtol=1e-6)
    np.testing.assert_array_equal(core, before)
    assert said.dtype == np.float32


def test_mirror_solves_chains_of_angles() -> None:
    """A robot that shows each link's direction in the world tells its joints' angles."""
    task = wmgym.collect("dm_control/walker-walk-v0", steps=300, workers=1).task
    core: Any = task.core
    assert core.hidden == ()
    assert core.shown_dim == 0
    mirror = Mirror(core.layout.shown)
    state = np.random.default_rng(0).uniform(-1, 1, (20, core.dim))
    state[:, list(core.geometry.free)] = mirror.from_obs(mirror.observe(state))[:, list(core.geometry.free)]
    np.testing.assert_allclose(mirror.from_obs(mirror.observe(state)), state, atol=1e-9)
    assert task.max_episode_steps == 1000
    env: Any = task.make(render_mode="rgb_array")
    env.reset(seed=3)
    for _ in range(20):
        obs = env.step(env.action_space.sample())[0]
    renderer = Renderer(task)
    frame = renderer.frame(task.read_core(env, obs))
    np.testing.assert_array_equal(frame, env.render())
    renderer.close()
    env.close()


def test_what_is_kept_of_gymnasiums_models_is_what_they_say() -> None:
    assert known.models() == {file: describe_models.described(file) for file in describe_models.FILES}


def test_collections_of_one_robot_go_together_whatever_each_told(data: Transitions) -> None:
    """A single episode does not show that the goal is remembered, nor whether a sensor ever fires."""
    world = wmgym.fit(data, wmgym.FitConfig(members=2, width=8, depth=1, max_updates=2, eval_every=2))
    one = wmgym.collect(Everything, steps=80, max_episode_steps=80, seed=1, workers=1)
    assert one.task.core.dim < data.task.core.dim
    bounded = wmgym.calibrate(world, one, horizon=5)
    assert bounded.calibration is not None
    joined = wmgym.concat([data, one])
    assert joined.task.core.names == data.task.core.names
    np.testing.assert_allclose(joined.task.core.observe(joined.state), joined.obs, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="used by fit"):
        wmgym.calibrate(world, data.select([0]))


def test_data_that_show_more_than_the_layout_knows_are_named(data: Transitions) -> None:
    def said(found: Transitions) -> list[str]:
        return [finding.text for finding in check(found) if finding.about == "exact columns"]

    assert said(data) == []
    obs = data.obs.copy()
    obs[5, 2] += 0.5
    (text,) = said(replace(data, obs=obs))
    assert "obs_2" in text


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48)])
def test_an_env_that_fixes_the_size_of_its_pictures_is_drawn(height: int, width: int) -> None:
    class Fixed(InvertedPendulumEnv):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(width=40, height=30, **kwargs)

    gym.register("Fixed-v0", Fixed, max_episode_steps=20)
    try:
        data = wmgym.collect("Fixed-v0", steps=20, workers=1)
        camera = Renderer(data.task, fast=True, width=width, height=height, camera_name="track")
        picture = camera.frame(data.core[3])
        camera.close()
    finally:
        del gym.registry["Fixed-v0"]
    assert picture.shape == (height, width, 3)
    assert picture.std() > 0


HAND = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <default><joint type="hinge" axis="0 0 1" damping="0.2" limited="true"/></default>
  <worldbody>
    <body>
      <joint name="shoulder" range="-30 30"/>
      <geom type="capsule" fromto="0 0 0 .3 0 0" size=".03"/>
      <body pos=".3 0 0">
        <joint name="elbow" range="60 100"/>
        <geom type="capsule" fromto="0 0 0 .3 0 0" size=".03"/>
        <site name="tip" pos=".3 0 0"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="shoulder" gear=".3"/><motor joint="elbow" gear=".3"/></actuator>
  <sensor><framepos objtype="site" objname="tip"/><framelinvel objtype="site" objname="tip"/></sensor>
</mujoco>
"""


class Hand(gym.Env[np.ndarray, np.ndarray]):
    """An arm that shows where its hand is and, if asked to, how fast that moves."""

    dt = 0.02

    def __init__(self, moving: bool = True) -> None:
        self.model = mujoco.MjModel.from_xml_string(HAND)
        self.data = mujoco.MjData(self.model)
        self.shown = [0, 1, 3, 4] if moving else [0, 1]
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (len(self.shown),), np.float64)

    def _get_obs(self) -> np.ndarray:
        mujoco.mj_forward(self.model, self.data)
        return np.array(self.data.sensordata[self.shown])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self.np_random.uniform((-0.3, 1.2), (0.3, 1.6))
        return self._get_obs(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, 2)
        return self._get_obs(), 0.0, False, False, {}


def test_what_nothing_shows_is_unseen_where_what_is_shown_tells_enough(tmp_path: Path) -> None:
    data = wmgym.collect(Hand, steps=1_500, max_episode_steps=30, workers=1)
    core = data.task.core
    assert core.layout is not None
    assert core.layout.kept == (2, 3)  # type: ignore[attr-defined]
    assert core.geometry.free == (2, 3)  # the joints' velocities; their places follow from the hand's
    assert core.shown_dim == 0
    assert {i for kind, i in Coordinates(core.geometry).feature_labels if kind == "world"} == {0, 1, 4, 5}
    config = wmgym.FitConfig(members=2, width=32, depth=2, max_updates=100)
    wmgym.fit(data, config).save(tmp_path / "world")
    env = wmgym.ImaginedEnv(wmgym.load(tmp_path / "world", task=data.task), max_episode_steps=5)
    obs, _ = env.reset(seed=0)
    assert obs.shape == env.step(env.action_space.sample())[0].shape == (4,)


def test_what_nothing_shows_is_seen_where_it_tells_more() -> None:
    data = wmgym.collect(lambda: Hand(False), steps=1_500, max_episode_steps=30, workers=1)
    core = data.task.core
    assert {2, 3} <= {*core.hidden}
    assert core.geometry.free == ()
    assert {i for kind, i in Coordinates(core.geometry).feature_labels if kind == "world"} == {0, 1, 2, 3}
