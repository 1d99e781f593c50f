"""Collecting from real envs: how much, by whom, and always the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests.data.envs import CountingEnv, assert_equal, linear, still
from wmgym.data.collect import collect, collect_each
from wmgym.data.policy import MLPPolicy, PolicyCard
from wmgym.io.artifacts import StoreError
from wmgym.tasks.task import make_task

# How much, and with what


@pytest.mark.parametrize("steps", [1, 7, 400, 997])
@pytest.mark.parametrize("limit", [None, 30])
def test_the_number_of_steps_is_exact(steps: int, limit: int | None) -> None:
    data = collect("InvertedPendulum-v5", steps=steps, seed=0, max_episode_steps=limit)
    assert len(data) == steps
    assert data.lengths.max() <= (limit or 1000)
    ends = np.append(np.diff(data.episode) == 1, True)
    assert ((data.terminated | data.truncated) == ends).all()
    assert not (data.terminated & data.truncated).any()


def test_whole_episodes_run_to_their_end() -> None:
    data = collect("InvertedPendulum-v5", episodes=13, seed=0)
    last = np.cumsum(data.lengths) - 1
    assert data.num_episodes == len(set(data.episode_seed)) == 13
    assert data.terminated[last].all()
    assert not data.truncated.any()


def test_an_episode_cut_short_is_truncated() -> None:
    data = collect("HalfCheetah-v5", episodes=3, seed=0, max_episode_steps=20)
    assert data.lengths.tolist() == [20, 20, 20]
    assert not data.terminated.any()
    assert np.flatnonzero(data.truncated).tolist() == [19, 39, 59]
    limited = make_task("HalfCheetah-v5", env_kwargs={"max_episode_steps": 10})
    assert collect(limited, episodes=2, seed=0, max_episode_steps=20).lengths.tolist() == [10, 10]


def test_a_termination_at_the_cut_is_no_truncation() -> None:
    data = collect(lambda: CountingEnv(length=5), steps=10, seed=0, max_episode_steps=5)
    assert (data.terminated.sum(), data.truncated.sum()) == (2, 0)


def test_the_last_next_obs_is_the_terminal_one() -> None:
    data = collect("InvertedPendulum-v5", episodes=5, seed=0)
    last = np.cumsum(data.lengths) - 1
    assert (np.abs(data.next_obs[last, 1]) > 0.2).all()
    assert (np.abs(data.obs[data.first]) <= 0.01).all()  # the reset's noise


def test_an_env_may_reuse_its_observation_buffer() -> None:
    data = collect(lambda: CountingEnv(length=4), steps=8, seed=0)
    assert data.obs[:, 0].tolist() == [0, 1, 2, 3] * 2
    assert data.next_obs[:, 0].tolist() == [1, 2, 3, 4] * 2
    assert data.core[:, 0].tolist() == [0, 1, 2, 3] * 2


# Reproducible


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_seeds_and_actions_replay_every_episode_bit_for_bit(noise: float) -> None:
    data = collect("Hopper-v5", linear, steps=400, seed=5, noise=noise, max_episode_steps=50)
    assert data.reward is not None
    assert data.num_episodes >= 8
    env, row = gym.make("Hopper-v5"), 0
    for seed, length in zip(data.episode_seed, data.lengths, strict=True):
        obs, _ = env.reset(seed=seed)
        for _ in range(length):
            assert (obs.astype(np.float32) == data.obs[row]).all()
            obs, reward, terminated, _, _ = env.step(data.action[row])
            assert (obs.astype(np.float32) == data.next_obs[row]).all()
            assert (reward, terminated) == (data.reward[row], data.terminated[row])
            row += 1
    env.close()
    assert row == len(data)


@pytest.mark.parametrize("policy", [None, linear, {"linear": linear, "random": None}])
def test_the_number_of_processes_changes_nothing(policy: Any) -> None:
    one, two = (
        collect("Hopper-v5", policy, steps=640, seed=3, noise=0.1, max_episode_steps=40, workers=workers)
        for workers in (1, 2)
    )
    assert_equal(one, two)
    whole = [
        collect("Hopper-v5", policy, episodes=9, seed=3, max_episode_steps=40, workers=workers)
        for workers in (1, 2)
    ]
    assert_equal(*whole)


def test_another_seed_gives_other_episodes() -> None:
    one, same, other = (collect("Hopper-v5", steps=20, seed=seed) for seed in (0, 0, 1))
    assert_equal(one, same)
    assert one.episode_seed != other.episode_seed
    assert not (one.action == other.action).any()


# Policies


def test_named_policies_take_turns() -> None:
    data = collect("Hopper-v5", {"random": None, "still": still}, episodes=6, seed=0, max_episode_steps=10)
    assert data.episode_policy == ("random", "still") * 3
    quiet = (data.action == 0).all(1)
    assert (quiet == (data.episode % 2 == 1)).all()


def test_named_policies_share_the_steps() -> None:
    data = collect("Hopper-v5", {"random": None, "still": still}, steps=400, seed=0, max_episode_steps=25)
    assert 0.4 < (data.action == 0).all(1).mean() < 0.6


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        (None, "random"),
        (still, "still"),
        ({"mine": still}, "mine"),
        (
            MLPPolicy(
                "net",
                (np.zeros((11, 3), np.float32),),
                (np.zeros(3, np.float32),),
                "relu",
                "clip",
                -np.ones(3),
                np.ones(3),
            ),
            "net",
        ),
    ],
)
def test_policies_are_recorded_by_name(policy: Any, name: str) -> None:
    assert set(collect("Hopper-v5", policy, steps=3, seed=0).episode_policy) == {name}


def pool(path: Path) -> Path:
    """Three policies of Hopper, one of them held out."""
    for name, split in (("a", "pool"), ("b", "held-out"), ("c", "pool")):
        card = PolicyCard(
            algorithm="by hand", hyperparameters={}, seed=0, real_steps=0, versions={}, env_id="Hopper-v5",
            return_mean=1.0, return_std=1.0, episodes=50, score_seed=1, split=split,
        )  # fmt: skip
        weights, bias = (np.zeros((11, 3), np.float32),), (np.float32([0.1, 0.2, 0.3]),)
        MLPPolicy(name, weights, bias, "relu", "clip", -np.ones(3), np.ones(3), card=card).save(path / name)
    return path


def test_a_pool_takes_equal_steps_and_leaves_held_out_policies_alone(tmp_path: Path) -> None:
    data = collect("Hopper-v5", pool(tmp_path / "pool"), steps=101, seed=0, noise=0.1)
    taken = {
        name: int(data.lengths[[p == name for p in data.episode_policy]].sum())
        for name in set(data.episode_policy)
    }
    assert taken == {"a": 51, "c": 50}
    assert np.ptp(data.action, 0).min() > 0  # the noise
    again = collect("Hopper-v5", str(tmp_path / "pool"), steps=101, seed=0, noise=0.1)
    np.testing.assert_array_equal(data.obs, again.obs)
    assert len(set(data.episode_seed)) == data.num_episodes
    by_episode = collect("Hopper-v5", tmp_path / "pool", episodes=5, seed=0)
    assert sorted(by_episode.episode_policy) == ["a", "a", "a", "c", "c"]


def test_policies_take_over_from_one_another_within_an_episode(tmp_path: Path) -> None:
    def constant(value: float) -> Any:
        return lambda obs: np.full((len(obs), 2), value, np.float32)

    env, given = (lambda: CountingEnv(length=100)), {str(v): constant(v) for v in (-0.5, 0.0, 0.5)}
    data = collect(env, given, steps=8_000, seed=0, switch_every=20, workers=1)
    assert set(data.episode_policy) == {"switching"}
    assert set(np.unique(data.action)) == {-0.5, 0.0, 0.5}
    within = data.episode[1:] == data.episode[:-1]
    taken_over = (np.diff(data.action[:, 0]) != 0)[within].mean()
    assert taken_over == pytest.approx(1 / 20 * 2 / 3, rel=0.2)  # a third of the draws name the same again
    forked = collect(env, given, steps=8_000, seed=0, switch_every=20, workers=2)
    np.testing.assert_array_equal(data.action, forked.action)
    mixed = collect("Hopper-v5", pool(tmp_path / "pool"), steps=40, seed=0, switch_every=5)
    assert set(mixed.episode_policy) == {"switching"}
    with pytest.raises(ValueError, match="switch_every must be a whole number of at least 1"):
        collect(env, given, steps=10, seed=0, switch_every=0)


def test_a_pool_needs_policies_and_steps_for_each(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="none is missing"):
        collect("Hopper-v5", tmp_path / "none", steps=10, seed=0)
    with pytest.raises(ValueError, match="too few for 2 policies"):
        collect("Hopper-v5", pool(tmp_path / "pool"), steps=1, seed=0)


def test_a_policy_may_answer_as_sb3_does() -> None:
    data = collect("Hopper-v5", lambda obs: (still(obs), None), steps=3, seed=0)
    assert not data.action.any()


def test_actions_are_clipped_before_the_env_and_the_record() -> None:
    data = collect(
        lambda: CountingEnv(length=5), lambda obs: np.full((len(obs), 2), [-7.0, 0.5]), steps=5, seed=0
    )
    assert (data.action == np.float32([-1, 0.5])).all()


def test_noise_is_a_share_of_half_the_action_range() -> None:
    def env() -> gym.Env[Any, Any]:
        return CountingEnv(spaces.Box(np.float32([-1, -100]), np.float32([1, 100])))

    data = collect(
        env, lambda obs: np.zeros((len(obs), 2)), steps=2_000, seed=0, noise=0.1, max_episode_steps=50
    )
    np.testing.assert_allclose(data.action.std(0), [0.1, 10.0], rtol=0.1)
    np.testing.assert_allclose(data.action.mean(0) / [1, 100], 0, atol=0.01)


def test_random_actions_fill_their_box() -> None:
    data = collect("HalfCheetah-v5", steps=500, seed=0)
    assert (np.abs(data.action) <= 1).all()
    np.testing.assert_allclose(data.action.std(0), 1 / np.sqrt(3), rtol=0.15)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "either steps= or episodes="),
        ({"steps": 5, "episodes": 5}, "either steps= or episodes="),
        ({"steps": 0}, "at least 1"),
        ({"steps": -3}, "at least 1"),
        ({"episodes": 0}, "at least 1"),
        ({"steps": 5, "noise": -0.1}, "noise"),
        ({"steps": 5, "noise": float("nan")}, "noise"),
        ({"steps": 5, "max_episode_steps": 0}, "max_episode_steps"),
        ({"steps": 5, "policy": {}}, "polic"),
        ({"steps": 5, "workers": 0}, "workers"),
        ({"steps": 5, "seed": -1}, "seed|non-negative"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        collect("InvertedPendulum-v5", **{"seed": 0, **arguments})
    assert "\n" not in str(caught.value)


def test_noise_on_discrete_actions_and_episodes_without_end_are_refused() -> None:
    with pytest.raises(ValueError, match="noise"):
        collect("CartPole-v1", steps=5, seed=0, noise=0.1)
    with pytest.raises(ValueError, match="time limit"):
        collect(CountingEnv, episodes=5, seed=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_policies_side_by_side_are_each_what_they_are_alone(workers: int) -> None:
    task, both = make_task("Hopper-v5"), {"still": still, "random": None}
    found = collect_each(task, both, episodes=3, seed=5, max_episode_steps=9, workers=workers)
    assert list(found) == ["still", "random"]
    for name, policy in both.items():
        assert_equal(found[name], collect(task, {name: policy}, episodes=3, seed=5, max_episode_steps=9))
    assert found["still"].episode_seed == found["random"].episode_seed


# Envs that keep their own time, and rewards that are not the env's


class OwnLimit(gym.Wrapper[Any, Any, Any, Any]):
    """Cuts episodes itself after so many steps, one after the other in turn."""

    def __init__(self, env: gym.Env[Any, Any], *lengths: int) -> None:
        super().__init__(env)
        self.lengths, self.episode = lengths, -1

    def reset(self, **kwargs: Any) -> Any:
        self.count, self.episode = 0, self.episode + 1
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        obs, reward, terminated, _, info = self.env.step(action)
        self.count += 1
        cut = self.count >= self.lengths[self.episode % len(self.lengths)]
        return obs, reward, terminated, cut, info


@pytest.mark.parametrize(
    ("lengths", "given", "expected"),
    [((30,), None, 30), ((30,), 50, 30), ((30,), 20, 20), ((20, 30), None, None), ((1_000,), None, None)],
)
def test_an_env_that_cuts_its_episodes_itself_tells_its_limit(
    lengths: tuple[int, ...], given: int | None, expected: int | None
) -> None:
    data = collect(
        lambda: OwnLimit(gym.make("Pendulum-v1").env, *lengths), steps=200, seed=0, max_episode_steps=given,
        workers=1,
    )  # fmt: skip
    assert data.task.max_episode_steps == expected


def test_a_reward_that_is_not_the_envs_is_named() -> None:
    def own(obs: Any, action: Any, next_obs: Any) -> Any:
        return 1 - 3 * abs(next_obs[..., 2])

    task = make_task("CartPole-v1", reward_fn=own)
    with pytest.warns(UserWarning, match=r"another reward in .* score would compare the two"):
        collect(task, steps=100, workers=1)

    def same(obs: Any, action: Any, next_obs: Any) -> Any:
        return 1.0 + 0 * next_obs[..., 2]

    collect(make_task("CartPole-v1", reward_fn=same), steps=100, workers=1)
