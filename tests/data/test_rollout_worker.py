"""Real envs side by side: the spaces that they may have, and everything that stops a collection."""

from __future__ import annotations

import ctypes
import multiprocessing
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.data.envs import CountingEnv, Kick, assert_equal
from wmgym.data.collect import collect
from wmgym.data.rollout_worker import MUJOCO_WARNINGS, CollectError
from wmgym.tasks.layout import identity_core
from wmgym.tasks.task import make_task

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
    # Of two processes either may be the first to meet it.
    assert re.match(rf"episode [{'0' if workers == 1 else '02'}] \(reset seed ", message)
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
    ("answer", "what"),
    [
        (lambda obs: np.zeros(4), r"of shape \(4,\), expected \(1, 3\)"),
        (lambda obs: np.zeros((len(obs), 2)), r"of shape \(1, 2\), expected \(1, 3\)"),
        (lambda obs: np.zeros((len(obs) + 1, 3)), r"of shape \(2, 3\), expected \(1, 3\)"),
        (lambda obs: np.full((len(obs), 3), np.nan), "that are not finite"),
        (lambda obs: np.full((len(obs), 3), np.inf), "that are not finite"),
    ],
)
def test_a_policy_with_unusable_actions_is_refused(answer: Any, what: str) -> None:
    said = rf"^policy 'mine' gave actions {what}; episode 0 \(reset seed \d+\), step 0\n"
    with pytest.raises(ValueError, match=said):
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


# What is recorded is what happened


