"""Envs with goals come back as they are: Dict observations, compute_reward, and HER trains in imagination."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import SAC, HerReplayBuffer

import wmgym
from tests.families import Reach
from wmgym.tasks.task import make_task

CONFIG = wmgym.FitConfig(members=2, width=32, depth=1, max_updates=200, eval_every=50)
ENV_ID = "wmgym-tests/Reach-v0"

if ENV_ID not in gym.registry:
    gym.register(ENV_ID, entry_point=Reach, max_episode_steps=20)


@pytest.fixture(scope="module")
def world() -> Any:
    return wmgym.fit(wmgym.collect(ENV_ID, steps=1_000, seed=0, workers=1), CONFIG)


def test_the_own_dict_space_comes_back(world: Any) -> None:
    env = wmgym.ImaginedEnv(world, max_episode_steps=20)
    assert env.observation_space == Reach().observation_space
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*infinity")
        check_env(env, skip_render_check=True)
    obs, _ = env.reset(seed=0, options={"obs": {**env.reset(seed=0)[0], "desired_goal": np.ones(2)}})
    np.testing.assert_array_equal(obs["desired_goal"], [1, 1])
    for _ in range(5):
        obs, *_ = env.step(np.ones(2, np.float32))
    np.testing.assert_array_equal(obs["desired_goal"], [1, 1])  # never changes within an episode
    np.testing.assert_array_equal(obs["observation"][:2], obs["achieved_goal"])  # always the same


def test_a_dict_may_hold_single_numbers() -> None:
    class Upright(Reach):
        def __init__(self) -> None:
            super().__init__()
            box = spaces.Box(-np.inf, np.inf, (), np.float64)
            self.observation_space = spaces.Dict(upright=box, rest=spaces.Box(-np.inf, np.inf, (1, 2)))

        def _obs(self) -> Any:
            return {"upright": np.float64(self.at), "rest": np.float32(self.place)[None]}

        compute_reward = None  # type: ignore[assignment]

        def step(self, action: Any) -> Any:
            self.place = self.place + 0.2 * np.asarray(action, np.float64)
            self.at += 1
            return self._obs(), 0.0, False, self.at >= self.steps, {}

    world = wmgym.fit(wmgym.collect(Upright, steps=80), wmgym.FitConfig(members=2, width=8, max_updates=1))
    env = wmgym.ImaginedEnv(world)
    for obs in (env.reset(seed=0)[0], env.step(env.action_space.sample())[0]):
        assert env.observation_space.contains(obs)
    obs, _ = wmgym.ImaginedVectorEnv(world, 3).reset(seed=0)
    assert (obs["upright"].shape, obs["rest"].shape) == ((3,), (3, 1, 2))


def test_ended_episodes_show_dicts(world: Any) -> None:
    env = wmgym.ImaginedVectorEnv(world, 3, max_episode_steps=2)
    env.reset(seed=0)
    env.step(np.zeros((3, 2), np.float32))
    *_, infos = env.step(np.zeros((3, 2), np.float32))
    assert all(set(row) == set(Reach().observation_space) for row in infos["final_obs"])


def test_imagined_rewards_are_the_envs_own(world: Any) -> None:
    env = wmgym.ImaginedVectorEnv(world, 64)
    env.reset(seed=0)
    env.action_space.seed(0)
    rewards = []
    for _ in range(10):
        obs, reward, *_ = env.step(env.action_space.sample())
        rewards.append(reward)
        own = Reach().compute_reward(obs["achieved_goal"], obs["desired_goal"], {})
        np.testing.assert_array_equal(reward, own)
        np.testing.assert_array_equal(
            env.compute_reward(obs["achieved_goal"], obs["desired_goal"], [{}] * 64), own
        )
    assert set(np.unique(rewards)) == {-1.0, 0.0}
    assert wmgym.ImaginedEnv(world).compute_reward(np.zeros(2), np.ones(2), {}) == -1


def test_her_trains_in_imagination(world: Any) -> None:
    venv = wmgym.sb3.ImaginedVecEnv(world, 2)
    model = SAC(
        "MultiInputPolicy",
        venv,
        replay_buffer_class=HerReplayBuffer,
        learning_starts=60,
        device="cpu",
        seed=0,
    )
    model.learn(100)
    report = wmgym.score(world, {"her": model}, real_episodes=2, workers=1)
    assert np.isfinite(report["her"].gap)
    agent = wmgym.sb3.train(world, algorithm="SAC", steps=40, num_envs=4)
    assert isinstance(agent.observation_space, spaces.Dict)


def test_storage_keeps_space_reward_and_traits(world: Any, tmp_path: Path) -> None:
    loaded = wmgym.load(world.save(tmp_path / "world"))
    assert loaded.task.dict_space == world.task.dict_space
    assert loaded.task.core.geometry == world.task.core.geometry
    steps = []
    for each in (world, loaded):
        env = wmgym.ImaginedVectorEnv(each, 2)
        env.reset(seed=0)
        obs, reward, *_ = env.step(np.ones((2, 2), np.float32))
        steps.append((obs["observation"], reward))
    for one, other in zip(*steps, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_reward_that_needs_infos_is_learned() -> None:
    class Paid(Reach):
        def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> Any:
            return info["paid"]

    assert make_task(Paid).reward is None
    assert make_task(Reach).reward is not None


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (64, 64, 3), np.uint8),
        spaces.Box(0, 255, (64, 64), np.uint8),
        spaces.Dict(camera=spaces.Box(0, 1, (3, 8, 8)), joints=spaces.Box(-1, 1, (2,))),
    ],
)
def test_images_are_refused_in_one_line(space: Any) -> None:
    class Camera(Reach):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = space

    with pytest.raises(ValueError, match=r"an image of shape .* no pixel world yet") as caught:
        make_task(Camera)
    assert "\n" not in str(caught.value)


def test_a_policy_over_goals_is_exported(world: Any, tmp_path: Path) -> None:
    model = wmgym.train(world, algorithm="SAC", steps=64, num_envs=2, seed=0)
    wmgym.sb3.export_policy(model, tmp_path / "p")
    policy = wmgym.load_policy(tmp_path / "p")
    obs, _ = wmgym.ImaginedEnv(world).reset(seed=3)
    flat = spaces.flatten(Reach().observation_space, obs)
    expected = model.predict(obs, deterministic=True)[0]
    np.testing.assert_allclose(policy(flat[None])[0], expected, atol=1e-5)
    assert np.isfinite(wmgym.score(world, {"mine": policy}, 2, workers=1)["mine"].gap)


def test_a_planner_takes_the_dict_of_the_env_and_flat_rows(world: Any) -> None:
    planner = wmgym.plan.MPPI(world, horizon=2, samples=4, iterations=1)
    obs, _ = wmgym.ImaginedEnv(world).reset(seed=0)
    flat = world.task.flat(obs)
    first = planner(obs)
    planner.reset()
    np.testing.assert_array_equal(planner(flat), first)
    assert planner(np.stack([flat, flat])).shape == (2, *first.shape)
    with pytest.raises(ValueError, match="an observation is a dict of observation, achieved_goal"):
        planner({"observation": obs["observation"]})
