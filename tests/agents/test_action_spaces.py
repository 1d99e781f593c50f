"""Agents over action spaces other than a Box with a range: trained, exported, and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests import toy
from tests.families import Line
from wmgym.agents.sb3.dyna_sac import DynaSAC
from wmgym.agents.sb3.export import to_policy
from wmgym.agents.sb3.load_zip import import_sb3
from wmgym.agents.sb3.train import TrainConfig, new_agent, train
from wmgym.data.acting import Actor
from wmgym.data.foreign import OnnxPolicy, foreign_policy
from wmgym.data.policy import load_policy
from wmgym.tasks.task import make_task

WHOLE = [
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([3, 2, 4], start=[1, -2, 0]),
    spaces.MultiBinary(3),
]


@pytest.mark.parametrize("space", WHOLE)
def test_whole_numbers_from_training_to_files(tmp_path: Path, space: Any) -> None:
    task = make_task(lambda: Line(space), reward_fn=toy.paid, terminated_fn=toy.never)
    quick = {"n_steps": 16, "batch_size": 32}
    model = train(toy.world(toy.Stub([0.3]), task), steps=32, num_envs=2, hyperparameters=quick)
    exported, obs = to_policy(model), np.random.default_rng(0).normal(size=(300, 1)).astype(np.float32) * 9
    expected = model.predict(obs, deterministic=True)[0]
    assert len(np.unique(expected, axis=0)) > 1
    np.testing.assert_array_equal(exported(obs), expected)
    np.testing.assert_array_equal(exported(obs[7]), expected[7])
    np.testing.assert_array_equal(load_policy(exported.save(tmp_path / "policy"))(obs), expected)
    np.testing.assert_array_equal(OnnxPolicy(exported.export(tmp_path / "policy.onnx"))(obs), expected)
    model.save(tmp_path / "model.zip")
    own = import_sb3(tmp_path / "model.zip", task)
    first = 0 if isinstance(space, spaces.MultiBinary) else space.start
    np.testing.assert_array_equal(own(obs), expected + first)
    for policy in (exported, own, model):
        acted = Actor(foreign_policy(policy), task)(obs, list(range(len(obs))))
        np.testing.assert_array_equal(acted, expected + first)
        assert all(action in space for action in acted.astype(space.dtype))


@pytest.mark.parametrize("space", WHOLE[1:])
def test_drawn_parts_have_sb3s_distribution(space: Any) -> None:
    model: Any = new_agent(
        Line(space if isinstance(space, spaces.MultiBinary) else spaces.MultiDiscrete(space.nvec)),
        TrainConfig(),
    )
    obs = np.repeat(np.float32([[3.0]]), 4_000, 0)
    drawn = to_policy(model)(obs, np.random.default_rng(0))
    of_sb3, _ = model.predict(obs, deterministic=False)
    np.testing.assert_allclose(drawn.mean(0), of_sb3.mean(0), atol=0.06)
    assert len(np.unique(drawn, axis=0)) == len(np.unique(of_sb3, axis=0))


@pytest.mark.parametrize("algorithm", ["SAC", "TD3", "DDPG", "TQC", "CrossQ", "DynaSAC", "PPO", "A2C"])
def test_an_action_without_a_range(algorithm: str) -> None:
    env = Line(spaces.Box(np.float32([-1, 0.5]), np.float32([1, 0.5])))
    if algorithm in ("PPO", "A2C"):
        assert to_policy(new_agent(env, TrainConfig(algorithm))).high.tolist() == [1, 0.5]
        return
    said = rf"^action 1 can only be 0.5, and {algorithm} divides by the range of each; take PPO or A2C, or"
    with pytest.raises(ValueError, match=said):
        new_agent(env, TrainConfig(algorithm))
    if algorithm == "DynaSAC":
        with pytest.raises(ValueError, match=said):
            DynaSAC("MlpPolicy", gym.wrappers.TimeLimit(env, 30))
