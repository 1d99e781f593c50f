"""Headings, tilts and velocities in a body's own frame are exact columns, and are turned back into states."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.spatial.transform import Rotation

import wmgym
from wmgym.tasks.mjcf import orientation as numbers
from wmgym.tasks.mjcf.mirror import Mirror
from wmgym.tasks.mjcf.orientation import Orientation
from wmgym.tasks.mjcf.shown import Column, Shown
from wmgym.tasks.mjcf.told import Told

STATE = Orientation(at=0, spin=7, velocity=4)
LEFT = """
<mujoco>
  <option timestep="0.004" integrator="{integrator}"/>
  <worldbody>
    <geom type="plane" size="20 20 .1"/>
    <body name="car" pos="0 0 .1">
      <freejoint/>
      <geom type="box" size=".2 .12 .04" mass="3"/>
      <geom type="sphere" size=".05" pos=".17 0 -.05" mass=".1" friction="0 0 0" condim="1"/>
      <site name="mast" pos=".1 .02 .2"/>
      <body pos="-.08 .16 0">
        <joint name="left" axis="0 1 0" damping=".02"/>
        <geom type="cylinder" size=".1 .02" euler="90 0 0" mass=".3"/>
      </body>
      <body pos="-.08 -.16 0">
        <joint name="right" axis="0 1 0" damping=".02"/>
        <geom type="cylinder" size=".1 .02" euler="90 0 0" mass=".3"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="left" gear=".6"/><motor joint="right" gear=".6"/></actuator>
