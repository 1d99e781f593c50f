"""Real envs side by side: the spaces that they may have, and everything that stops a collection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium import spaces

from tests.data.envs import CountingEnv, Kick
from wmgym.data.collect import collect
from wmgym.data.rollout_worker import MUJOCO_WARNINGS, CollectError

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
    ("answer", "what"),
    [
        (lambda obs: np.zeros(3), r"of shape \(3,\), expected \(1, 3\)$"),
        (lambda obs: np.zeros((len(obs), 2)), r"of shape \(1, 2\), expected \(1, 3\)$"),
        (lambda obs: np.zeros((len(obs) + 1, 3)), r"of shape \(2, 3\), expected \(1, 3\)$"),
        (lambda obs: np.full((len(obs), 3), np.nan), "that are not finite$"),
        (lambda obs: np.full((len(obs), 3), np.inf), "that are not finite$"),
    ],
)
def test_a_policy_with_unusable_actions_is_refused(answer: Any, what: str) -> None:
    with pytest.raises(ValueError, match=f"^policy 'mine' gave actions {what}"):
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
