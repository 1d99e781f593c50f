"""Where the world's members disagree, MuJoCo steps, and the env says so."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import wmgym
from wmgym.data.transitions import Transitions
from wmgym.models.fallback import with_fallback
from wmgym.models.world import WorldModel

ID = "InvertedPendulum-v5"


@pytest.fixture(scope="module")
def data() -> Transitions:
    return wmgym.collect(ID, steps=300, seed=31, workers=1)


def stepped(
    env: wmgym.ImaginedVectorEnv, data: Transitions, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Next cores, and which steps MuJoCo took, from real states."""
    env.reset(seed=0, options={"state": data.state[rows]})
    *_, infos = env.step(data.action[rows])
    return infos.get("final_obs", env.core()), infos["fallback"]


def test_steps_that_mujoco_takes_are_exact_and_marked(pendulum_world: WorldModel, data: Transitions) -> None:
    rows = np.flatnonzero(~data.terminated)[:64]
    env = wmgym.ImaginedVectorEnv(pendulum_world, len(rows), fallback="mujoco", autoreset_mode="Disabled")
    env.reset(seed=0, options={"state": data.state[rows]})
    taken = env.step(data.action[rows])[-1]["fallback"]
    assert 0 < taken.mean() < 0.6
    error = np.abs(env.core() - data.next_core[rows]).max(1)
    assert error[taken].max() < 1e-4
    plain = wmgym.ImaginedVectorEnv(pendulum_world, len(rows), autoreset_mode="Disabled")
    plain.reset(seed=0, options={"state": data.state[rows]})
    plain.step(data.action[rows])
    np.testing.assert_allclose(env.core()[~taken], plain.core()[~taken], atol=1e-5)


def test_the_share_on_the_fits_own_states_is_small(pendulum_world: WorldModel) -> None:
    assert pendulum_world.support is not None
    support = pendulum_world.support
    env = wmgym.ImaginedVectorEnv(pendulum_world, len(support.core), fallback="mujoco")
    env.reset(seed=0, options={"state": support.core})
    *_, infos = env.step(support.action)
    taken = infos["fallback"] | infos.get("final_info", {}).get("fallback", np.zeros(len(support.core), bool))
    assert 0.05 < taken.mean() < 0.25


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


def test_only_ensembles_of_known_robots_fall_back(
    cartpole_world: WorldModel, pendulum_world: WorldModel
) -> None:
    with pytest.raises(ValueError, match="no known reward"):
        wmgym.ImaginedVectorEnv(cartpole_world, 2, fallback="mujoco")
    with pytest.raises(ValueError, match="fallback must be"):
        wmgym.ImaginedVectorEnv(pendulum_world, 2, fallback="bullet")  # type: ignore[arg-type]
    assert with_fallback(pendulum_world).dynamics.num_members == pendulum_world.dynamics.num_members