</mujoco>
"""


class Car(gym.Env[np.ndarray, np.ndarray]):
    """Two driven wheels; ``kind`` is what it shows."""

    dt = 0.02

    def __init__(self, kind: str, integrator: str = "Euler") -> None:
        self.model = mujoco.MjModel.from_xml_string(LEFT.format(integrator=integrator))
        self.data, self.kind = mujoco.MjData(self.model), kind
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        mujoco.mj_forward(self.model, self.data)
        self.observation_space = spaces.Box(-np.inf, np.inf, self.look().shape, np.float64)

    def look(self) -> np.ndarray:
        q, v = self.data.qpos, self.data.qvel
        turn = Rotation.from_quat(q[3:7], scalar_first=True)
        yaw, pitch, roll = turn.as_euler("ZYX")
        local, speeds = turn.inv().apply(v[:3]), v[6:8]
        if self.kind == "wheeled":
            return np.array([*q[:2], np.cos(yaw), np.sin(yaw), *local[:2], v[5], *speeds])
        if self.kind == "degrees":
            return np.array([*q[:2], np.rad2deg(yaw), *local[:2], v[5], *speeds])
        if self.kind == "legged":
            return np.array([q[2], *turn.inv().apply([0, 0, -1]), *local, *v[3:6], *speeds])
        if self.kind == "level":
            ahead = Rotation.from_euler("z", yaw).inv().apply(v[:3])
            return np.array([q[2], roll, pitch, *ahead, turn.apply(v[3:6])[2], *speeds])
        if self.kind == "compass":  # clockwise from the second axis, in degrees, and a heading in turns
            return np.array([*q[:2], np.rad2deg(np.pi / 2 - yaw) % 360, yaw / (2 * np.pi) % 1, *local, v[5]])
        if self.kind == "quaternion":
            return np.array(
                [*q[:3], *(q[3:7] * (1 if q[3] >= 0 else -1)), *local, *turn.apply(v[3:6]), *speeds]
            )
        if self.kind == "inertial":
            return np.array([*q[:7], *local, *v[3:]])
        if self.kind == "raw":  # of a quaternion that is not of unit length at a start
            w, x, y, z = q[3:7]
            up = [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
            return np.array([*q[:7], *up, *v])
        if self.kind == "pose":
            return np.array([*q[:3], *turn.as_matrix()[:, :2].T.ravel(), *q[7:9], *v])
        # What MuJoCo keeps of the places of bodies is of before the last move of the joints.
        mast, axes = self.data.site("mast").xpos, self.data.body("car").xmat.reshape(3, 3)
        return np.array([*mast, *axes[:, 0], *v])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        turn = Rotation.from_euler("ZYX", self.np_random.uniform([-3, -0.1, -0.1], [3, 0.1, 0.1]))
        self.data.qpos[:3] = self.np_random.uniform(-0.5, 0.5, 3) * [1, 1, 0] + [0, 0, 0.15]
        self.data.qpos[3:7] = turn.as_quat(scalar_first=True) * (1.02 if self.kind == "raw" else 1)
        self.data.qvel[:] = self.np_random.normal(size=self.model.nv)
        mujoco.mj_forward(self.model, self.data)
        return self.look(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, 5)
        return self.look(), float(self.data.qvel[0]), False, False, {}


def _states(n: int) -> tuple[np.ndarray, Rotation]:
    rng = np.random.default_rng(0)
    turn = Rotation.random(n, random_state=0)
    quaternion = turn.as_quat(scalar_first=True) * rng.choice([-1, 1, 1.001], (n, 1))
    return np.concatenate([quaternion, rng.normal(size=(n, 6))], 1), turn


def test_numbers_are_those_of_scipy() -> None:
    states, turn = _states(200)
    number, velocity, spin = STATE.number(states), states[:, 4:7], states[:, 7:]
    zyx, xyz = turn.as_euler("ZYX"), turn.as_euler("XYZ")
    ahead = Rotation.from_euler("z", zyx[:, :1]).inv().apply(velocity)
    without_tilt = Rotation.from_quat(turn.as_quat() * [0, 0, 1, 1]).as_euler("ZYX")[:, 0]
    expected = [
        *turn.as_matrix().reshape(-1, 9).T, np.cos(zyx[:, 0]), np.sin(zyx[:, 0]),
        np.cos(without_tilt), np.sin(without_tilt), *zyx[:, ::-1].T, *xyz.T, without_tilt,
        *turn.inv().apply(velocity).T, *turn.apply(spin).T, *ahead[:, :2].T, *states[:, :4].T,
        *(states[:, :4] * np.where(states[:, :1] < 0, -1, 1)).T,
    ]  # fmt: skip
    assert len(expected) == numbers.COUNT
    for k, right in enumerate(expected):
        np.testing.assert_allclose(number(k), right, atol=1e-9, err_msg=str(k))
        np.testing.assert_allclose(STATE.number(torch.tensor(states))(k).numpy(), right, atol=1e-9)


def test_a_moment_ago_is_where_mujoco_integrates_back_to() -> None:
    states, _ = _states(50)
    states[:, :4] /= np.linalg.norm(states[:, :4], axis=1, keepdims=True)
    fast = states.copy()
    fast[:, 7:] *= 30
    for few, ago in ((states, 0.01), (fast, 0.01)):
        number = Orientation(at=0, spin=7, velocity=4, ago=ago).number(few)
        for row, state in enumerate(few):
            quaternion, matrix = state[:4].copy(), np.empty(9)
            mujoco.mju_quatIntegrate(quaternion, state[7:], -ago)
            mujoco.mju_quat2Mat(matrix, quaternion)
            np.testing.assert_allclose([number(k)[row] for k in numbers.MATRIX], matrix, atol=1e-9)


ROWS, COLUMNS = (3, 4, 5, 6, 7, 8), (0, 3, 6, 2, 5, 8)


@pytest.mark.parametrize(
    ("shown", "known"),
    [
        (numbers.MATRIX, range(4)),
        (ROWS, range(4)),
        ((*COLUMNS, *numbers.LOCAL), range(7)),
        ((0, 3, 6, 7, 8, *numbers.SPIN), (*range(4), *range(7, 10))),
        ((6, 7, 8, *numbers.HEADING, *numbers.LOCAL), range(7)),
        ((6, 7, 8, *numbers.TWIST), range(4)),
        ((*numbers.EULER[:2], numbers.TWIST_ANGLE), range(4)),
        (numbers.EULER, range(4)),
        ((*numbers.OTHER_EULER, *numbers.LOCAL, *numbers.SPIN), range(10)),
        (numbers.HEADING, ()),
        ((6, 7, 8, *numbers.LOCAL), ()),
    ],
)
def test_what_is_shown_is_turned_back(shown: tuple[int, ...], known: tuple[int, ...]) -> None:
    states, turn = _states(100)
    number = STATE.number(states)
    obs = np.stack([3 * number(k) + 1 for k in shown], 1)
    told = Told(STATE, {k: (column, 3.0, 1.0) for column, k in enumerate(shown)})
    assert told.known() == set(known)
    found = told.numbers(obs, obs)
    again = np.stack([found.get(i, states[:, i]) for i in range(10)], 1)
    if known:
        back = Rotation.from_quat(again[:, :4], scalar_first=True)
        assert (back * turn.inv()).magnitude().max() < 1e-6
        np.testing.assert_allclose(again[:, 4:], states[:, 4:], atol=1e-6)
    # Whatever is left open, the observation is the same but for what it does not pin down.
    number = STATE.number(again)
    for column, k in enumerate(shown):
        np.testing.assert_allclose(3 * number(k) + 1, obs[:, column], atol=1e-5)


KINDS = (
    "wheeled",
    "degrees",
    "compass",
    "legged",
    "level",
    "pose",
    "quaternion",
    "inertial",
    "raw",
    "sensors",
)
TOLD = ("legged", "pose", "quaternion", "inertial", "raw")  # the orientation and all velocities


@pytest.mark.parametrize("integrator", ["Euler", "RK4"])
@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_exact(kind: str, integrator: str) -> None:
    def make() -> Car:
        return Car(kind, integrator)

    data = wmgym.collect(make, steps=600, max_episode_steps=100, workers=1)
    core = data.task.core
    assert core.layout is not None
    columns = core.layout.columns()
    if kind == "sensors" and integrator == "RK4":  # the places are of no single moment
        assert columns["exact"] == list(range(6, 14))
        return
    assert columns == {"exact": list(range(data.task.obs_dim)), "predicted": [], "remembered": []}
    sees_heading = kind not in ("legged", "level")
    assert (core.geometry.rotations == (3,)) is sees_heading
    env = make()
    env.reset(seed=7)
    states, seen = [], []
    for _ in range(30):
        obs = env.step(np.array([1, -0.5]))[0]
        states.append(core.layout.read(env, obs))
        seen.append(obs)
    said = core.observe(np.array(states))
    np.testing.assert_allclose(said, seen, atol=1e-5 * np.abs(seen).max())
    tensor = torch.tensor(np.array(states), requires_grad=True)
    shown = core.observe(tensor)
    np.testing.assert_allclose(shown.detach().numpy(), said, atol=1e-9 * np.abs(seen).max())
    (gradient,) = torch.autograd.grad(shown.sum(), tensor)
    assert gradient.isfinite().all()
    if kind in TOLD:
        again = core.observe(core.from_obs(np.array(seen)))
        np.testing.assert_allclose(again, seen, atol=1e-5)
        assert not {*core.hidden} & {*range(3, 7), *range(9, 17)}


def test_an_imagined_heading_stays_on_the_circle_in_every_kind_of_env() -> None:
    data = wmgym.collect(lambda: Car("wheeled"), steps=600, max_episode_steps=100, workers=1)
    config = wmgym.FitConfig(members=2, width=16, max_updates=40)
    world = wmgym.fit(data, seed=0, config=config)
    batch = wmgym.ImaginedVectorEnv(world, 3, max_episode_steps=50)
    single = wmgym.ImaginedEnv(world, max_episode_steps=50)
    rows, (row, _) = batch.reset(seed=1)[0], single.reset(seed=1)
    for _ in range(20):
        rows = batch.step(batch.action_space.sample())[0]
        row = single.step(single.action_space.sample())[0]
        np.testing.assert_allclose(np.hypot(rows[:, 2], rows[:, 3]), 1, atol=1e-5)
        np.testing.assert_allclose(np.hypot(row[2], row[3]), 1, atol=1e-5)


def test_orientations_are_those_of_the_model() -> None:
    ball = Orientation(at=0, spin=4)
    assert not set(ball.numbers) & {*numbers.LOCAL, *numbers.LEVEL}
    robot = wmgym.make_task(lambda: Car("wheeled")).robot
    assert robot is not None
    assert numbers.orientations(robot) == (Orientation(at=3, spin=12, velocity=9),)


BOAT = """
<mujoco>
  <option timestep="0.01"{options}/>
  <worldbody>
    <body>
      <joint name="x" type="slide" axis="1 0 0" damping=".5"/>
      <joint name="y" type="slide" axis="0 1 0" damping=".5"/>
      <joint name="yaw" axis="0 0 {sense}" damping=".1"/>
      <geom type="box" size=".3 .1 .1"/>
    </body>
    <body pos="5 0 1"><joint type="ball"/><geom type="capsule" fromto="0 0 0 0 0 -.5" size=".05"/></body>
  </worldbody>
  <actuator><motor joint="x"/><motor joint="y"/><motor joint="yaw"/></actuator>
