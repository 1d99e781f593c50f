"""A changed robot: nothing changed is nothing, and delay and play against a closed form on one joint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv

import wmgym
from wmgym.data.branch import branch
from wmgym.data.transitions import Transitions
from wmgym.tasks.ground_truth import snapshot
from wmgym.tasks.shift import SHIFTED, Shift
from wmgym.tasks.shifted_env import change_model
from wmgym.tasks.task import on_robot

ONE_JOINT = """
<mujoco><option timestep="0.01" gravity="0 0 0" integrator="Euler"/>
<worldbody><body simple="false"><joint name="slide" type="slide" axis="1 0 0"/>
<geom type="sphere" size="0.1" mass="2"/></body></worldbody>
<actuator><motor joint="slide" gear="3" ctrllimited="true" ctrlrange="-1 1"/></actuator></mujoco>
"""


class OneJointEnv(MujocoEnv):
    """Two kilograms on a rail, pushed by up to three newtons."""

    def __init__(self, path: str, **kwargs: Any) -> None:
        box = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        super().__init__(path, 1, box, **kwargs)

    def step(self, action: np.ndarray) -> Any:
        self.do_simulation(action, self.frame_skip)
        return self._get_obs(), 0.0, False, False, {}

    def reset_model(self) -> np.ndarray:
        self.set_state(self.init_qpos, self.init_qvel)
        return self._get_obs()

    def _get_obs(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])


class BlindEnv(MujocoEnv):
    """Has no method of its own for observations."""

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(path, 1, spaces.Box(-np.inf, np.inf, (2,), np.float64), **kwargs)


class OwnWayEnv(OneJointEnv):
    """Steps its model and reads its observations by itself."""

    def step(self, action: np.ndarray) -> Any:
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data)
        return np.concatenate([self.data.qpos, self.data.qvel]), 0.0, False, False, {}


def weaker(xml: str, factor: float, steps: int = 2_000) -> tuple[Any, Any]:
    """The data of a robot and of the same with other strength, after steps under full command."""
    found = []
    for gear in (1.0, factor):
        model = mujoco.MjModel.from_xml_string(xml)
        change_model(model, Shift(gear=gear))
        data = mujoco.MjData(model)
        data.ctrl[:] = 1
        mujoco.mj_step(model, data, steps)
        found.append(data)
    return found[0], found[1]


@pytest.fixture
def one_joint(tmp_path: Path) -> Any:
    path = tmp_path / "one_joint.xml"
    path.write_text(ONE_JOINT)
    gym.register("OneJoint-v0", entry_point=OneJointEnv, kwargs={"path": str(path)}, max_episode_steps=50)
    yield
    del gym.registry["OneJoint-v0"]


def velocities(commands: np.ndarray, **changes: Any) -> np.ndarray:
    env = wmgym.shift("OneJoint-v0", **changes)
    env.reset(seed=0)
    return np.array([env.step(np.array([each], np.float32))[0][1] for each in commands])


def pushed(forces: np.ndarray, mass: float = 2.0) -> np.ndarray:
    """Semi-implicit Euler without damping: the velocity is the sum of the accelerations."""
    return np.cumsum(3.0 * forces / mass * 0.01)


COMMANDS = np.sin(np.arange(40) / 4).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_delayed_command_acts_that_many_steps_later(one_joint: None, delay: int) -> None:
    acts = np.concatenate([np.zeros(delay), COMMANDS])[: len(COMMANDS)]
    np.testing.assert_allclose(velocities(COMMANDS, delay=delay), pushed(acts), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("delay", [0, 2])
def test_play_is_lost_at_every_turn(one_joint: None, delay: int) -> None:
    acts, held = [], 0.0
    for command in np.concatenate([np.zeros(delay), COMMANDS])[: len(COMMANDS)]:
        held = min(max(held, command - 0.25), command + 0.25)  # a quarter of half the range
        acts.append(held)
    found = velocities(COMMANDS, backlash=0.25, delay=delay)
    np.testing.assert_allclose(found, pushed(np.array(acts)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "mass", "strength"),
    [({"mass": 1.5}, 3.0, 1.0), ({"payload": 4.0}, 6.0, 1.0), ({"gear": 0.5}, 2.0, 0.5)],
)
def test_mass_payload_and_gear_scale_the_acceleration(
    one_joint: None, changes: dict[str, float], mass: float, strength: float
) -> None:
    found = velocities(COMMANDS, **changes)
    np.testing.assert_allclose(found, pushed(strength * COMMANDS, mass), rtol=1e-9, atol=1e-12)


def test_a_payload_moves_the_centre_of_mass_and_adds_inertia(one_joint: None) -> None:
    model: Any = wmgym.shift("OneJoint-v0", payload=2.0, payload_at=[0.4, 0, 0]).unwrapped.model  # type: ignore[attr-defined]
    np.testing.assert_allclose(model.body_ipos[1], [0.2, 0, 0], atol=1e-12)
    own = 0.4 * 2 * 0.1**2
    np.testing.assert_allclose(sorted(model.body_inertia[1]), [own, own + 0.16, own + 0.16], rtol=1e-9)


@pytest.mark.parametrize("env_id", ["Hopper-v5", "HalfCheetah-v5", "Ant-v5", "Pusher-v5", "Humanoid-v5"])
def test_a_shift_of_nothing_is_the_nominal_robot_to_the_last_bit(env_id: str) -> None:
    nominal, same = gym.make(env_id), wmgym.shift(env_id)
    assert (same.observation_space, same.action_space) == (nominal.observation_space, nominal.action_space)
    np.testing.assert_array_equal(nominal.reset(seed=3)[0], same.reset(seed=3)[0])
    nominal.action_space.seed(0)
    for _ in range(20):
        action = nominal.action_space.sample()
        for mine, its in zip(nominal.step(action)[:4], same.step(action)[:4], strict=True):
            np.testing.assert_array_equal(mine, its)


EVERY = {
    what: changes for name in ("mild", "strong", "unmodelled") for what, changes in wmgym.shifts(name).items()
}


@pytest.mark.parametrize("what", EVERY)
def test_every_named_shift_changes_what_happens(what: str) -> None:
    nominal, changed = gym.make("Hopper-v5"), wmgym.shift("Hopper-v5", **EVERY[what])
    obs = []
    for env in (nominal, changed):
        env.reset(seed=0)
        env.action_space.seed(1)
        obs.append([env.step(env.action_space.sample())[0] for _ in range(60)])
    assert not np.allclose(*obs, atol=1e-6)


def test_data_of_a_changed_robot_say_so_and_come_back_from_a_file(tmp_path: Path) -> None:
    task = wmgym.make_task(wmgym.shift("Hopper-v5", friction=0.3, delay=2))
    assert (task.env_id, task.max_episode_steps) == (SHIFTED, 1_000)
    assert task.env_kwargs == {"env_id": "Hopper-v5", "friction": 0.3, "delay": 2}
    assert task.from_table
    data = wmgym.collect(task, steps=60, seed=0)
    data.save(tmp_path / "data")
    again = Transitions.load(tmp_path / "data")
    assert dict(again.task.env_kwargs) == dict(task.env_kwargs)
    assert wmgym.collect(again.task, steps=60, seed=0).fingerprints() == data.fingerprints()


def test_the_known_reward_is_that_of_the_changed_robot() -> None:
    for changes in ({"delay": 1, "backlash": 0.1}, {"mass": 1.3, "slope": 4.0}):
        task = wmgym.make_task(wmgym.shift("HalfCheetah-v5", **changes))
        data = wmgym.collect(task, steps=50, seed=0)
        assert task.reward is not None
        said = task.reward(data.state, data.action, data.next_state, data.unobserved)
        np.testing.assert_allclose(said, data.reward, atol=1e-4)


def test_noisy_sensors_are_all_that_the_data_know() -> None:
    task = wmgym.make_task(wmgym.shift("Hopper-v5", sensor_noise=0.05))
    data = wmgym.collect(task, steps=60, seed=0)
    np.testing.assert_array_equal(data.core, task.core.from_obs(data.obs))
    again = wmgym.collect(task, steps=60, seed=0)
    np.testing.assert_array_equal(data.obs, again.obs)


def test_a_snapshot_holds_the_commands_under_way() -> None:
    task = wmgym.make_task(wmgym.shift("Hopper-v5", delay=3, backlash=0.2))
    env = task.make()
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(5):
        env.step(env.action_space.sample())
    at, actions = snapshot(env), np.array([env.action_space.sample() for _ in range(6)])
    went = np.array([env.step(action)[0] for action in actions], np.float32)
    np.testing.assert_array_equal(branch(task, at, actions, env).next_obs, went)
    np.testing.assert_array_equal(branch(task, at, actions).next_obs, went)


def test_a_world_of_the_nominal_robot_looks_at_the_changed_one() -> None:
    task = wmgym.make_task("Hopper-v5")
    other = on_robot(task, wmgym.shift("Hopper-v5", mass=1.5))
    assert other.env_id == SHIFTED
    assert other.core is not None
    with pytest.raises(ValueError, match="changed robot's observation_space"):
        on_robot(task, "HalfCheetah-v5")


def test_another_xml_with_the_same_joints_keeps_what_is_known() -> None:
    assert wmgym.make_task("Pusher-v5", env_kwargs={"xml_file": "pusher_v5.xml"}).from_table


@pytest.mark.parametrize(
    "changes",
    [
        {"mass": 0},
        {"delay": -1},
        {"delay": 1.5},
        {"slope": 90},
        {"payload_at": [1]},
        {"friction": float("nan")},
    ],
)
def test_impossible_robots_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|takes|factor"):
        wmgym.shift("Hopper-v5", **changes)


def test_a_changed_robot_takes_the_keywords_that_draw_it() -> None:
    task = wmgym.make_task(wmgym.shift("Hopper-v5", mass=1.5))
    env: Any = task.make(render_mode="rgb_array", width=64, height=48, camera_name="track")
    assert (env.render_mode, env.unwrapped.width) == ("rgb_array", 64)


def test_only_mujoco_envs_shift() -> None:
    with pytest.raises(ValueError, match="no MuJoCo env"):
        wmgym.shift("CartPole-v1", mass=2.0)
    with pytest.raises(ValueError, match="no set of shifts"):
        wmgym.shifts("wild")


def test_a_robot_of_a_module_is_shifted_by_the_id_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rail.xml").write_text(ONE_JOINT)
    (tmp_path / "rail_robot.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Rail-v0', 'tests.tasks.test_shift:OneJointEnv', max_episode_steps=50,\n"
        f"                   kwargs={{'path': {str(tmp_path / 'rail.xml')!r}}})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="needs the module 'rail_robot'"):  # of a file
        gym.make(SHIFTED, env_id="rail_robot:Rail-v0")
    env = wmgym.shift("rail_robot:Rail-v0", payload=2.0)
    assert env.unwrapped.model.body_mass[1] == 4  # type: ignore[attr-defined]
    assert env.spec is not None
    assert env.spec.max_episode_steps == 50
    assert gym.make(env.spec).spec == env.spec
    del gym.registry["Rail-v0"]


SERVO = """
<mujoco><option timestep="0.01" gravity="0 0 0"/><worldbody><body>
<joint name="hinge" axis="0 0 1" damping="1"/><geom type="capsule" size="0.02" fromto="0 0 0 .3 0 0"/>
</body></worldbody><actuator><position joint="hinge" kp="2"/></actuator></mujoco>
"""
MUSCLE = SERVO.replace(
    '<position joint="hinge" kp="2"/>',
    '<muscle joint="hinge" force="5" lengthrange="-2 2" ctrlrange="0 1" ctrllimited="true"/>',
)


def test_a_weaker_servo_goes_where_it_is_told_with_less_force() -> None:
    usual, weak = weaker(SERVO, 0.5)
    assert np.allclose([usual.qpos, weak.qpos], 1, atol=1e-3)
    usual, weak = weaker(SERVO, 0.5, steps=1)
    assert np.allclose(weak.actuator_force, 0.5 * usual.actuator_force)


def test_a_weaker_muscle_pulls_less_at_the_same_length() -> None:
    usual, weak = weaker(MUSCLE, 0.5, steps=2)
    assert usual.actuator_force[0] < 0
    assert np.allclose(weak.actuator_force, 0.5 * usual.actuator_force, rtol=1e-2)
    assert np.allclose(weak.actuator_length, usual.actuator_length, atol=1e-3)


def test_a_payload_hangs_on_the_first_body_that_moves() -> None:
    table = '<body name="table"><geom type="box" size="1 1 .1"/></body>'
    model = mujoco.MjModel.from_xml_string(ONE_JOINT.replace("<worldbody>", f"<worldbody>{table}"))
    before = model.body_mass.copy()
    change_model(model, Shift(payload=3.0))
    assert (model.body_mass - before).tolist() == [0, 0, 3]


def test_noise_of_sensors_needs_a_method_that_reads_them(one_joint: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "one_joint.xml")
    gym.register("Blind-v0", entry_point=BlindEnv, kwargs={"path": path}, max_episode_steps=50)
    try:
        with pytest.raises(ValueError, match="_get_obs, which the class of Blind-v0 does not have; give it"):
            wmgym.shift("Blind-v0", sensor_noise=0.1)
    finally:
        del gym.registry["Blind-v0"]


@pytest.mark.parametrize("changes", [{"delay": 1}, {"backlash": 0.1}, {"sensor_noise": 0.1}])
def test_an_env_that_goes_past_what_is_changed_is_refused(one_joint: None, changes: dict[str, Any]) -> None:
    path = gym.spec("OneJoint-v0").kwargs["path"]
    gym.register("OwnWay-v0", entry_point=OwnWayEnv, kwargs={"path": path}, max_episode_steps=50)
    try:
        env = wmgym.shift("OwnWay-v0", **changes)
        env.reset(seed=0)
        with pytest.raises(ValueError, match="by which this env does not"):
            env.step(np.zeros(1, np.float32))
    finally:
        del gym.registry["OwnWay-v0"]


def test_the_changed_robot_has_its_time_limit_by_its_id_alone(one_joint: None) -> None:
    task = wmgym.make_task(SHIFTED, env_kwargs={"env_id": "OneJoint-v0", "gear": 0.5})
    assert task.max_episode_steps == 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gear": "weak"}, "gear must be a number, got 'weak'"),
        ({"mass": [1, 2]}, "mass must be a number"),
        ({"friction": True}, "friction must be a number"),
        ({"delay": 1.5}, "delay must be a whole number of at least 0, got 1.5"),
        ({"delay": 10**10}, "delay takes at most 10,000 env steps"),
        ({"delay": 10**400}, "delay must be a whole number"),
        ({"payload_at": 3}, "payload_at takes three metres"),
        (
            {"payload": 1, "payload_at": [1e200, 0, 0]},
            "payload_at takes three metres, each from -1000 to 1000",
        ),
        ({"payload": 1e300}, "payload must be from 0 to 1e6"),
        ({"mass": 1e-300}, "mass is a factor from 1e-6 to 1e6"),
        ({"damping": 1e300}, "damping is a factor"),
        ({"sensor_noise": float("inf")}, "sensor_noise must be from 0"),
        ({"slope": float("nan")}, "slope takes less than 90 degrees"),
        ({"env_kwargs": 3}, "env_kwargs must be keywords"),
        ({"env_kwargs": 0}, "env_kwargs must be keywords"),
        ({"env_kwargs": {1: 2}}, "env_kwargs must be keywords"),
        ({"env_kwargs": {"frame_skip": 0}}, "frame_skip must be a whole number of at least 1, got 0"),
        ({"env_kwargs": {"frame_skip": 2.5}}, "frame_skip must be a whole number"),
        ({"env_kwargs": {"xml_file": "nowhere.xml"}}, "with these env_kwargs: OSError: .* does not exist"),
        ({"env_kwargs": {"nope": 3}}, "unexpected keyword argument 'nope'"),
        ({"wind": 3}, "no change called wind; there are friction"),
    ],
)
def test_what_is_no_change_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        wmgym.shift("InvertedPendulum-v5", **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("delay", [2.0, np.float64(2), np.int32(2)])
def test_numbers_of_any_type_are_stored_as_plain_ones(delay: Any) -> None:
    env = wmgym.shift("InvertedPendulum-v5", delay=delay, mass=np.float32(2), payload_at=np.array([1, 0, 0]))
    assert env.spec is not None
    assert env.spec.kwargs["delay"] == 2
    assert [type(env.spec.kwargs[name]) for name in ("delay", "mass")] == [int, float]
    env.reset(seed=0)
    gym.make(SHIFTED, env_id="InvertedPendulum-v5", delay=delay).reset(seed=0)  # as the command line does


def test_a_state_of_nan_is_no_observation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where MuJoCo logs its warnings
    env = wmgym.shift("Ant-v5", mass=1e-6, payload=1e6, payload_at=[1e3] * 3)
    env.reset(seed=0)

    def drive() -> None:
        for _ in range(50):
            env.step(np.ones(8, np.float32))

    with pytest.raises(ValueError, match="becomes NaN; change it less"):
        drive()
