"""Whole imagined episodes of a policy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests import toy
from wmgym.envs.rollout import rollout
from wmgym.envs.vector_env import ImaginedVectorEnv


def push(obs: np.ndarray) -> np.ndarray:
    return np.clip(obs[:, :2], -1, 1).astype(np.float32)


def test_returns_are_those_of_the_exact_model() -> None:
    world, starts = toy.world(toy.LinearGaussian(sigma=0.0)), np.random.default_rng(0).normal(size=(5, 3))
    returns, lengths, diverged = rollout(world, push, starts, max_episode_steps=12)
    x, total = starts, np.zeros(5)
    for _ in range(12):
        x = x @ toy.A.T + push(x) @ toy.B.T
        total -= (x**2).sum(1)
    np.testing.assert_allclose(returns, total, rtol=1e-4)
    assert lengths.tolist() == [12] * 5
    assert not diverged.any()
    assert rollout(world, push, starts)[1].tolist() == [toy.LIMIT] * 5


def test_an_episode_counts_until_its_own_end() -> None:
    ends = toy.task(terminated_fn=lambda obs, action, next_obs: next_obs[..., 0] > 2.5)
    world = toy.world(toy.Stub([1.0, 0.0, 0.0]), ends, high=10.0)
    returns, lengths, diverged = rollout(world, push, np.array([[0.0, 0, 0], [1.0, 0, 0], [-20.0, 0, 0]]))
    assert lengths.tolist() == [3, 2, 23]
    np.testing.assert_allclose(returns[:2], [-(1 + 4 + 9), -(4 + 9)])
    assert not diverged.any()
    *_, lengths, diverged = rollout(toy.world(toy.Stub([1.0, 0.0, 0.0]), high=2.5), push, np.zeros((2, 3)))
    assert lengths.tolist() == [3, 3]
    assert diverged.all()


@pytest.mark.parametrize("policy", [None, push])
def test_the_seed_decides_everything(policy: object) -> None:
    def once(seed: int) -> list[float]:
        found = rollout(toy.world(), policy, np.ones((4, 3)), seed, propagation="sample")  # type: ignore[arg-type]
        return found[0].tolist()

    assert once(1) == once(1) != once(2)


def test_a_time_limit_is_asked_for() -> None:
    world = toy.world(described=replace(toy.task(), max_episode_steps=None))
    with pytest.raises(ValueError, match="pass max_episode_steps="):
        rollout(world, push, np.zeros((2, 3)))
    assert rollout(world, push, np.zeros((2, 3)), max_episode_steps=3)[1].tolist() == [3, 3]


def test_a_masked_reset_deals_members_evenly_beside_those_that_go_on() -> None:
    env = ImaginedVectorEnv(toy.world(), 8, autoreset_mode="Disabled")
    env.reset(seed=0)
    for seed in range(20):
        env.reset(seed=seed, options={"reset_mask": np.random.default_rng(seed).random(8) < 0.4})
        assert np.bincount(env.snapshot().state.member.numpy()).tolist() == [2, 2, 2, 2]
