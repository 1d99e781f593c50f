"""Symmetries of robots that only their own model describes: found in it, and held to what MuJoCo does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box

import wmgym
from wmgym.data.layouts import laid_out
from wmgym.models.coordinates import Coordinates
from wmgym.models.symmetry import expressible, mapped, placed, views
from wmgym.tasks.layout import Symmetry
from wmgym.tasks.task import on_robot

ROOT = Path(__file__).parents[2]

LEG = """
<body name="{side}_thigh" pos="0 {y} -.2"><joint name="{side}_hip" axis="0 -1 0" range="-20 100"/>
  <geom type="capsule" fromto="0 0 0 0 0 -.3" size=".04" mass="{mass}"/>
  <body name="{side}_shin" pos="0 0 -.3"><joint name="{side}_knee" axis="0 -1 0" range="-150 0"/>
    <geom type="capsule" fromto="0 0 0 .05 0 -.3" size=".04"/></body></body>"""


def walker(y: float = 0.0, mass: float = 1.0, gear: float = 50.0) -> str:
    """A torso that slides and turns in the x-z plane, on two legs."""
    legs = LEG.format(side="right", y=-y, mass=1.0) + LEG.format(side="left", y=y, mass=mass)
    return f"""
<mujoco><option timestep=".005"/>
  <default><joint damping=".1" armature=".01"/><geom contype="1" conaffinity="0"/></default>
  <worldbody><geom name="floor" type="plane" size="9 9 1" conaffinity="1"/>
    <body pos="0 0 .9">
      <joint name="x" type="slide" axis="1 0 0" damping="0"/><joint name="z" type="slide" axis="0 0 1"/>
      <joint name="pitch" axis="0 1 0"/><geom type="capsule" fromto="0 0 -.2 0 0 .2" size=".06"/>{legs}
    </body></worldbody>
  <actuator><motor joint="right_hip" gear="50"/><motor joint="right_knee" gear="20"/>
    <motor joint="left_hip" gear="{gear}"/><motor joint="left_knee" gear="20"/></actuator>
</mujoco>"""


def arm(more: str = "", elbow: str = "-120 120", gear: str = "2", inside: str = "") -> str:
    """Two links in the x-y plane and a ball that they can push."""
    return f"""
<mujoco><option timestep=".005"/>
  <worldbody>
    <body pos="0 0 .05"><joint name="shoulder" axis="0 0 1" damping=".1"/>
      <geom type="capsule" fromto="0 0 0 .2 0 0" size=".02"/>{inside}
      <body pos=".2 0 0"><joint name="elbow" axis="0 0 1" damping=".1" range="{elbow}"/>
        <geom type="capsule" fromto="0 0 0 .2 0 0" size=".02"/></body></body>
    <body pos=".3 0 .05"><joint name="ball" type="slide" axis="0 1 0" damping="1"/>
      <geom type="sphere" size=".05"/></body>{more}
  </worldbody>
  <actuator><motor joint="shoulder"/><motor joint="elbow" gear="{gear}"/></actuator>
</mujoco>"""


LOOSE = """
<mujoco><option timestep=".005"/>
  <worldbody><geom type="plane" size="3 3 .1"/>
    <body pos="-.4 0 .3"><joint name="post" type="ball" damping=".5"/>
      <geom type="capsule" fromto="0 0 0 .3 0 0" size=".03"/>
      <body pos=".3 0 0"><joint name="wrist" axis="0 0 1"/>
        <geom type="capsule" fromto="0 0 0 .2 0 0" size=".03"/></body></body>
    <body pos="0 0 .05"><freejoint/><geom type="box" size=".1 .05 .05"/></body>
  </worldbody>
  <actuator><motor joint="wrist"/></actuator>
