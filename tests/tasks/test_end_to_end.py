"""Every known task goes the whole line: collect, fit, calibrate, store, imagine, score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import wmgym
from wmgym.tasks.registry import TABLE

SMALL = wmgym.FitConfig(members=2, width=32, depth=2, max_updates=10, eval_every=5, finetune_updates=2)

LIKE_ANOTHER = {"HalfCheetah-v5", "HumanoidStandup-v5", "InvertedPendulum-v5", "Swimmer-v5", "Walker2d-v5"}
"""Tasks whose state and reward are made as those of one that goes the same way."""


@pytest.mark.parametrize(
    "env_id", [pytest.param(e, marks=[pytest.mark.slow] * (e in LIKE_ANOTHER)) for e in TABLE]
)
def test_a_known_task_goes_the_whole_line(env_id: str, tmp_path: Path) -> None:
    data = wmgym.collect(env_id, steps=300, seed=0, max_episode_steps=50, workers=1)
    train, calib = data.split((0.6, 0.4), seed=0)
    world = wmgym.calibrate(wmgym.fit(train, SMALL), calib, horizon=5)
    world.save(tmp_path / "world")
    world = wmgym.load(tmp_path / "world")
    env = wmgym.ImaginedVectorEnv(world, 4)
    obs, _ = env.reset(seed=0)
    for _ in range(10):
        obs, reward, _, _, infos = env.step(env.action_space.sample())
        assert obs in env.observation_space
        assert np.isfinite(obs).all()
        assert np.isfinite(reward).all()
    assert infos["error_bound"].shape == (4, world.task.core.dim)
    still = {"still": lambda obs: np.zeros((len(obs), world.task.action_dim), np.float32)}
    report = wmgym.score(world, still, real_episodes=2, max_episode_steps=20)
    assert np.isfinite([entry.gap for entry in report.scores]).all()
