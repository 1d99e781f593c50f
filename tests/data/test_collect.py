"""Tests of wmgym.collecting."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium import spaces

from wmgym.data.collect import collect
from wmgym.data.policy import MLPPolicy, PolicyCard
from wmgym.data.rollout_worker import MUJOCO_WARNINGS, CollectError
from wmgym.data.transitions import Transitions
from wmgym.io.artifacts import StoreError
from wmgym.tasks.task import make_task

COLUMNS = (
    "obs", "action", "reward", "next_obs", "terminated", "truncated", "core", "next_core", "unobserved",
    "episode",
)  # fmt: skip
BOX = spaces.Box(-1.0, 1.0, (2,))


class CountingEnv(gym.Env[Any, Any]):
    """Observes the step count in one buffer that it overwrites; goes wrong as it is told to."""

    def __init__(
        self,
        action_space: spaces.Space[Any] = BOX,
        shape: tuple[int, ...] = (1,),
        length: int | None = None,
        faults: dict[int, Any] | None = None,
        rewards: dict[int, float] | None = None,
    ) -> None:
        self.observation_space = spaces.Box(0.0, 100.0, shape, np.float32)
        self.action_space = action_space
        self.length, self.faults, self.rewards = length, faults or {}, rewards or {}
        self.buffer = np.zeros(shape, np.float32)
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action} is not in {self.action_space}"
        self.count += 1
        self.actions.append(action)
        return self._look(), self.rewards.get(self.count, 1.0), self.count == self.length, False, {}

    def _look(self) -> np.ndarray:
        self.buffer[...] = self.faults.get(self.count, self.count)
        return self.buffer


class Kick(gym.Wrapper[Any, Any, Any, Any]):
    """Writes an absurd value into the simulator before its fifth step."""

    def __init__(self, env: gym.Env[Any, Any], field: str, value: float) -> None:
        super().__init__(env)
        self.field, self.value, self.count = field, value, 0

    def step(self, action: Any) -> Any:
        self.count += 1
        if self.count == 5:
            getattr(self.unwrapped.data, self.field)[0] = self.value  # type: ignore[attr-defined]
        return self.env.step(action)


def linear(obs: np.ndarray) -> np.ndarray:
    """A Hopper policy that is a matrix product, so that its last bits depend on the batch."""
    weight = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    action: np.ndarray = np.tanh(obs.astype(np.float32) @ weight)
    return action


def still(obs: np.ndarray) -> np.ndarray:
    return np.zeros((len(obs), 3), np.float32)


def assert_equal(one: Transitions, other: Transitions) -> None:
    for name in COLUMNS:
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name
    assert (one.episode_seed, one.episode_policy) == (other.episode_seed, other.episode_policy)


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


def test_children_leave_ctrl_c_to_their_parent() -> None:
    def observed(obs: np.ndarray) -> np.ndarray:
        assert (signal.getsignal(signal.SIGINT) is signal.SIG_IGN) == (os.getpid() != parent)
        pids.add(os.getpid())
        return still(obs)

    parent, pids = os.getpid(), set[int]()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        for workers in (1, 2):
            collect("Hopper-v5", observed, steps=80, seed=0, max_episode_steps=20, workers=workers)
    finally:
        signal.signal(signal.SIGINT, before)
    assert pids == {parent}  # children keep their own copy


def test_a_child_that_dies_is_reported() -> None:
    def fatal(obs: np.ndarray) -> np.ndarray:
        if os.getpid() != parent:
            os._exit(9)
        return still(obs)

    parent = os.getpid()
    with pytest.raises(RuntimeError, match="died"):
        collect("Hopper-v5", fatal, steps=80, seed=0, max_episode_steps=20, workers=2)


def test_an_error_in_one_child_never_waits_for_another_that_is_sending() -> None:
    """A pool with shared queues hung here now and then."""

    def wrong(obs: np.ndarray) -> np.ndarray:
        if len(obs) < 4 and random.random() < 0.3:
            raise ValueError("wrong")
        return still(obs)

    for _ in range(20):
        with contextlib.suppress(ValueError):
            collect("Hopper-v5", wrong, steps=400, seed=0, max_episode_steps=40, workers=2)
    assert not multiprocessing.active_children()


def test_pythons_warning_about_forking_with_threads_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = os.fork

    def warn() -> int:  # as Python 3.12 does
        message = "This process (pid=1) is multi-threaded, use of fork() may lead to deadlocks in the child."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        warned.append(message)
        return fork()

    warned: list[str] = []
    monkeypatch.setattr(os, "fork", warn)
    assert len(collect("Hopper-v5", steps=80, seed=0, max_episode_steps=20, workers=2)) == 80
    assert len(warned) == 2


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
    with pytest.raises(ValueError, match="switch_every must be at least 1"):
        collect(env, given, steps=10, seed=0, switch_every=0)


def test_a_pool_needs_policies_and_steps_for_each(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no policies"):
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


# Spaces


def test_discrete_actions_reach_the_env_in_its_own_count() -> None:
    env = CountingEnv(spaces.Discrete(3, start=2), length=50)
    data = collect(lambda: env, steps=50, seed=0)
    assert set(data.action.tolist()) == {0, 1, 2}
    assert [int(action) - 2 for action in env.actions] == data.action.tolist()
    chosen = collect(lambda: env, lambda obs: np.full(len(obs), 4), steps=5, seed=0)
    assert chosen.action.tolist() == [2] * 5


def test_arrays_of_several_dimensions_are_stored_flat() -> None:
    env = CountingEnv(spaces.Box(-1.0, 1.0, (2, 2)), shape=(3, 4), length=5)
    seen = []

    def policy(obs: np.ndarray) -> np.ndarray:
        seen.append(obs.shape)
        return np.full((len(obs), 2, 2), 0.5)

    data = collect(lambda: env, policy, steps=5, seed=0)
    assert seen == [(1, 3, 4)] * 5
    assert (data.obs.shape, data.action.shape, data.core.shape) == ((5, 12), (5, 4), (5, 12))
    assert env.actions[0].shape == (2, 2)


# What is refused


@pytest.mark.parametrize(
    ("env", "step", "why"),
    [
        (lambda: CountingEnv(length=3, faults={2: np.nan}), 2, "the observation is not finite"),
        (lambda: CountingEnv(length=3, faults={2: np.inf}), 2, "the observation is not finite"),
        (lambda: CountingEnv(length=3, rewards={2: np.nan}), 2, "the reward is not finite"),
        (lambda: CountingEnv(length=3, rewards={3: np.inf}), 3, "the reward is not finite"),
        (lambda: CountingEnv(length=3, faults={3: 101.0}), 3, "outside observation_space"),
        (lambda: CountingEnv(length=3, faults={3: -1.0}), 3, "outside observation_space"),
        (lambda: CountingEnv(length=3, faults={0: np.nan}), 0, "the observation is not finite"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_an_env_that_goes_wrong_is_named(
    env: Callable[[], gym.Env[Any, Any]], step: int, why: str, workers: int
) -> None:
    with pytest.raises(CollectError, match=why) as caught:
        collect(env, {"mine": None}, episodes=4, seed=0, max_episode_steps=9, workers=workers)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("episode 0 (reset seed ")
    assert f"policy 'mine'), step {step}: " in message


def test_the_episode_that_goes_wrong_is_named() -> None:
    class Third(CountingEnv):
        resets = 0

        def reset(self, **kwargs: Any) -> Any:
            Third.resets += 1
            return super().reset(**kwargs)

        def step(self, action: Any) -> Any:
            obs, reward, *rest = super().step(action)
            return obs, float("nan") if Third.resets == 3 else reward, *rest

    with pytest.raises(CollectError, match=r"^episode 2 .* step 1: "):
        collect(lambda: Third(length=2), steps=7, seed=0)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("qvel", 1e12, "velocity is not finite or too large"),
        ("qpos", 1e12, "position is not finite or too large"),
        ("qvel", np.nan, "velocity is not finite or too large"),
        ("qfrc_applied", 1e14, "acceleration is not finite or too large"),
    ],
)
def test_a_mujoco_warning_is_an_error(
    field: str, value: float, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory
    with pytest.raises(CollectError, match=f"step 5: MuJoCo warns: {why};"):
        collect(lambda: Kick(gym.make("HalfCheetah-v5"), field, value), steps=10, seed=0)


def test_warnings_are_named_in_mujoco_order() -> None:
    names = {
        "mjWARN_INERTIA": "inertia is singular",
        "mjWARN_CONTACTFULL": "contact buffer full",
        "mjWARN_CNSTRFULL": "constraint buffer full",
        "mjWARN_BADQPOS": "position is not finite or too large",
        "mjWARN_BADQVEL": "velocity is not finite or too large",
        "mjWARN_BADQACC": "acceleration is not finite or too large",
        "mjWARN_BADCTRL": "control is not finite",
    }
    kinds = {key: int(kind) for key, kind in mujoco.mjtWarning.__members__.items()}
    assert len(MUJOCO_WARNINGS) == kinds.pop("mjNWARNING")
    assert {key: MUJOCO_WARNINGS[kind] for key, kind in kinds.items()} == names


@pytest.mark.parametrize(
    "answer",
    [
        lambda obs: np.zeros(3),
        lambda obs: np.zeros((len(obs), 2)),
        lambda obs: np.zeros((len(obs) + 1, 3)),
        lambda obs: np.full((len(obs), 3), np.nan),
        lambda obs: np.full((len(obs), 3), np.inf),
    ],
)
def test_a_policy_with_unusable_actions_is_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match="policy 'mine' gave actions of shape"):
        collect("Hopper-v5", {"mine": answer}, steps=5, seed=0)


@pytest.mark.parametrize("action", [0.5, [[0]]])
def test_a_discrete_policy_must_answer_one_integer_a_row(action: Any) -> None:
    with pytest.raises(ValueError, match="policy 'mine' gave actions"):
        collect(
            "CartPole-v1",
            {"mine": lambda obs: np.array(action).reshape(-1, *np.shape(action)[1:])},
            steps=5,
            seed=0,
        )


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
