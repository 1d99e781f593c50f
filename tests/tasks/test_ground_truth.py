"""Ground truth: what MuJoCo does from a snapshot is what it would have done."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from wmgym.data.branch import branch, fork
from wmgym.tasks.ground_truth import DivergedError, Snapshot, inspect, open_loop, restore, snapshot
from wmgym.tasks.registry import TABLE
from wmgym.tasks.rendering import Renderer
from wmgym.tasks.task import make_task

STEPS = 300


def run(env: gym.Env[Any, Any], actions: np.ndarray) -> list[tuple[Any, ...]]:
    """Steps with everything that an env returns; resets with fixed seeds where an episode ends."""
    rows = []
    for i, action in enumerate(actions):
        obs, reward, terminated, truncated, info = env.step(action)
        rows.append((obs.tobytes(), float(reward), terminated, truncated, sorted(map(str, info.items()))))
        if terminated or truncated:
            env.reset(seed=i)
    return rows


def random_plan(env: gym.Env[Any, Any], steps: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    space: Any = env.action_space
    return rng.uniform(space.low, space.high, (steps, *space.shape)).astype(space.dtype)


@pytest.mark.parametrize("env_id", TABLE)
def test_what_follows_a_restore_is_equal_to_the_last_bit(env_id: str) -> None:
    env = gym.make(env_id)
    env.reset(seed=0)
    run(env, random_plan(env, 40, seed=1))
    at, actions = snapshot(env), random_plan(env, STEPS, seed=2)
    unwrapped: Any = env.unwrapped
    shown = unwrapped._get_obs()
    first = run(env, actions)
    restore(env, at)
    np.testing.assert_array_equal(unwrapped._get_obs(), shown)
    assert run(env, actions) == first
    other = gym.make(env_id)
    other.reset(seed=99)
    restore(other, at)
    assert run(other, actions) == first


@pytest.mark.parametrize("env_id", TABLE)
def test_a_replay_is_equal_to_the_envs_own_steps(env_id: str) -> None:
    task = make_task(env_id)
    env = task.make(max_episode_steps=10_000)
    starts, plans, expected = [], [], []
    for seed in range(3):
        env.reset(seed=seed)
        for action in random_plan(env, 10 * seed, seed):
            env.step(action)
        starts.append(snapshot(env))
        plans.append(random_plan(env, 60, seed=10 + seed))
        cores = []
        for action in plans[-1]:
            obs = env.step(action)[0]
            cores.append(task.read_core(env, obs))
        expected.append(cores)
    found = open_loop(task, starts, np.array(plans), workers=2)
    np.testing.assert_array_equal(found, np.array(expected))


def test_a_replay_from_cores_needs_no_snapshot() -> None:
    task = make_task("HalfCheetah-v5")
    env = task.make()
    obs, _ = env.reset(seed=0)
    core, plan = task.read_core(env, obs), random_plan(env, 20, seed=0)
    expected = []
    for action in plan:
        obs = env.step(action)[0]
        expected.append(task.read_core(env, obs))
    found = open_loop(task, core[None], plan[None])
    np.testing.assert_allclose(found[0], expected, atol=1e-9)


def test_branches_end_where_the_env_does_and_count_its_time() -> None:
    task = make_task("Hopper-v5")
    env = task.make(max_episode_steps=12)
    env.reset(seed=0)
    for action in random_plan(env, 4, seed=0):
        env.step(action)
    at = snapshot(env)
    assert at.elapsed == 4
    plans = [np.zeros((30, 3), np.float32), np.ones((5, 3), np.float32)]
    short = branch(task, at, plans[0], env)
    assert len(short) == 8
    assert short.truncated[-1]
    both = fork(task, at, plans)
    assert both.num_episodes == 2
    np.testing.assert_array_equal(both.core[both.first], np.repeat(short.core[:1], 2, 0))
    np.testing.assert_array_equal(both.next_core[:8], short.next_core)
    assert both.lengths[0] > 8
    assert both.reward is not None
    assert short.reward is not None
    np.testing.assert_array_equal(both.reward[:8], short.reward)


def test_only_mujoco_is_ground_truth_and_models_are_not_mixed_up() -> None:
    hopper, ant = gym.make("Hopper-v5"), gym.make("Ant-v5")
    hopper.reset(seed=0)
    ant.reset(seed=0)
    with pytest.raises(ValueError, match="no MuJoCo env"):
        snapshot(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="belongs to another model"):
        restore(ant, snapshot(hopper))


def test_a_replay_that_blows_up_says_so() -> None:
    task = make_task("HalfCheetah-v5")
    core = np.full((1, 17), 1e9)
    with pytest.raises(DivergedError, match="limit its actions"):
        open_loop(task, core, np.zeros((1, 50, 6)))


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Ant-v5", "Reacher-v5"])
def test_the_picture_of_a_core_is_the_envs_own(env_id: str) -> None:
    task = make_task(env_id)
    env = task.make(render_mode="rgb_array", width=96, height=64)
    obs, _ = env.reset(seed=3)
    for action in random_plan(env, 5, seed=3):
        obs = env.step(action)[0]
    unwrapped: Any = env.unwrapped
    unwrapped.set_state(
        unwrapped.data.qpos.copy(), unwrapped.data.qvel.copy()
    )  # positions of this very state
    expected = env.render()
    renderer = Renderer(task, width=96, height=64)
    place = unwrapped.data.qpos[: task.core.displacement_dim]
    found = renderer.frame(task.read_core(env, obs), place)
    assert found.shape == (64, 96, 3)
    assert found.std() > 5
    np.testing.assert_array_equal(found, expected)
    renderer.close()
    env.close()


def test_a_task_that_is_not_known_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="does not say"):
        Renderer(make_task("CartPole-v1"))
    assert isinstance(snapshot(_reset("Hopper-v5")), Snapshot)


def _reset(env_id: str) -> gym.Env[Any, Any]:
    env = gym.make(env_id)
    env.reset(seed=0)
    return env


def test_inspection_sees_what_the_env_is_in() -> None:
    task = make_task("Hopper-v5")
    env: Any = task.make()
    env.reset(seed=0)
    cores, touching, deep = [], [], []
    for action in random_plan(env, 300, seed=0):
        obs, _, terminated, _, _ = env.step(action)
        cores.append(task.read_core(env, obs))
        inner = env.unwrapped
        inner.set_state(inner.data.qpos.copy(), inner.data.qvel.copy())
        touching.append(any(contact.efc_address >= 0 for contact in inner.data.contact))
        deep.append(max([0.0, *(-contact.dist for contact in inner.data.contact)]))
        if terminated:
            env.reset()
    found = inspect(task, np.array(cores))
    assert found.geoms[0] == "floor"
    np.testing.assert_array_equal(found.contact.any(1), touching)
    np.testing.assert_allclose(found.penetration, deep, atol=1e-12)
    assert 0.05 < found.contact[:, found.geoms.index("foot_geom")].mean() < 0.95
    core = np.zeros((2, 11))
    core[:, 0] = 5.0  # in the air; joints bent back by 0.3 past their stops in the second
    core[1, 3] = 0.3
    flying = inspect(task, core)
    assert not flying.contact.any()
    np.testing.assert_allclose(flying.limit, [0.0, 0.3])


def test_energy_is_conserved_in_free_flight() -> None:
    task = make_task("Ant-v5")
    core = np.zeros((1, 27))
    core[0, 0], core[0, 1] = 50.0, 1.0
    core[0, 5:13] = [0, 1, 0, -1, 0, -1, 0, 1]  # between their stops
    core[0, 13:16] = [3.0, 0.0, 8.0]
    path = open_loop(task, core, np.zeros((1, 10, 8)))[0]
    found = inspect(task, np.concatenate([core, path]))
    assert np.ptp(found.energy) < 0.01 * abs(found.energy[0])
    falling = np.diff(found.com_velocity[:, 2]) / task.dt
    np.testing.assert_allclose(falling, -9.81, rtol=1e-3)
