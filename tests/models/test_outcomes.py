"""Rewards and ends of a few values are classes; all others are regressed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import wmgym
from tests.families import Line, Reach, Rover
from wmgym.models.outcomes import find_outcomes

CONFIG = wmgym.FitConfig(members=2, width=32, depth=2, max_updates=150, eval_every=50, batch_size=64)


def imagined(world: Any, count: int = 64, steps: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and terminations of random actions."""
    env = wmgym.ImaginedVectorEnv(world, count)
    env.reset(seed=0)
    env.action_space.seed(0)
    rows = [env.step(env.action_space.sample()) for _ in range(steps)]
    return np.array([row[1] for row in rows]), np.array([row[2] for row in rows])


def right(obs: np.ndarray) -> np.ndarray:
    return np.full((len(obs), 1), 0.6, np.float32)


@pytest.fixture(scope="module")
def bonus() -> tuple[Any, Any]:
    data = wmgym.collect(Line, {"random": None, "right": right}, steps=2_000, seed=0, workers=1)
    return data, wmgym.fit(data, replace(CONFIG, max_updates=400))


def test_a_terminal_bonus_is_paid_as_it_was(bonus: tuple[Any, Any]) -> None:
    data, world = bonus
    assert (data.reward[data.terminated] > 99).all()
    reward, ended = imagined(world)
    assert ended.any()
    assert 99.9 <= reward[ended].min() <= reward[ended].max() <= 100
    assert reward[~ended].max() < 0.05
    assert reward[~ended].min() > -0.15


def test_a_fit_that_goes_on_keeps_the_ends_and_values_that_new_data_do_not_show(bonus: Any) -> None:
    _, world = bonus
    data = wmgym.collect(Line, steps=400, seed=3, workers=1, max_episode_steps=5)
    calm = data.select(np.flatnonzero(~np.isin(np.arange(data.num_episodes), data.episode[data.terminated])))
    assert not calm.terminated.any()
    gentle = replace(CONFIG, max_updates=50, learning_rate=3e-4)
    after = wmgym.fit(calm, gentle, begin=world, newest=len(calm))
    for one in (world, after):
        env = wmgym.ImaginedVectorEnv(one, 64)
        env.reset(seed=0)
        steps = [env.step(np.full((64, 1), 0.6, np.float32)) for _ in range(60)]
        reward, ended = (np.array([step[k] for step in steps]) for k in (1, 2))
        assert ended.sum() > 10
        assert reward[ended].min() > 99


@pytest.mark.parametrize("newest", [-5, 1e9, 13, 1.5, "3", None, True])
def test_newest_are_whole_episodes(bonus: tuple[Any, Any], newest: Any) -> None:
    data, world = bonus
    assert len(data) - 13 not in data.first
    with pytest.raises(ValueError, match="newest must be"):
        wmgym.fit(data, CONFIG, begin=world, newest=newest)


def test_what_a_fit_goes_on_from_is_a_world(bonus: tuple[Any, Any]) -> None:
    data, world = bonus
    with pytest.raises(TypeError, match="begin must be WorldModel"):
        wmgym.fit(data, CONFIG, begin="world")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dynamics= or begin="):
        wmgym.fit(data, CONFIG, begin=world, dynamics=wmgym.EnsembleMLP)
    with pytest.raises(ValueError, match="starts must have shape"):
        wmgym.fit(data, CONFIG, starts=np.zeros((3, 7)))


def test_ends_are_where_the_real_ones_are(bonus: tuple[Any, Any]) -> None:
    _, world = bonus
    env = wmgym.ImaginedVectorEnv(world, 41, autoreset_mode="Disabled")
    start = np.linspace(0.0, 0.99, 41, dtype=np.float32)[:, None]
    env.reset(seed=0, options={"obs": start})
    obs, _, ended, *_ = env.step(np.full((41, 1), 1.0, np.float32))
    clear = np.abs(obs[:, 0] - 1) > 0.1
    assert (ended == (obs[:, 0] >= 1))[clear].mean() > 0.85


