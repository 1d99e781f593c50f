"""Rewards are regressed from where a step led, flags are named from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import wmgym
from tests.envs.test_single import follow
from tests.tasks.test_orientation import Car
from wmgym.models.online_fit import OnlineFit, OnlineFitConfig
from wmgym.models.pairs import RewardNetwork, pair_geometry

CONFIG = wmgym.FitConfig(members=2, width=64, depth=2, max_updates=300, eval_every=50, batch_size=64)


class Drop(gym.Env[np.ndarray, np.ndarray]):
    """A ball above a floor, paid for coming nearer to 0.3; a flag tells that it touches."""

    observation_space = spaces.Box(-10, 10, (3,))
    action_space = spaces.Box(-1, 1, (1,))

    def _obs(self) -> np.ndarray:
        return np.array([self.y, self.v, float(self.touches)], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.y, self.v, self.touches, self.t = float(self.np_random.uniform(0.2, 1)), 0.0, False, 0
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        before, self.t = abs(self.y - 0.3), self.t + 1
        self.v += 0.05 * float(action[0]) - 0.02
        self.y += self.v
        self.touches = self.y <= 0
        if self.touches:
            self.y, self.v = 0.0, 0.0
        return self._obs(), 100 * (before - abs(self.y - 0.3)), False, self.t >= 40, {}


class Gusts(Drop):
    """Pushed about at random: what a step pays, state and action do not tell."""

    def step(self, action: np.ndarray) -> Any:
        before, self.t = self.y, self.t + 1
        self.y += 0.1 * float(self.np_random.normal())
        return self._obs(), 10 * (self.y - before), False, self.t >= 20, {}


def jet(obs: np.ndarray) -> np.ndarray:
    return np.clip(2 * (0.1 - obs[:, :1]) - 4 * obs[:, 1:2] + 0.4, -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def drop() -> tuple[Any, Any]:
    data = wmgym.collect(Drop, {"random": None, "jet": jet}, steps=2_000, seed=0, workers=1)
    world = wmgym.fit(data, CONFIG)
    return data, wmgym.calibrate(world, wmgym.collect(data.task, steps=400, seed=1, workers=1), horizon=5)


def test_a_reward_is_paid_for_the_change_that_was_imagined() -> None:
    data = wmgym.collect(Gusts, steps=1_000, seed=0, workers=1)
    world = wmgym.fit(data, replace(CONFIG, max_updates=150))
    env = wmgym.ImaginedVectorEnv(world, 64, propagation="sample")
    obs, _ = env.reset(seed=0)
    after, reward, *_ = env.step(env.action_space.sample())
    assert np.corrcoef(reward, after[:, 0] - obs[:, 0])[0, 1] > 0.95
    assert np.std(reward) == pytest.approx(1, rel=0.5)


def test_online_too_a_reward_is_paid_for_the_change_that_was_imagined(tmp_path: Path) -> None:
    class Ending(Gusts):
        def step(self, action: np.ndarray) -> Any:
            obs, reward, _, cut, info = super().step(action)
            return obs, reward, bool(self.y > 1.2), cut, info

    data = wmgym.collect(Ending, steps=1_000, seed=0, workers=1)
    config = OnlineFitConfig(members=2, width=64, depth=2, first_updates=200, updates=50)
    online = OnlineFit(data.task, config, torch.Generator().manual_seed(0))
    for _ in range(2):
        online.refit(data, np.arange(len(data)) % 10 == 0)
    world = online.world(data)
    env = wmgym.ImaginedVectorEnv(world, 64, propagation="sample")
    obs, _ = env.reset(seed=0)
    after, reward, *_ = env.step(env.action_space.sample())
    assert np.corrcoef(reward, after[:, 0] - obs[:, 0])[0, 1] > 0.95
    world.save(tmp_path / "world")
    loaded = wmgym.load(tmp_path / "world", task=data.task)
    assert loaded.outcomes is not None
    assert loaded.outcomes.rewards is not None
    follow(wmgym.calibrate(loaded, wmgym.collect(data.task, steps=400, seed=1, workers=1), horizon=5), 60)


def test_flags_are_named_from_where_the_step_led(drop: tuple[Any, Any]) -> None:
    _, world = drop
    assert world.flags is not None
    env = wmgym.ImaginedVectorEnv(world, 64)
    obs, _ = env.reset(seed=0)
    seen = np.concatenate([env.step(jet(obs) * 0 - 0.1)[0] for _ in range(30)])
    assert set(np.unique(seen[:, 2])) <= {0.0, 1.0}
    clear = np.abs(seen[:, 0]) > 0.08
    assert ((seen[:, 2] == 1) == (seen[:, 0] <= 0))[clear].mean() > 0.95
    assert (seen[:, 2] == 1).mean() > 0.2


def test_rewards_and_flags_survive_storage(drop: tuple[Any, Any], tmp_path: Path) -> None:
    _, world = drop
    world.save(tmp_path / "world")
    loaded = wmgym.load(tmp_path / "world", task=world.task)
    for one in (world, loaded):
        env = wmgym.ImaginedVectorEnv(one, 8)
        env.reset(seed=0)
        env.action_space.seed(0)
        rows = [env.step(env.action_space.sample())[:2] for _ in range(10)]
        kept = [np.concatenate([row[k] for row in rows]) for k in (0, 1)]
        if one is world:
            before = kept
    for old, new in zip(before, kept, strict=True):
        np.testing.assert_array_equal(old, new)


def test_exported_steps_reward_and_flag_alike(drop: tuple[Any, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from tests.models.test_export import follow as follow_file

    for trust in (False, True):
        follow_file(drop[1], tmp_path / "world.onnx", 30, "member", trust)


@pytest.mark.parametrize("trust", [None, True])
def test_the_compiled_step_rewards_and_flags_alike(drop: tuple[Any, Any], trust: bool | None) -> None:
    follow(drop[1], 60, trust=trust)


def test_drawn_flags_are_drawn_alike() -> None:
    class Loose(Drop):
        def step(self, action: np.ndarray) -> Any:
            obs, *rest = super().step(action)
            obs[2] *= self.np_random.random() < 0.5
            return obs, *rest

    data = wmgym.collect(Loose, {"random": None, "jet": jet}, steps=2_000, seed=0, workers=1)
    world = wmgym.fit(data, replace(CONFIG, max_updates=100))
    assert world.flags is not None
    assert world.flags.drawn
    follow(wmgym.calibrate(world, wmgym.collect(data.task, steps=400, seed=1, workers=1), horizon=5), 60)


def test_gradients_pass_through_rewards_and_flags(drop: tuple[Any, Any]) -> None:
    _, world = drop
    action = torch.zeros(4, 1, requires_grad=True)
    state = world.init(torch.tensor(world.starts[:4]), torch.Generator().manual_seed(0))
    total = torch.zeros(())
    for _ in range(3):
        step = world.step(state, action)
        state, total = step.state, total + step.reward.sum()
    (gradient,) = torch.autograd.grad(total, action)
    assert gradient.isfinite().all()
    assert (gradient != 0).all()


class Paced(Car):
    """Paid for its speed along its own heading, which it shows; its state has velocities in world axes."""

    def __init__(self) -> None:
        super().__init__("wheeled")

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, *_ = super().step(action)
        return obs, float(np.tanh(2 * obs[4])), False, False, {}


@pytest.fixture(scope="module")
def paced() -> tuple[Any, Any]:
    task = replace(wmgym.make_task(Paced), max_episode_steps=50)
    data = wmgym.collect(task, steps=2_000, seed=0, workers=1)
    world = wmgym.fit(data, CONFIG)
    return data, wmgym.calibrate(world, wmgym.collect(data.task, steps=400, seed=1, workers=1), horizon=5)


def test_rewards_see_what_is_shown_by_a_formula(paced: tuple[Any, Any]) -> None:
    data, world = paced
    test = wmgym.collect(data.task, steps=500, seed=2, workers=1)
    outcomes, core = world.outcomes, data.task.core
    pair = torch.tensor(outcomes.pair(core, test.state, test.next_state)).float()
    said = outcomes.regressed(pair, torch.tensor(test.action), pair[:, :0]).numpy()
    assert np.std(said - test.reward) < 0.5 * np.std(test.reward)  # 0.98 where it sees states alone


def test_rewards_of_formulas_survive_storage_and_export(paced: tuple[Any, Any], tmp_path: Path) -> None:
    data, world = paced
    follow(world, 60)
    world.save(tmp_path / "world")
    follow(wmgym.load(tmp_path / "world", task=data.task), 60, trust=True)
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from tests.models.test_export import follow as follow_file

    follow_file(world, tmp_path / "world.onnx", 30, "member", False)


def test_worlds_whose_rewards_see_states_alone_still_load(paced: tuple[Any, Any], tmp_path: Path) -> None:
    data, world = paced
    shape = replace(world.outcomes.rewards.config, geometry=pair_geometry(data.task.core.geometry))
    alone = RewardNetwork(shape, torch.Generator().manual_seed(0)).finished()
    old = replace(world, outcomes=replace(world.outcomes, rewards=alone))
    old.save(tmp_path / "world")
    follow(wmgym.load(tmp_path / "world", task=data.task), 60)