</mujoco>"""

Collect = Callable[..., wmgym.Transitions]


class Own(MujocoEnv):  # type: ignore[misc]
    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 100}  # noqa: RUF012

    def __init__(self, xml: str) -> None:
        super().__init__(xml, 2, Box(-np.inf, np.inf, (1,), np.float64))
        size = self.model.nq + self.model.nv
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float64)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.do_simulation(action, self.frame_skip)
        return self._obs(), float(self.data.qpos[0]), False, False, {}

    def reset_model(self) -> np.ndarray:
        qpos = self.init_qpos + self.np_random.uniform(-0.1, 0.1, self.model.nq)
        qpos[np.isin(self.init_qpos, [1.0])] = 1.0
        self.set_state(qpos, self.np_random.normal(size=self.model.nv) * 0.3 * (self.model.dof_damping < 9))
        return self._obs()

    def _obs(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])


class Remembering(Own):
    """Shows its last two actions, a filter and a clip of them, its joints a step ago, a count, a phase."""

    def __init__(self, xml: str, biased: float = 0.0) -> None:
        self.kept, self.biased = np.zeros(0), biased
        super().__init__(xml)
        self.action_space = Box(-1, 1, (self.model.nu,), np.float32)
        self.reset(seed=0)
        self.observation_space = Box(-np.inf, np.inf, self._obs().shape, np.float64)

    def reset_model(self) -> np.ndarray:
        super().reset_model()
        self.last = self.before = self.filtered = np.zeros(self.model.nu)
        self.joints, self.count = self.data.qpos.copy(), 0
        return self._obs()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        joints, self.count = self.data.qpos.copy(), self.count + 1
        _, *rest = super().step(action)
        self.last, self.before = np.array(action, float), self.last
        self.filtered = 0.8 * self.filtered + 0.2 * action + self.biased
        self.joints = joints
        return self._obs(), *rest

    def _obs(self) -> np.ndarray:
        if not hasattr(self, "last"):
            return super()._obs()
        clipped = np.clip(self.last, -0.5, 0.5)
        clock = [self.count, np.cos(0.4 * self.count), np.sin(0.4 * self.count)]
        kept = [self.last, self.before, self.filtered, self.joints, clipped, clock]
        return np.concatenate([super()._obs(), *kept])


@pytest.mark.parametrize(("xml", "count"), [(walker(), 1), (arm(), 1)])
def test_what_is_remembered_by_a_rule_is_mirrored_too(xml: str, count: int, tmp_path: Path) -> None:
    path = tmp_path / "own.xml"
    path.write_text(xml)
    task = replace(wmgym.make_task(lambda: Remembering(str(path))), max_episode_steps=50)
    data = wmgym.collect(task, steps=600, workers=1)
    core, geometry = data.task.core, data.task.core.geometry
    assert len(core.symmetries) == count
    assert len(geometry.rules) == data.obs.shape[1] - len(Own(str(path))._obs())
    for symmetry in core.symmetries:
        before, after = (
            mapped(symmetry, geometry, torch.tensor(x)).numpy() for x in (data.core, data.next_core)
        )
        action = placed(symmetry.action, torch.tensor(data.action)).numpy()
        for rule in geometry.rules:
            np.testing.assert_allclose(rule.of(before, after, action), after[:, rule.number], atol=1e-5)
    assert wmgym.fit(data, wmgym.FitConfig(members=1, width=16, max_updates=5)).task.core.symmetries


def test_a_rule_that_tells_left_from_right_leaves_no_mirror_image(tmp_path: Path) -> None:
    path = tmp_path / "own.xml"
    path.write_text(arm())
    task = replace(wmgym.make_task(lambda: Remembering(str(path), biased=0.01)), max_episode_steps=50)
    data = wmgym.collect(task, steps=600, workers=1)
    assert data.task.core.geometry.rules
    assert not data.task.core.symmetries


@pytest.fixture
def collected(tmp_path: Path) -> Collect:
    """Random steps of a model's text."""

    def collect(xml: str, steps: int = 300) -> wmgym.Transitions:
        path = tmp_path / "own.xml"
        path.write_text(xml)
        env = gym.wrappers.TimeLimit
        return wmgym.collect(lambda: env(Own(str(path)), 50), None, steps=steps, seed=0, workers=1)

    return collect


def images(data: wmgym.Transitions) -> list[dict[str, tuple[str, int]]]:
    """Of each symmetry the numbers that change place or sign."""
    names = data.task.core.names
    return [
        {names[k]: (names[i], sign) for k, (i, sign) in enumerate(each.core) if (i, sign) != (k, 1)}
        for each in data.task.core.symmetries
    ]


@pytest.mark.parametrize("y", [0.0, 0.05])
def test_like_legs_are_swapped(y: float, collected: Collect) -> None:
    data = collected(walker(y))
    (found,) = images(data)
    assert found["right_hip"] == ("left_hip", 1)
    assert found["left_knee_velocity"] == ("right_knee_velocity", 1)
    assert len(found) == 8
    assert data.task.core.symmetries[0].action == ((2, 1), (3, 1), (0, 1), (1, 1))


def test_an_arm_in_a_plane_is_mirrored(collected: Collect) -> None:
    data = collected(arm())
    (found,) = images(data)
    assert found == {name: (name, -1) for name in data.task.core.names}
    assert data.task.core.symmetries[0].action == ((0, -1), (1, -1))