def test_outcomes_survive_storage(bonus: tuple[Any, Any], tmp_path: Path) -> None:
    _, world = bonus
    world.save(tmp_path / "world")
    loaded = wmgym.load(tmp_path / "world", task=world.task)
    for one, other in zip(imagined(world, steps=5), imagined(loaded, steps=5), strict=True):
        np.testing.assert_array_equal(one, other)


def test_sparse_rewards_are_those_of_the_data_to_the_last_bit() -> None:
    both = {"random": None, "right": right}
    data = wmgym.collect(lambda: Line(bonus=0.1, sparse=True), both, steps=2_000, seed=0, workers=1)
    assert sorted(set(data.reward.tolist())) == [0.0, 1.0, 1.1]
    world = wmgym.fit(data, CONFIG)
    reward, ended = imagined(world)
    assert set(np.unique(reward)) <= {0.0, 1.0, 1.1}
    assert (reward[ended] == 1.1).mean() > 0.9


def test_without_ends_nothing_ends() -> None:
    world = wmgym.fit(wmgym.collect(Rover, steps=400, seed=0, workers=1), CONFIG)
    assert world.outcomes is not None
    assert world.outcomes.network is None
    reward, ended = imagined(world)
    assert not ended.any()
    assert (reward == 0).all()


def test_an_end_that_nothing_shows_is_drawn_as_often_as_it_was() -> None:
    class Lottery(Rover):
        def step(self, action: np.ndarray) -> Any:
            obs, reward, _, cut, info = super().step(action)
            return obs, reward, bool(self.np_random.random() < 0.05), cut, info

    data = wmgym.collect(Lottery, steps=3_000, seed=0, workers=1)
    world = wmgym.fit(data, CONFIG)
    assert world.outcomes is not None
    assert world.outcomes.drawn
    _, ended = imagined(world)
    assert ended.mean() == pytest.approx(data.terminated.mean(), abs=0.02)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([3, 2]),
        spaces.MultiDiscrete([3, 3], start=[1, -1]),
        spaces.MultiBinary(2),
    ],
)
def test_actions_in_parts(space: Any, tmp_path: Path) -> None:
    data = wmgym.collect(lambda: Line(space), steps=600, seed=0, workers=1)
    world = wmgym.fit(data, CONFIG)
    world = wmgym.calibrate(world, wmgym.collect(data.task, steps=200, seed=1, workers=1), horizon=4)
    data.save(tmp_path / "data")
    assert wmgym.Transitions.load(tmp_path / "data", task=data.task).action.dtype == np.int64
    world.save(tmp_path / "world")
    loaded = wmgym.load(tmp_path / "world", task=data.task)
    env = wmgym.ImaginedVectorEnv(loaded, 16, autoreset_mode="Disabled")
    assert env.single_action_space == space
    env.reset(seed=0, options={"obs": np.zeros(1)})
    env.action_space.seed(0)
    actions = env.action_space.sample()
    obs, *_ = env.step(actions)
    given = torch.as_tensor(actions)  # of a MultiBinary int8
    assert torch.equal(loaded.encode_action(given), loaded.encode_action(given.long()))
    real = Line(space)
    for action, one in zip(actions, obs, strict=True):
        real.reset(seed=0)
        real.x = 0.0
        assert real.step(action)[0] == pytest.approx(one, abs=0.2)
    outside = np.full_like(actions, 9)
    with pytest.raises(ValueError, match="whole numbers inside"):
        env.step(outside)
    if not np.any(getattr(space, "start", 0)):  # Stable-Baselines3 wants them from 0
        short = {"n_steps": 8, "batch_size": 8}
        wmgym.sb3.train(loaded, algorithm="PPO", steps=64, num_envs=4, hyperparameters=short)


def test_goals_need_no_outcomes_but_ends() -> None:
    data = wmgym.collect(Reach, steps=400, seed=0, workers=1)
    found = find_outcomes(data)
    assert found is not None
    assert found[0].network is None
