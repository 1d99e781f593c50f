"""Where the world's members disagree, MuJoCo steps, and the env says so."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import wmgym
from wmgym.models.fallback import MOST, with_fallback
from wmgym.models.world import WorldModel
from wmgym.tasks import ground_truth

ID = "InvertedPendulum-v5"


def test_steps_that_mujoco_takes_are_exact_marked_and_at_most_one_in_five() -> None:
    env = wmgym.ImaginedVectorEnv("HalfCheetah-v5", 32, fallback="mujoco")
    env.reset(seed=0)
    rng, counts, errors = np.random.default_rng(0), np.zeros(32), []
    for step in range(15):
        action, before = rng.uniform(-1, 1, (32, 6)).astype(np.float32), env.core()
        taken = env.step(action)[-1]["fallback"]
        exact = ground_truth.open_loop(env.world.task, before, action[:, None], workers=1)[:, 0]
        error = np.abs(env.core() - exact).max(1)
        assert error[taken].max(initial=0) < 1e-3
        errors.append(error[~taken].mean())
        counts += taken
        assert (counts <= MOST * (step + 1)).all()
    assert counts.mean() > 1
    assert min(errors) > 1e-3


@pytest.mark.parametrize("policy", ["away", "usual"])
def test_the_share_stays_whatever_the_policy(policy: str) -> None:
    """Far from the fit's data, where a fixed threshold would leave all steps to MuJoCo, and amid it."""
    env = wmgym.ImaginedVectorEnv("HalfCheetah-v5", 16, fallback="mujoco")
    env.reset(seed=0)
    rng, held = np.random.default_rng(0), np.ones((16, 6), np.float32)
    actions = [held if policy == "away" else rng.uniform(-1, 1, (16, 6)) for _ in range(200)]
    taken = np.array([env.step(action)[-1]["fallback"] for action in actions])
    assert 0.1 < taken[50:].mean() < 0.2
    assert taken[50:].mean(0).max() < 0.3


def test_the_env_restarts_forks_and_says_so(pendulum_world: WorldModel) -> None:
    env = wmgym.ImaginedVectorEnv(pendulum_world, 4, fallback="mujoco", trust=True, max_episode_steps=5)
    _, infos = env.reset(seed=3)
    assert not infos["fallback"].any()
    for _ in range(7):
        *_, infos = env.step(np.zeros((4, 1), np.float32))
        assert infos["fallback"].dtype == bool
    fork = env.fork(2)
    assert "fallback" in fork.step(np.zeros((8, 1), np.float32))[-1]
    single = gym.make(f"wmgym/{ID}", world=pendulum_world, fallback="mujoco")
    single.reset(seed=0)
    assert isinstance(single.step(np.zeros(1, np.float32))[-1]["fallback"], bool)


def test_only_ensembles_of_robots_with_a_model_fall_back(
    cartpole_world: WorldModel, pendulum_world: WorldModel
) -> None:
    with pytest.raises(ValueError, match="does not say how its state lies in MuJoCo"):
        wmgym.ImaginedVectorEnv(cartpole_world, 2, fallback="mujoco")
    with pytest.raises(ValueError, match="fallback must be"):
        wmgym.ImaginedVectorEnv(pendulum_world, 2, fallback="bullet")  # type: ignore[arg-type]
    assert with_fallback(pendulum_world).dynamics.num_members == pendulum_world.dynamics.num_members
