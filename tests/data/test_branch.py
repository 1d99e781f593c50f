"""Short real episodes from states that an env is put into."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

import wmgym
from wmgym.data.branch import can_be_put, from_states
from wmgym.tasks.ground_truth import open_loop

STEPS = 4


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Hopper-v5", "Ant-v5"])
def test_they_are_what_mujoco_does_from_these_states(env_id: str) -> None:
    data = wmgym.collect(env_id, steps=60, seed=3, workers=1)
    task, cores = data.task, data.core[20:30].astype(np.float64)
    action = np.full(task.action_dim, 0.3, np.float32)
    found, taken = from_states(task, lambda obs: np.tile(action, (len(obs), 1)), "constant", cores, STEPS)
    assert found is not None
    assert len(found) + len(cores) == taken  # the first step of each is not recorded
    assert (found.source, found.episode_policy[0]) == ("real", "constant")
    truth = open_loop(task, cores, np.tile(action, (len(cores), STEPS + 1, 1)), workers=1)
    whole = np.flatnonzero(found.lengths == STEPS)
    assert len(whole) > 3
    firsts = truth[:, 0].astype(np.float32)
    for episode in whole:
        mine = found.select([episode])
        at = int(np.abs(firsts - mine.core[0]).sum(1).argmin())
        np.testing.assert_allclose(mine.core, truth[at, :STEPS], atol=1e-4)
        np.testing.assert_allclose(mine.next_core, truth[at, 1:], atol=1e-4)
        assert mine.truncated.tolist() == [False] * (STEPS - 1) + [True]


def test_states_that_end_at_once_and_bodies_that_fly_apart_give_nothing() -> None:
    data = wmgym.collect("Hopper-v5", steps=20, seed=0, workers=1)
    fallen, wild = data.core[:1].astype(np.float64), data.core[:1].astype(np.float64)
    fallen[0, 0], wild[0, 6:] = 0.2, 1e12
    still = np.zeros(3, np.float32)
    for cores in (fallen, wild):
        found, _ = from_states(data.task, lambda obs: np.tile(still, (len(obs), 1)), "still", cores, STEPS)
        assert found is None


def test_envs_that_remember_or_hold_no_mujoco_state_are_not_put() -> None:
    assert can_be_put(wmgym.make_task("Walker2d-v5"))
    assert not can_be_put(wmgym.make_task("CartPole-v1"))
    assert not can_be_put(wmgym.make_task("Pendulum-v1"))
    own = replace(wmgym.make_task("Walker2d-v5"), from_table=False)
    assert not can_be_put(own)
    late = wmgym.make_task(lambda: wmgym.shift("Hopper-v5", delay=2))
    assert not can_be_put(late)
    assert isinstance(late.make(), gym.Env)