@pytest.mark.parametrize(
    "xml",
    [
        walker(mass=1.1),
        walker(gear=45),
        arm(elbow="-120 110"),
        arm(inside='<geom type="sphere" size=".02" pos=".1 .03 0"/>'),
        arm('<geom type="box" size=".02 .02 .02" pos=".2 .12 .05"/>'),
        arm().replace("<option", '<option gravity="0 -1 -9.81"'),
        arm().replace("<option", '<option wind="0 1 0" density="50"'),
    ],
    ids=["mass", "gear", "limit", "lump", "wall", "gravity", "wind"],
)
def test_what_is_not_alike_has_no_symmetry(xml: str, collected: Collect) -> None:
    assert images(collected(xml, steps=400)) == []


@pytest.mark.parametrize(
    "goal",
    [
        '<body pos=".2 .2 0"><geom type="sphere" size=".02" contype="0" conaffinity="0"/></body>',
        """<body pos=".2 .2 .1"><joint name="goal" type="slide" axis="0 1 0" damping="10"/>
           <geom type="sphere" size=".02" contype="0" conaffinity="0"/></body>""",
    ],
    ids=["fixed", "set at resets"],
)
def test_a_goal_on_one_side_breaks_nothing(goal: str, collected: Collect) -> None:
    data = collected(arm(goal))
    (found,) = images(data)
    assert found == {name: (name, -1) for name in data.task.core.names if "goal" not in name}


@pytest.mark.parametrize("xml", [walker(0.05), arm(), LOOSE], ids=["walker", "arm", "loose"])
def test_a_fit_sees_what_mujoco_does_to_images(xml: str, collected: Collect) -> None:
    data = collected(xml, steps=500)
    core, width = data.task.core, data.task.action_dim
    g, coordinates = core.geometry, Coordinates(core.geometry)
    assert g.contacts.pairs
    (symmetry,) = expressible(core.symmetries, coordinates, width)
    found = views((symmetry,), coordinates, width)
    assert found is not None
    now, then = (torch.tensor(x, dtype=torch.float64) for x in (data.core, data.next_core))
    action = torch.tensor(data.action, dtype=torch.float64)
    none = now[:, :0]
    x, y = found.of(
        torch.cat([coordinates.features(now), action], 1)[None],
        coordinates.difference(now, then, none)[None],
        torch.ones((1, len(now)), dtype=torch.int64),
    )
    there, led = mapped(symmetry, g, now), mapped(symmetry, g, then)
    shown = torch.cat([coordinates.features(there), placed(symmetry.action, action)], 1)
    torch.testing.assert_close(x[0], shown, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(y[0], coordinates.difference(there, led, none), atol=1e-6, rtol=1e-6)


def test_what_a_network_cannot_express_is_left_out(collected: Collect) -> None:
    data = collected(arm())
    core = data.task.core
    places = core.symmetries[0].core
    apart: Symmetry = replace(core.symmetries[0], core=(places[2], places[1], places[0], *places[3:]))
    coordinates = Coordinates(core.geometry)
    assert expressible((*core.symmetries, apart), coordinates, 2) == core.symmetries
    odd = replace(data, task=replace(data.task, core=replace(core, symmetries=(apart,))))
    wmgym.fit(odd, wmgym.FitConfig(members=1, width=8, max_updates=1), 0)


@pytest.fixture(scope="module")
def push_bot() -> Any:
    """The example's id, its module where it can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples" / "own_robot"))
        yield "push_bot:lab/PushBot-v0"


def test_data_and_worlds_keep_them(push_bot: str, tmp_path: Path) -> None:
    data = wmgym.collect(push_bot, None, steps=300, seed=0, workers=1)
    (held,) = data.task.core.symmetries
    data.save(tmp_path / "data")
    assert wmgym.Transitions.load(tmp_path / "data").task.core.symmetries == (held,)
    world = wmgym.fit(data, wmgym.FitConfig(members=1, width=8, max_updates=1, finetune_updates=1), 0)
    world.save(tmp_path / "world")
    assert wmgym.load(tmp_path / "world").task.core.symmetries == (held,)
    assert wmgym.concat([data, data]).task.core.symmetries == (held,)


def test_a_changed_robot_loses_what_it_no_longer_has(push_bot: str) -> None:
    data = wmgym.collect(push_bot, None, steps=300, seed=0, workers=1)

    def changed(**changes: Any) -> wmgym.Transitions:
        env = wmgym.shift(push_bot, **changes)
        return wmgym.collect(env, None, steps=300, seed=0, workers=1)

    heavy, crooked = changed(mass=1.5), changed(payload=0.3, payload_at=[0.1, 0.05, 0.0])
    assert heavy.task.core.symmetries == data.task.core.symmetries
    assert crooked.task.core.symmetries == ()
    assert laid_out(crooked, data.task).task.core.symmetries == ()
    assert laid_out(heavy, data.task).task.core.symmetries == data.task.core.symmetries
    assert on_robot(data.task, crooked.task).core.symmetries == ()