</mujoco>
"""


class Boat(Car):
    """Slides and turns in a plane, beside a pendulum that nothing turns about its axis."""

    def __init__(self, sense: int = 1) -> None:
        self.model = mujoco.MjModel.from_xml_string(BOAT.format(options="", sense=sense))
        self.data, self.sense = mujoco.MjData(self.model), sense
        self.action_space = spaces.Box(-1, 1, (3,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (11,), np.float64)

    def look(self) -> np.ndarray:
        (x, y, yaw), v = self.data.qpos[:3], self.data.qvel
        ahead = Rotation.from_euler("z", self.sense * yaw).inv().apply([*v[:2], 0])[:2]
        axis = Rotation.from_quat(self.data.qpos[3:7], scalar_first=True).apply([0, 0, -1])
        return np.array([x, y, np.rad2deg(yaw) % 360, *ahead, v[2], *axis, *v[3:5]])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        gym.Env.reset(self, seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:3] = self.np_random.uniform(-7, 7, 3)
        self.data.qvel[:5] = self.np_random.normal(size=5)
        mujoco.mj_forward(self.model, self.data)
        return self.look(), {}


@pytest.mark.parametrize("sense", [1, -1])
def test_a_body_in_a_plane_feels_its_velocity_and_a_spin_of_rounding_is_none(sense: int) -> None:
    data = wmgym.collect(lambda: Boat(sense), steps=600, max_episode_steps=100, workers=1)
    core = data.task.core
    assert core.layout is not None
    assert core.layout.columns()["exact"] == list(range(11))
    again = core.observe(core.from_obs(data.obs.astype(float)))
    apart = np.abs(again - data.obs)
    apart[:, 2] = np.minimum(apart[:, 2], 360 - apart[:, 2])
    assert apart[:, :6].max() < 1e-3
    assert {core.names[i] for i in core.geometry.fixed} == {"joint3_z_angular_velocity"}
    world = wmgym.fit(data, seed=0, config=wmgym.FitConfig(members=2, width=16, max_updates=100))
    env = wmgym.ImaginedVectorEnv(world, 8, max_episode_steps=50)
    env.reset(seed=0)
    assert not any(
        env.step(env.action_space.sample())[4].get("diverged", np.zeros(8)).any() for _ in range(3)
    )


def test_a_velocity_along_a_heading_that_nothing_shows_tells_no_velocity() -> None:
    angle, velocity = 0, (1, 2)
    heading = numbers.Heading(angle, 3, 1, velocity)
    ahead = 4 + numbers.LEVEL[0]  # behind the four numbers of the core, of which no angle is taken
    for terms in (((ahead, 1.0),),), (((ahead, 1.0),), ((ahead + 1, 1.0),)):
        columns = tuple(Column(each) for each in terms)
        mirror = Mirror(Shown(4, (), columns, (0.5, 0.0, 0.0, 0.0), (heading,)))
        assert mirror.hidden == (0, 1, 2, 3)
        np.testing.assert_array_equal(mirror.from_obs(np.ones((2, len(columns)))), [[0.5, 0, 0, 0]] * 2)


def test_a_start_that_cannot_be_is_refused() -> None:
    data = wmgym.collect(lambda: Car("pose", "RK4"), steps=600, max_episode_steps=100, workers=1)
    world = wmgym.fit(data, seed=0, config=wmgym.FitConfig(members=2, width=16, max_updates=20))
    env = wmgym.ImaginedEnv(world)
    real = data.obs[5].copy()
    np.testing.assert_allclose(env.reset(options={"obs": real})[0], real, atol=1e-4)
    real[3:9] = 0
    with pytest.raises(ValueError, match="no state of the robot shows this observation: obs_"):
        env.reset(options={"obs": real})
    state = data.core[5].copy()
    state[3:7] = 0
    with pytest.raises(ValueError, match="are a rotation of length 0; quaternions have length 1"):
        env.reset(options={"state": state})