class Own(CountingEnv):
    """Returns what it is told to, whatever Gymnasium asks for."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.answer = answer

    def step(self, action: Any) -> Any:
        return self.answer(super().step(action))


def outcome(**changes: Any) -> Callable[[Any], Any]:
    names = ("obs", "reward", "terminated", "truncated", "info")
    return lambda found: tuple((dict(zip(names, found, strict=True)) | changes).values())


def test_an_action_that_the_env_changes_in_place_is_recorded_as_it_was_asked() -> None:
    class Halving(CountingEnv):
        def step(self, action: Any) -> Any:
            action *= 0.5
            return super().step(action)

    asked = np.full((1, 2), 0.8, np.float32)
    for steps, workers in ((3, 1), (40, 2)):
        env = Halving(length=5)
        data = collect(lambda env=env: env, lambda obs: asked[[0] * len(obs)], steps=steps, workers=workers)  # type: ignore[misc]
        assert (data.action == asked).all()
    assert (env.actions[0] == 0.4).all() if env.actions else True


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_one_array_for_all_steps_is_copied(dtype: type) -> None:
    class Same(CountingEnv):
        def _look(self) -> np.ndarray:
            self.buffer = self.buffer.astype(dtype, copy=False)
            return super()._look()

    data = collect(lambda: Same(length=5), steps=10, seed=0)
    assert data.obs[:, 0].tolist() == data.core[:, 0].tolist() == [0, 1, 2, 3, 4] * 2
    assert data.next_obs[:, 0].tolist() == data.next_core[:, 0].tolist() == [1, 2, 3, 4, 5] * 2


def test_a_reading_of_the_live_simulator_is_copied() -> None:
    env = CountingEnv(length=5)
    core = replace(identity_core(1), unobserved_dim=1, read_unobserved=lambda env: env.buffer)  # type: ignore[attr-defined]
    task = make_task(lambda: env, core=core)
    read = task.read_unobserved(env), task.read_core(env, env.buffer)
    env.buffer[:] = 7
    assert [float(each[0]) for each in read] == [0.0, 0.0]


@pytest.mark.parametrize("wrap", [np.array, lambda x: np.array([x]), np.float32, lambda x: torch.tensor([x])])
def test_arrays_of_one_element_and_ints_are_numbers(wrap: Callable[[Any], Any]) -> None:
    env = Own(outcome(reward=wrap(2.0), terminated=wrap(0), truncated=wrap(False)))
    data = collect(lambda: env, steps=5, seed=0)
    assert (data.reward, data.terminated.tolist()) == (pytest.approx([2.0] * 5), [False] * 5)
    ends = collect(lambda: Own(outcome(reward=3, terminated=wrap(1))), steps=2, seed=0)
    assert (ends.terminated.tolist(), ends.num_episodes) == ([True, True], 2)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (outcome(reward=None), "the reward is None, not a number"),
        (outcome(reward="much"), "the reward is 'much', not a number"),
        (outcome(reward=np.zeros(2)), r"the reward is array\(\[0., 0.\]\), not a number"),
        (outcome(reward=1j), "the reward is 1j, not a number"),
        (outcome(reward=torch.zeros(1, requires_grad=True)), "the reward is tensor.*, not a number"),
        (outcome(terminated=np.nan), "terminated is nan, neither true nor false"),
        (outcome(terminated=0.5), "terminated is 0.5, neither true nor false"),
        (outcome(truncated=None), "truncated is None, not a number"),
        (outcome(obs=None), "the observation is None, not numbers of .* shape"),
        (outcome(obs=np.array([1.0], object)), r"the observation is array\(\[1.0\], dtype=object\), not"),
        (outcome(obs=[[1.0], [1.0, 2.0]]), "the observation is "),
        (outcome(obs=np.ones((1, 1), np.float32)), r"the observation is of shape \(1, 1\), not numbers of"),
        (outcome(obs=np.float32(1)), r"the observation is of shape \(\), not"),
        (lambda found: found[:4], "step returned 4 values where .* belong, as in the old Gym API"),
        (lambda found: None, "step returned a NoneType where"),
    ],
)
def test_what_is_no_step_of_gymnasium_is_one_line(answer: Callable[[Any], Any], why: str) -> None:
    with pytest.raises(CollectError, match=f"^episode 0 .*, step 0: {why}") as caught:
        collect(lambda: Own(answer), steps=5, seed=0)
    assert "\n" not in str(caught.value)


def test_envs_of_the_old_gym_api_are_one_line() -> None:
    class Start(CountingEnv):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return super().reset(seed=seed)[0]

    class NoSeed(CountingEnv):
        def reset(self) -> Any:  # type: ignore[override]
            return super().reset()

    class Four(CountingEnv):
        def step(self, action: Any) -> Any:
            return super().step(action)[:4]

    for kind in (Start, NoSeed, Four):
        for make in (kind, lambda kind=kind: gym.wrappers.TimeLimit(kind(), 5)):
            with pytest.raises(CollectError, match=r"old Gym API; .*Shimmy") as caught:
                collect(make, steps=5, seed=0)
            assert "\n" not in str(caught.value)


def test_an_error_of_the_envs_own_tells_the_episode_and_step() -> None:
    def fails(found: Any) -> Any:
        raise ValueError("gripper is open")

    said = r"^episode 0 \(reset seed .*\), step 0: the env raised ValueError: gripper is open"
    with pytest.raises(CollectError, match=said) as caught:
        collect(lambda: Own(fails), steps=5, seed=3)
    assert isinstance(caught.value.__cause__, ValueError)


# Envs that hang


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", [time.sleep, ctypes.PyDLL(None).sleep], ids=["python", "c"])
def test_an_env_that_hangs_is_named(workers: int, how: Callable[[int], Any]) -> None:
    class Hangs(CountingEnv):
        def step(self, action: Any) -> Any:
            if self.count == 3:
                how(30)
            return super().step(action)

    began = time.monotonic()
    with pytest.raises(CollectError, match=r"step 3: the env has not returned for step_timeout=0.5 seconds"):
        collect(lambda: Hangs(length=9), steps=80, seed=0, workers=workers, step_timeout=0.5)
    assert time.monotonic() - began < 10
    assert not multiprocessing.active_children()


def test_a_reset_that_hangs_is_named_and_a_slow_policy_is_not() -> None:
    class Hangs(CountingEnv):
        def reset(self, **kwargs: Any) -> Any:
            if hasattr(self, "count"):
                time.sleep(30)
            return super().reset(**kwargs)

    with pytest.raises(CollectError, match=r"^episode [0-9]+, step 0: the env has not returned"):
        collect(lambda: Hangs(length=2), steps=8, seed=0, step_timeout=0.3)

    def slow(obs: np.ndarray) -> np.ndarray:
        time.sleep(0.4)
        return np.zeros((len(obs), 2))

    patient = collect(lambda: CountingEnv(length=9), slow, steps=3, seed=0, step_timeout=0.3)
    assert_equal(patient, collect(lambda: CountingEnv(length=9), slow, steps=3, seed=0))


@pytest.mark.parametrize("seconds", [0, -1.0, np.nan])
def test_a_step_timeout_is_a_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="step_timeout must be above 0"):
        collect(CountingEnv, steps=3, step_timeout=seconds)
