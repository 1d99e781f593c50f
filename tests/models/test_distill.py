"""A smaller twin of a world."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import wmgym
from tests.families import Line
from wmgym.models.distill import distill
from wmgym.models.ensemble import EnsembleMLP

CONFIG = wmgym.FitConfig(layer_norm=False, max_updates=400, eval_every=100)


def error(world: wmgym.WorldModel, data: wmgym.Transitions, steps: int = 4) -> float:
    """Mean error after a few steps of the data's actions, in standard deviations."""
    first = data.window_starts(steps)
    state = world.init(torch.tensor(data.state[first]), torch.Generator().manual_seed(0))
    for k in range(steps):
        state = world.step(state, torch.tensor(data.action[first + k]), "mean").state
    return float(np.abs((state.core.numpy() - data.next_core[first + steps - 1]) / data.core.std(0)).mean())


@pytest.mark.slow
def test_a_smaller_twin_is_near_its_teacher_and_is_calibrated_by_itself() -> None:
    world = wmgym.load("InvertedDoublePendulum-v5")
    data = wmgym.collect(world.task, steps=1_000, seed=0, workers=1)
    twin = distill(world, data, width=32, depth=2, imagined_steps=4_000, config=CONFIG)
    assert isinstance(twin.dynamics, EnsembleMLP)
    assert (twin.dynamics.config.width, twin.dynamics.config.depth) == (32, 2)
    assert twin.dynamics.num_members == 4
    assert twin.calibration is None
    assert twin.provenance.fingerprints == data.fingerprints()  # which ``calibrate`` then refuses
    fresh = wmgym.collect(world.task, steps=600, seed=1, workers=1)
    assert error(twin, fresh) < error(world, fresh) + 0.2
    bounded = wmgym.calibrate(twin, fresh)
    assert bounded.calibration is not None
    env = wmgym.ImaginedEnv(bounded)
    env.reset(seed=0)
    assert "error_bound" in env.step(env.action_space.sample())[4]


def test_whole_actions_and_learned_rewards_go_along() -> None:
    import gymnasium as gym

    data = wmgym.collect(lambda: Line(gym.spaces.Discrete(3)), steps=400, seed=0, workers=1)
    small = wmgym.FitConfig(members=2, width=16, depth=2, max_updates=60, eval_every=30, batch_size=64)
    world = wmgym.fit(data, small)
    twin = distill(world, data, width=8, depth=1, members=3, imagined_steps=400, config=small)
    assert twin.dynamics.num_members == 3
    with pytest.raises(ValueError, match="the world imagines"):
        distill(wmgym.load("Hopper-v5"), data)
