"""The imagined env: Gymnasium's contract, to the letter."""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, RecordVideo
from gymnasium.wrappers import RecordEpisodeStatistics as RecordSingleStatistics
from gymnasium.wrappers import vector as vector_wrappers
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from scipy import stats

import wmgym
from tests import toy
from wmgym.calibration.calibrate import calibrate
from wmgym.data.collect import collect
from wmgym.envs.env import ImaginedEnv
from wmgym.envs.registration import make_env, make_vector_env
from wmgym.envs.trust import Trust
from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.models.config import FitConfig
from wmgym.models.dynamics import PROPAGATIONS, Prediction, Propagation
from wmgym.models.fit import fit
from wmgym.models.saving import load
from wmgym.models.world import WorldModel

ID = "wmgym/InvertedPendulum-v5"
STILL = np.zeros((1, 2), np.float32)


@pytest.fixture(scope="module")
def toy_world() -> WorldModel:
    """The exact toy with bounds for its first 20 steps."""
    return calibrate(toy.world(), toy.episodes(20, 0), horizon=20)


# Conformance


def complaints(env: gym.Env[Any, Any]) -> set[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)  # render modes are tried below, where there is a screen
    return {str(warning.message) for warning in caught}


def test_gymnasium_complains_of_nothing_that_the_real_env_lacks(
    pendulum_world: WorldModel, pendulum_dir: str
) -> None:
    about_the_real_one = complaints(gym.make("InvertedPendulum-v5").unwrapped)
    assert complaints(gym.make(ID, world=pendulum_dir).unwrapped) <= about_the_real_one
    assert complaints(ImaginedEnv(pendulum_world)) <= about_the_real_one


def test_gymnasium_checks_an_env_of_discrete_actions(cartpole_world: WorldModel) -> None:
    assert complaints(ImaginedEnv(cartpole_world)) <= complaints(gym.make("CartPole-v1").unwrapped)


def test_spaces_and_limit_are_the_real_envs(pendulum_dir: str) -> None:
    real, one, many = (
        gym.make("InvertedPendulum-v5"),
        gym.make(ID, world=pendulum_dir),
        gym.make_vec(ID, num_envs=3, world=pendulum_dir),
    )
    assert real.observation_space == one.observation_space == many.single_observation_space
    assert real.action_space == one.action_space == many.single_action_space
    assert many.observation_space.shape == (3, *real.observation_space.shape)  # type: ignore[misc]
    assert many.unwrapped.max_episode_steps == real.spec.max_episode_steps == one.spec.max_episode_steps  # type: ignore[union-attr,attr-defined]
    obs, _ = one.reset(seed=0)
    assert (obs.dtype, obs.shape) == (real.observation_space.dtype, real.observation_space.shape)


def test_make_vec(pendulum_dir: str) -> None:
    env = gym.make_vec(ID, num_envs=3, world=pendulum_dir, max_episode_steps=7)
    assert isinstance(env.unwrapped, ImaginedVectorEnv)
    assert env.num_envs == 3
    assert env.unwrapped.max_episode_steps == 7
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space
    assert env.step(env.action_space.sample())[0] in env.observation_space
    env.close()
    env.close()


def test_gym_make_applies_its_time_limit(pendulum_dir: str) -> None:
    env = gym.make(ID, world=pendulum_dir, max_episode_steps=3)
    for seed in range(3):
        env.reset(seed=seed)
        ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(3)]
        assert ends == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_a_world_of_another_env_is_refused(make: Any, pendulum_dir: str) -> None:
    with pytest.raises(ValueError, match=r"imagines 'InvertedPendulum-v5', not 'Hopper-v5'; use wmgym/Inv"):
        make("wmgym/Hopper-v5", world=pendulum_dir)


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_a_world_of_an_own_env_is_no_id_of_gymnasium(make: Any, toy_world: WorldModel) -> None:
    with pytest.raises(ValueError, match=r"not 'Hopper-v5'; use wmgym\.ImaginedEnv\(world\)$"):
        make("wmgym/Hopper-v5", world=replace(toy_world, task=replace(toy_world.task, env_id="Spring-v0")))


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_keywords_of_the_real_env_need_a_world_of_their_own(make: Any) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'xml_file'; .* pass world="):
        make("wmgym/Reacher-v5", xml_file="mine.xml")


@pytest.mark.parametrize("make", [make_env, make_vector_env])
def test_a_world_is_asked_for(make: Any) -> None:
    with pytest.raises(ValueError, match="no world of CartPole-v1 ships; pass world="):
        make("CartPole-v1")


def test_a_world_may_be_named_by_a_path(pendulum_dir: str) -> None:
    assert ImaginedEnv(Path(pendulum_dir)).reset(seed=0)[0].shape == (4,)


def test_an_env_is_one_short_line(pendulum_world: WorldModel, pendulum_dir: str) -> None:
    assert repr(ImaginedVectorEnv(pendulum_world, 3, propagation="mean")) == (
        "ImaginedVectorEnv('InvertedPendulum-v5', num_envs=3, propagation='mean')"
    )
    assert repr(ImaginedEnv(pendulum_world)) == "ImaginedEnv('InvertedPendulum-v5', propagation='member')"
    made = gym.make_vec(ID, num_envs=2, world=pendulum_dir)
    assert repr(made) == "ImaginedVectorEnv('wmgym/InvertedPendulum-v5', num_envs=2, propagation='member')"
    made.reset(seed=0)
    assert repr(made.unwrapped.snapshot()) == "EnvSnapshot(num_envs=2)"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"autoreset_mode": "SAME_STEP"}, "autoreset_mode must be one of .*SameStep"),
        ({"render_mode": "ansi"}, "render_mode must be one of human, rgb_array, None"),
        ({"num_envs": 0}, "num_envs must be a whole number of at least 1, got 0"),
        ({"num_envs": 1.5}, "num_envs must be a whole number of at least 1, got 1.5"),
        ({"num_envs": "2"}, "num_envs must be a whole number of at least 1, got '2'"),
        ({"num_envs": True}, "num_envs must be"),
        ({"max_episode_steps": 2.5}, "max_episode_steps must be a whole number"),
        ({"propagation": "median"}, "propagation must be one of mean, member, sample"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"starts": np.zeros((0, 3))}, "starts"),
        ({"starts": np.zeros((2, 4))}, "starts"),
        ({"starts": np.zeros(3)}, "starts"),
    ],
)
def test_bad_arguments(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ImaginedVectorEnv(toy.world(), **options)


def test_a_single_env_has_no_number_of_envs() -> None:
    with pytest.raises(ValueError, match=r"a single env; for several take gym.make_vec or"):
        gym.make("wmgym/InvertedPendulum-v5", num_envs=1.5)


# Time


@pytest.mark.parametrize("limit", [1, 2, 17])
def test_time_limit_is_exact_and_truncates(limit: int) -> None:
    env = ImaginedVectorEnv(toy.world(), 3, max_episode_steps=limit)
    env.reset(seed=0)
    for t in range(1, 3 * limit + 1):
        _, _, terminated, truncated, _ = env.step(np.zeros((3, 2), np.float32))
        assert not terminated.any()
        assert truncated.all() == truncated.any() == (t % limit == 0)


def test_time_limit_defaults_to_the_real_one() -> None:
    env = ImaginedEnv(toy.world())
    env.reset(seed=0)
    ends = [env.step(STILL[0])[3] for _ in range(toy.LIMIT)]
    assert ends == [False] * (toy.LIMIT - 1) + [True]


def test_without_a_limit_nothing_is_truncated() -> None:
    env = ImaginedVectorEnv(toy.world(described=replace(toy.task(), max_episode_steps=None)), 2)
    env.reset(seed=0)
    for _ in range(3 * toy.LIMIT):
        _, _, terminated, truncated, infos = env.step(np.zeros((2, 2), np.float32))
        assert not (terminated | truncated).any()
        assert "final_obs" not in infos


def test_termination_wins_over_the_time_limit_and_over_divergence() -> None:
    ends = toy.task(terminated_fn=lambda obs, action, next_obs: next_obs[..., 0] > 2)
    env = ImaginedVectorEnv(toy.world(toy.Stub([1.0, 0.0, 0.0]), ends, high=2.5), 2, max_episode_steps=3)
    env.reset(options={"state": np.zeros(3)})
    ends_at = [env.step(np.zeros((2, 2), np.float32))[2:] for _ in range(3)]
    assert [terminated.all() for terminated, *_ in ends_at] == [False, False, True]
    assert not any(truncated.any() for _, truncated, _ in ends_at)
    assert ends_at[-1][2]["final_info"]["diverged"].all()


# Autoreset


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_final_obs_is_where_the_episode_really_ended(propagation: Any) -> None:
    world = toy.world()
    env = ImaginedVectorEnv(world, 4, max_episode_steps=6, propagation=propagation)
    starts = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    env.reset(seed=5, options={"state": starts})
    generator = torch.Generator().manual_seed(5)
    state = world.init(torch.tensor(starts), generator)
    rng = np.random.default_rng(1)
    for _ in range(6):
        action = rng.uniform(-1, 1, (4, 2)).astype(np.float32)
        obs, reward, *_, infos = env.step(action)
        outcome = world.step(state, torch.tensor(action), propagation, generator)
        state = outcome.state
        np.testing.assert_array_equal(reward, outcome.reward.double().numpy())
    np.testing.assert_array_equal(np.stack(infos["final_obs"]), state.core.double().numpy())
    assert (obs[:, None] == world.starts.astype(np.float64)).all(-1).any(1).all()
    np.testing.assert_array_equal(env.core(), obs.astype(np.float32))


def test_only_the_ended_rows_restart() -> None:
    ends = toy.task(terminated_fn=lambda obs, action, next_obs: next_obs[..., 0] > 0.9)
    world = toy.world(toy.LinearGaussian(sigma=0.0), ends)
    env = ImaginedVectorEnv(world, 3)
    cores = np.array([[0.1, 0.0, 0.0], [1.5, 0.0, 0.0], [0.2, 0.0, 0.0]])
    env.reset(seed=0, options={"state": cores})
    obs, _, terminated, truncated, infos = env.step(np.zeros((3, 2), np.float32))
    after = (cores @ toy.A.T).astype(np.float32)
    assert terminated.tolist() == infos["_final_obs"].tolist() == [False, True, False]
    assert infos["_final_info"].tolist() == infos["final_info"]["_diverged"].tolist() == [False, True, False]
    assert not truncated.any()
    np.testing.assert_allclose(obs[[0, 2]], after[[0, 2]], atol=1e-6)
    np.testing.assert_allclose(infos["final_obs"][1], after[1], atol=1e-6)
    assert infos["final_obs"][0] is infos["final_obs"][2] is None
    assert obs[1].astype(np.float32).tolist() in world.starts.tolist()


def test_every_row_keeps_its_own_time(toy_world: WorldModel) -> None:
    ends = replace(
        toy_world.task, terminated=lambda core, action, next_core, unobserved: next_core[:, 0] > 0.5
    )
    env = ImaginedVectorEnv(replace(toy_world, task=ends), 5, max_episode_steps=9)
    env.reset(seed=0)
    age = np.zeros(5, int)
    for _ in range(60):
        _, _, terminated, truncated, infos = env.step(np.zeros((5, 2), np.float32))
        age += 1
        np.testing.assert_array_equal(truncated, (age == 9) & ~terminated)
        age[terminated | truncated] = 0
        expected = toy_world.calibration.error_bound(age, "member", env.core())  # type: ignore[union-attr]
        np.testing.assert_array_equal(infos["error_bound"], expected)
    assert len(set(age)) > 1


def layout(value: Any) -> Any:
    """Keys, shapes and dtypes of infos, at any depth."""
    if isinstance(value, dict):
        return {key: layout(entry) for key, entry in value.items()}
    return (value.shape, value.dtype, type(value[np.argmax([x is not None for x in value])]))


@pytest.mark.parametrize("when", ["reset", "going", "some ended", "all ended"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_infos_have_the_form_of_sync_vector_env(
    pendulum_world: WorldModel, when: str, calibrated: bool
) -> None:
    world = pendulum_world if calibrated else toy.uncalibrated(pendulum_world)
    found = []
    for env in (
        ImaginedVectorEnv(world, 3, max_episode_steps=30),
        SyncVectorEnv(
            [lambda: ImaginedEnv(world, max_episode_steps=30)] * 3, autoreset_mode=AutoresetMode.SAME_STEP
        ),
    ):
        _, infos = env.reset(seed=0)
        env.action_space.seed(0)
        if when == "all ended":
            env.reset(options={"obs": np.array([0.0, 0.3, 0.0, 0.0])})
        for _ in range(200):
            if when == "reset":
                break
            _, _, terminated, truncated, infos = env.step(env.action_space.sample())
            ended = int((terminated | truncated).sum())
            if {"going": ended == 0, "some ended": 0 < ended < 3, "all ended": ended == 3}[when]:
                break
        else:
            pytest.fail(f"never {when}")
        found.append(layout(infos))
    assert found[0] == found[1]


@pytest.mark.parametrize("steps", [350, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("autoreset", AutoresetMode)
@pytest.mark.parametrize("num_envs", [1, pytest.param(2, marks=pytest.mark.slow), 7, 64])
def test_sync_vector_env_over_single_envs_does_the_same_to_the_last_bit(
    pendulum_world: WorldModel,
    num_envs: int,
    autoreset: AutoresetMode,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One start state and no noise, since every env object has a generator of its own.

    Single envs step as batches of one here: a compiled step rounds otherwise, see test_single.py.
    """
    monkeypatch.setattr("wmgym.envs.single.compiled_step", lambda *given: None)
    options: dict[str, Any] = {
        "propagation": "mean",
        "starts": pendulum_world.starts[:1],
        "max_episode_steps": 40,
    }
    ours = ImaginedVectorEnv(pendulum_world, num_envs, autoreset_mode=autoreset, **options)
    oracle = SyncVectorEnv(
        [lambda: ImaginedEnv(pendulum_world, **options)] * num_envs, autoreset_mode=autoreset
    )
    ours.action_space.seed(0)
    np.testing.assert_array_equal(ours.reset(seed=0)[0], oracle.reset(seed=0)[0])
    over, ends = np.zeros(num_envs, bool), np.zeros(2, int)
    for _ in range(-(-steps // num_envs)):
        if autoreset is AutoresetMode.DISABLED and over.any():
            found, real = (env.reset(options={"reset_mask": over.copy()}) for env in (ours, oracle))
            np.testing.assert_array_equal(found[0], real[0])
            np.testing.assert_array_equal(found[1]["_diverged"], over)
        action = ours.action_space.sample()
        found, real = ours.step(action), oracle.step(action)
        for mine, theirs in zip(found[:4], real[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        over = found[2] | found[3]
        ends += [found[2].sum(), found[3].sum()]
        if autoreset is AutoresetMode.SAME_STEP and over.any():
            for i in np.flatnonzero(over):
                np.testing.assert_array_equal(found[4]["final_obs"][i], real[4]["final_obs"][i])
    assert ends[0] > 0


def test_disabled_autoreset_waits_for_a_mask() -> None:
    env = ImaginedVectorEnv(toy.world(), 3, max_episode_steps=1, autoreset_mode="Disabled")
    with pytest.raises(gym.error.ResetNeeded, match="once without"):
        env.reset(options={"reset_mask": np.array([True, False, False])})
    env.reset(seed=0)
    env.step(np.zeros((3, 2), np.float32))
    with pytest.raises(gym.error.ResetNeeded, match=r"episodes \[0, 1, 2\] are over"):
        env.step(np.zeros((3, 2), np.float32))
    before = env.core()
    mask = np.array([True, False, True])
    obs, infos = env.reset(options={"reset_mask": mask, "state": np.array([7.0, 8.0, 9.0])})
    np.testing.assert_array_equal(obs, np.where(mask[:, None], [7.0, 8.0, 9.0], before))
    np.testing.assert_array_equal(infos["_diverged"], mask)
    with pytest.raises(gym.error.ResetNeeded, match=r"episodes \[1\] are over"):
        env.step(np.zeros((3, 2), np.float32))
    for bad in (np.ones(2, bool), np.ones(3), np.zeros(3, bool)):
        with pytest.raises(ValueError, match="reset_mask"):
            env.reset(options={"reset_mask": bad})


def test_gymnasiums_episode_statistics_agree() -> None:
    env = RecordEpisodeStatistics(ImaginedVectorEnv(toy.world(), 2, max_episode_steps=5))
    env.reset(seed=0)
    total = np.zeros(2)
    for _ in range(5):
        _, reward, _, _, infos = env.step(np.zeros((2, 2), np.float32))
        total += reward
    np.testing.assert_allclose(infos["episode"]["r"], total)
    assert infos["episode"]["l"].tolist() == [5, 5]


# Reset


def test_options_start_from_an_observation_or_a_state() -> None:
    env = ImaginedVectorEnv(toy.world(), 2)
    each = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    for name in ("obs", "state"):
        np.testing.assert_array_equal(env.reset(options={name: each})[0], each)
        np.testing.assert_array_equal(env.reset(options={name: each[0]})[0], each[[0, 0]])
        one, _ = ImaginedEnv(toy.world()).reset(options={name: each[1]})
        np.testing.assert_array_equal(one, each[1])
    each[:] = 0.0
    assert env.core().any()  # the caller's array is not kept


@pytest.mark.parametrize(
    "options",
    [
        {"obs": np.zeros(4)},
        {"obs": np.zeros((3, 3))},
        {"state": np.array([0.0, np.nan, 0.0])},
        {"obs": np.array([0.0, np.inf, 0.0])},
        {"obs": np.zeros(3), "state": np.zeros(3)},
        {"start": np.zeros(3)},
        {0: np.zeros(3), "obs": np.zeros(3)},
        [1],
        [],
        np.zeros(3),
        "obs",
    ],
)
def test_bad_options(options: Any) -> None:
    with pytest.raises(ValueError, match="options"):
        ImaginedVectorEnv(toy.world(), 2).reset(options=options)


def test_starts_come_from_the_bank_or_from_those_given() -> None:
    world = toy.world()
    obs, _ = ImaginedVectorEnv(world, 200).reset(seed=0)
    assert len(np.unique(obs, axis=0)) == len(world.starts)
    mine = np.array([[9.0, 9.0, 9.0]])
    env = ImaginedVectorEnv(world, 4, starts=mine, max_episode_steps=1)
    assert (env.reset(seed=0)[0] == 9.0).all()
    assert (env.step(np.zeros((4, 2), np.float32))[0] == 9.0).all()


def test_step_before_reset() -> None:
    for env, action in ((ImaginedEnv(toy.world()), STILL[0]), (ImaginedVectorEnv(toy.world()), STILL)):
        with pytest.raises(gym.error.ResetNeeded):
            env.step(action)


# Determinism


def imagined_hashes(world: str) -> list[str]:
    """Hashes of 50 steps of 1, 3, 8 and 64 envs."""
    found = []
    for num_envs in (1, 3, 8, 64):
        env = ImaginedVectorEnv(world, num_envs)
        digest = hashlib.sha256(env.reset(seed=11)[0].tobytes())
        env.action_space.seed(12)
        for _ in range(50):
            obs, reward, terminated, truncated, infos = env.step(env.action_space.sample())
            for array in (obs, reward, terminated, truncated, infos["error_bound"], infos["diverged"]):
                digest.update(array.tobytes())
        found.append(digest.hexdigest())
    return found


@pytest.mark.slow
def test_two_processes_imagine_the_same(pendulum_dir: str) -> None:
    code = "import sys; from tests.envs.test_env import imagined_hashes; print(*imagined_hashes(sys.argv[1]))"
    root = Path(__file__).resolve().parents[2]
    child = subprocess.run(
        [sys.executable, "-c", code, pendulum_dir], cwd=root, capture_output=True, text=True, check=True
    )
    assert child.stdout.split() == imagined_hashes(pendulum_dir)


def digest(env: ImaginedVectorEnv, seed: int | None, steps: int = 10) -> str:
    found = hashlib.sha256(env.reset(seed=seed)[0].tobytes())
    for _ in range(steps):
        found.update(env.step(np.zeros((env.num_envs, 2), np.float32))[0].tobytes())
    return found.hexdigest()


def test_the_seed_decides_everything() -> None:
    world = toy.world()
    env = ImaginedVectorEnv(world, 3)
    once, other = digest(env, 1), digest(env, 2)
    assert once != other
    assert digest(env, 1) == once
    assert digest(ImaginedVectorEnv(world, 3), 1) == once
    assert digest(env, None) != once  # goes on from where it was
    assert digest(ImaginedVectorEnv(world, 3), None) != digest(ImaginedVectorEnv(world, 3), None)


def test_a_list_of_seeds_counts_as_a_whole() -> None:
    def first(seed: list[int | None] | int | None) -> bytes:
        return ImaginedVectorEnv(toy.world(), 3).reset(seed=seed)[0].tobytes()

    seeds: list[list[int | None]]
    seeds = [[1, 2, 3], [1, 2, 4], [0, 2, 3], [3, 2, 1], [1, 2, None], [1, None, None]]
    found = [first(seed) for seed in seeds]
    assert found == [first(seed) for seed in seeds]
    assert len(set(found)) == len(seeds)
    assert first([None, None, None]) != first([None, None, None])  # as without a seed


@pytest.mark.parametrize("seed", [[], [1], [1, 2], [1, 2, 3, 4]])
def test_a_list_of_seeds_of_another_length_is_refused(seed: list[int | None]) -> None:
    with pytest.raises(ValueError, match=f"{len(seed)} entries for 3 envs"):
        ImaginedVectorEnv(toy.world(), 3).reset(seed=seed)


# Actions


@pytest.mark.parametrize(
    "action",
    [
        np.full((2, 2), np.nan),
        np.full((2, 2), np.inf),
        np.zeros(2),
        np.zeros((2, 3)),
        np.zeros((3, 2)),
        np.zeros((2, 2, 1)),
        0.0,
    ],
)
def test_bad_box_actions(action: Any) -> None:
    env = ImaginedVectorEnv(toy.world(), 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="actions"):
        env.step(action)


@pytest.mark.parametrize("action", [[0, 2], [-1, 0], [0.0, 1.0], [True, False], [0], [[0], [1]]])
def test_bad_discrete_actions(cartpole_world: WorldModel, action: Any) -> None:
    env = ImaginedVectorEnv(cartpole_world, 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="actions"):
        env.step(np.array(action))


@pytest.mark.parametrize("action", [0, np.int64(1), np.array(1)])
def test_one_discrete_action(cartpole_world: WorldModel, action: Any) -> None:
    env = ImaginedEnv(cartpole_world)
    env.reset(seed=0)
    obs, reward, *_ = env.step(action)
    assert obs in env.observation_space
    assert isinstance(reward, float)


# Trust


class FallsApart(toy.LinearGaussian):
    """Says NaN wherever the first core dimension is positive."""

    def predict_assigned(self, core: torch.Tensor, action: torch.Tensor, member: torch.Tensor) -> Prediction:
        said = super().predict_assigned(core, action, member)
        return replace(said, mean=torch.where(core[:, :1] > 0, torch.nan, said.mean))


def test_diverged_rows_are_truncated_and_nothing_is_ever_nan() -> None:
    env = ImaginedVectorEnv(toy.world(FallsApart()), 8)
    obs, _ = env.reset(seed=0)
    seen = 0
    for _ in range(50):
        doomed = env.core()[:, 0] > 0
        obs, reward, terminated, truncated, infos = env.step(np.zeros((8, 2), np.float32))
        assert np.isfinite(obs).all()
        assert np.isfinite(reward).all()
        assert truncated.tolist() == doomed.tolist()  # long before the time limit
        assert not terminated.any()
        assert not infos["diverged"].any()  # the rows have started anew
        if doomed.any():
            seen += 1
            assert infos["final_info"]["diverged"].tolist() == doomed.tolist()
            assert np.isfinite(np.stack(infos["final_obs"][doomed])).all()
    assert seen


def test_a_single_env_says_that_it_diverged() -> None:
    env = ImaginedEnv(toy.world(FallsApart()))
    env.reset(options={"state": np.ones(3)})
    _, _, terminated, truncated, info = env.step(STILL[0])
    assert (terminated, truncated) == (False, True)
    assert info["diverged"] is True


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_error_bound_is_the_calibrations_table(toy_world: WorldModel, propagation: Any) -> None:
    assert toy_world.calibration is not None
    table = toy_world.calibration.half_width[propagation]
    env = ImaginedVectorEnv(toy_world, 2, propagation=propagation, max_episode_steps=25)
    _, infos = env.reset(seed=0)
    np.testing.assert_array_equal(infos["error_bound"], np.zeros((2, 3)))
    for h in range(1, 26):
        infos = env.step(np.zeros((2, 2), np.float32))[4]
        bound = infos["final_info"]["error_bound"] if h == 25 else infos["error_bound"]
        core = np.stack(infos["final_obs"]).astype(np.float32) if h == 25 else env.core()
        expected = table[h - 1] if h <= 20 else np.full(3, np.inf)
        nothing = toy_world.calibration.reach + np.abs(core - toy_world.calibration.center)
        np.testing.assert_array_equal(bound, np.minimum(expected, nothing))
    np.testing.assert_array_equal(infos["error_bound"], np.zeros((2, 3)))  # of the new episodes
    assert infos["error_bound"].dtype == np.float32


def test_error_bound_of_a_single_env(toy_world: WorldModel) -> None:
    assert toy_world.calibration is not None
    env = ImaginedEnv(toy_world)
    assert env.reset(seed=0)[1]["error_bound"].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_array_equal(
        env.step(STILL[0])[4]["error_bound"], toy_world.calibration.half_width["member"][0]
    )


@functools.cache
def disagreeing(offset: tuple[float, ...] = (-0.3, 0.3)) -> WorldModel:
    world = toy.world(toy.LinearGaussian(offset=offset))
    return calibrate(world, toy.episodes(40, 1, steps=20), horizon=20)


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_distrust_grows_with_what_members_disagree_by(propagation: Any) -> None:
    world = disagreeing((-0.3, 0.3, 0.35))
    table = world.calibration
    assert table is not None
    env = ImaginedVectorEnv(world, 6, propagation=propagation, trust=True, max_episode_steps=10)
    _, infos = env.reset(seed=0)
    assert not infos["distrust"].any()
    members = env._episodes.state.member.numpy()
    companion, lasting = env.core(), np.zeros((6, 3))
    for h in range(1, 10):
        infos = env.step(np.zeros((6, 2), np.float32))[4]
        companion = (
            companion @ toy.A.T + np.array([0.3, 0.35, -0.3])[members, None]
        )  # the next member's own path
        apart = np.abs(env.core() - companion) / table.data_std
        lasting = np.maximum(lasting, 0.9 * lasting + 0.1 * apart)
        past = lasting / (1 - 0.9**h)
        own = np.sqrt((apart**2 + past**2) / 2)
        disagreement = own**0.4 * stats.gmean(past, axis=1)[:, None] ** 0.6
        expected = table.error_bound(np.full(6, h), propagation, env.core(), disagreement)
        np.testing.assert_allclose(infos["error_bound"], expected, rtol=1e-4)
        np.testing.assert_allclose(infos["distrust"], (expected / table.data_std).mean(1), rtol=1e-4)
    final = env.step(np.zeros((6, 2), np.float32))[4]
    assert (final["final_info"]["distrust"] > 0).all()
    assert not final["distrust"].any()  # of the new episodes


def test_members_that_agree_again_have_still_lost_the_path() -> None:
    world = disagreeing()
    state = world.init(torch.zeros(1, 3), torch.Generator().manual_seed(0))
    for _ in range(20):
        state = world.step(state, torch.zeros(1, 2), trust=True).state
    lost = state.lasting_disagreement
    together = replace(state, companion=state.core)
    one = replace(world, dynamics=toy.LinearGaussian(offset=(0.0, 0.0)))  # members that never come apart
    for _ in range(50):
        together = one.step(together, torch.zeros(1, 2), trust=True).state
    assert torch.equal(together.core, together.companion)
    assert torch.equal(together.lasting_disagreement, lost)
    assert (
        one.disagreement(together, np.array([70])).min()
        > 0.5 * world.disagreement(state, np.array([20])).min()
    )


def test_what_follows_distrust() -> None:
    world = disagreeing()
    rest = np.zeros((4, 2), np.float32)

    def run(**options: Any) -> list[tuple[Any, ...]]:
        env = ImaginedVectorEnv(world, 4, propagation="mean", autoreset_mode="Disabled", **options)
        env.reset(seed=0)
        steps = []
        while len(steps) < 12:
            steps.append(env.step(rest))
            if (steps[-1][2] | steps[-1][3]).any():
                break
        return steps

    plain = run(trust=True)
    distrust = np.array([infos["distrust"] for *_, infos in plain])
    assert len(plain) == 12
    threshold = float(np.sort(distrust.max(1))[5])
    first = int((distrust > threshold).any(1).argmax())
    assert 0 < first < 11
    truncating, ending = (run(trust=Trust(kind, threshold)) for kind in ("truncate", "terminate"))
    assert len(truncating) == len(ending) == first + 1
    past = distrust[first] > threshold
    np.testing.assert_array_equal(truncating[-1][3], past)
    np.testing.assert_array_equal(ending[-1][2], past)
    assert not truncating[-1][2].any()
    assert not ending[-1][3].any()
    for (_, paid, *_), (_, full, *_), widened_bound in zip(
        run(trust=Trust("penalise", penalty=2.0)), plain, distrust, strict=True
    ):
        np.testing.assert_allclose(paid, full - 2.0 * widened_bound, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"on_exceed": "panic"}, "on_exceed must be one of ignore, truncate, terminate, penalise"),
        ({"threshold": 0.0}, "threshold must be above 0"),
        ({"threshold": float("nan")}, "threshold must be above 0"),
        ({"penalty": -1.0}, "penalty must be at least 0"),
    ],
)
def test_bad_trust_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Trust(**options)
    with pytest.raises(ValueError, match=complaint.split()[0]):
        ImaginedVectorEnv(disagreeing(), 1, trust=options)


def test_trust_is_one_value_true_or_none() -> None:
    world = disagreeing()
    for given, expected in (
        (None, None),
        (False, None),
        (True, Trust()),
        (Trust("truncate"), Trust("truncate")),
        ({"on_exceed": "truncate"}, Trust("truncate")),
    ):
        assert ImaginedVectorEnv(world, 1, trust=given).trust == expected  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be a wmgym\.Trust, True, False or None, got 'truncate'"):
        ImaginedEnv(world, trust="truncate")


@pytest.mark.parametrize(("options", "named"), [({"hue": 1}, "hue"), ({"threshold": "0.5"}, "threshold")])
def test_a_mapping_that_is_no_trust_is_refused_in_a_line(options: dict[str, Any], named: str) -> None:
    for make in (Trust.of, lambda trust: wmgym.TrainConfig(trust=trust)):
        with pytest.raises(ValueError, match=rf"^trust\.{named}: .*$"):
            make(options)


def test_a_spec_with_trust_survives_json(pendulum_dir: str) -> None:
    trust = wmgym.Trust(on_exceed="truncate", threshold=0.5)
    one = gym.make(ID, world=pendulum_dir, trust=trust)
    assert one.spec is not None
    two = gym.make(EnvSpec.from_json(one.spec.to_json()))
    for env in (one, two, gym.make_vec(ID, num_envs=2, world=pendulum_dir, trust=trust)):
        assert env.unwrapped.trust == trust  # type: ignore[attr-defined]


def test_trust_needs_a_calibrated_world() -> None:
    with pytest.raises(ValueError, match="needs a calibrated world"):
        ImaginedVectorEnv(toy.world(), 1, trust=True)
    state = toy.world().init(torch.zeros(2, 3), torch.Generator())
    with pytest.raises(ValueError, match="needs a calibrated world"):
        toy.world().step(state, torch.zeros(2, 2), "mean", trust=True)


def test_no_error_bound_before_calibration() -> None:
    env = ImaginedVectorEnv(toy.world(), 2, max_episode_steps=1)
    _, infos = env.reset(seed=0)
    assert sorted(infos) == ["_diverged", "diverged"]
    infos = env.step(np.zeros((2, 2), np.float32))[4]
    assert "error_bound" not in infos
    assert "error_bound" not in infos["final_info"]


# Ownership


def scribble(value: Any) -> None:
    if isinstance(value, dict | tuple):
        for entry in value.values() if isinstance(value, dict) else value:
            scribble(entry)
    elif isinstance(value, np.ndarray) and value.dtype == object:
        for entry in value:
            scribble(entry)
    elif isinstance(value, np.ndarray):
        value[...] = 77


def test_what_is_returned_may_be_written_to(toy_world: WorldModel) -> None:
    clean, dirty = (ImaginedVectorEnv(toy_world, 3, max_episode_steps=7) for _ in range(2))
    scribble(dirty.reset(seed=0))
    clean.reset(seed=0)
    action = np.zeros((3, 2), np.float32)
    for _ in range(20):
        expected, found = clean.step(action), dirty.step(action)
        for a, b in zip(expected[:4], found[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(expected[4]["error_bound"], found[4]["error_bound"])
        scribble(found)
        scribble(dirty.core())


def test_actions_are_left_alone() -> None:
    env = ImaginedVectorEnv(toy.world(), 2)
    env.reset(seed=0)
    action = np.full((2, 2), 5.0, np.float32)
    action.setflags(write=False)
    env.step(action)
    assert (action == 5.0).all()


# Readouts and pictures


@pytest.fixture(scope="module")
def ant_world() -> WorldModel:
    data = collect("Ant-v5", steps=1_500, seed=0, workers=1)
    return fit(data, FitConfig(members=2, width=32, depth=2, max_updates=150, eval_every=50))


def test_readouts_have_their_place_in_the_observation(ant_world: WorldModel) -> None:
    env = ImaginedVectorEnv(ant_world, 5, propagation="member")
    obs, _ = env.reset(seed=0)
    assert any(np.array_equal(obs[0], start.astype(np.float64)) for start in ant_world.starts)
    for _ in range(30):
        obs, reward, *_ = env.step(env.action_space.sample())
        assert obs.shape == (5, 105)
        assert np.isfinite(obs).all()
        assert np.isfinite(reward).all()
    np.testing.assert_array_equal(obs[:, :27].astype(np.float32), env.core())
    assert obs[:, 27:].std() > 0


def test_an_episode_starts_from_a_core_a_state_or_an_observation(ant_world: WorldModel) -> None:
    env = ImaginedVectorEnv(ant_world, 2)
    real, _ = ant_world.task.make().reset(seed=5)
    shown = real.astype(np.float32)
    for name in ("obs", "state"):
        obs, _ = env.reset(seed=0, options={name: real})
        np.testing.assert_array_equal(obs, np.broadcast_to(shown, (2, 105)))
    obs, _ = env.reset(seed=0, options={"state": real[:27]})
    np.testing.assert_array_equal(obs[:, :27], np.broadcast_to(shown[:27], (2, 27)))
    assert np.isfinite(obs).all()
    with pytest.raises(ValueError, match="must be of shape"):
        env.reset(options={"state": real[:50]})


def test_readouts_are_learned() -> None:
    """The reach from fingertip to target, on data that fit never saw; the target itself stays put."""
    data = collect("Reacher-v5", steps=2_000, seed=0, workers=1)
    world = fit(data, FitConfig(members=2, width=64, depth=2, max_updates=600, batch_size=64))
    env, test = (
        ImaginedVectorEnv(world, 40, propagation="mean"),
        collect("Reacher-v5", steps=40, seed=9, workers=1),
    )
    first, _ = env.reset(seed=0, options={"state": test.state})
    obs, reward, *_ = env.step(test.action)
    np.testing.assert_array_equal(obs[:, 4:6], first[:, 4:6])
    error = np.square(obs[:, 8:] - test.next_obs[:, 8:]).mean(0)
    assert (error < 0.02 * test.next_obs[:, 8:].var(0)).all()
    assert test.reward is not None
    assert np.abs(reward - test.reward).mean() < 0.1 * test.reward.std()


def test_pictures_follow_the_imagined_robot(ant_world: WorldModel) -> None:
    env = ImaginedEnv(ant_world, render_mode="rgb_array")
    assert env.metadata["render_fps"] == 20
    env.reset(seed=0)
    first = env.render()
    for _ in range(5):
        env.step(env.action_space.sample())
    then = env.render()
    assert first is not None
    assert then is not None
    assert first.dtype == np.uint8
    assert first.shape == then.shape == (480, 480, 3)
    assert (first != then).mean() > 0.001
    env.close()
    assert ImaginedEnv(ant_world).render() is None
    with pytest.raises(ValueError, match="rgb_array"):
        ImaginedVectorEnv(ant_world, 1, render_mode="ansi")
    with pytest.raises(ValueError, match="shows one env"):
        ImaginedVectorEnv(ant_world, 2, render_mode="human")


@pytest.mark.skipif(shutil.which("xvfb-run") is None, reason="a window needs a screen; xvfb is none")
def test_a_window_shows_the_imagined_robot(pendulum_dir: str) -> None:
    script = f"""
import gymnasium as gym, numpy as np, wmgym
from gymnasium.utils.env_checker import check_env
env = gym.make("{ID}", world={pendulum_dir!r}, render_mode="human")
env.reset(seed=0)
viewer = env.unwrapped._venv._renderer._env.unwrapped.mujoco_renderer.viewer
assert type(viewer).__name__ == "WindowViewer", viewer
looks = [env.unwrapped._venv._renderer._env.unwrapped.data.qpos.copy()]
for _ in range(3):
    env.step(np.ones(1, np.float32))
    looks.append(env.unwrapped._venv._renderer._env.unwrapped.data.qpos.copy())
assert len(np.unique(looks, axis=0)) == 4
assert env.render() is None
env.close()
check_env(gym.make("{ID}", world={pendulum_dir!r}).unwrapped)  # renders in every mode
"""
    done = subprocess.run(
        ["xvfb-run", "-a", sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, "MUJOCO_GL": "glfw"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_world_with_readouts_survives_storage(ant_world: WorldModel, tmp_path: Any) -> None:
    ant_world.save(tmp_path / "ant")
    again = load(tmp_path / "ant")
    runs = []
    for world in (ant_world, again):
        env = ImaginedVectorEnv(world, 3)
        env.reset(seed=1)
        env.action_space.seed(1)
        runs.append([env.step(env.action_space.sample())[0] for _ in range(10)])
    np.testing.assert_array_equal(runs[0], runs[1])


# Snapshots


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_what_follows_a_restore_is_the_same_to_the_last_bit(
    pendulum_world: WorldModel, propagation: Any
) -> None:
    env = ImaginedVectorEnv(pendulum_world, 5, propagation=propagation, max_episode_steps=30)
    env.reset(seed=0)
    env.action_space.seed(0)
    plan = [env.action_space.sample() for _ in range(120)]
    for action in plan[:20]:
        env.step(action)
    at = env.snapshot()
    runs = []
    for _ in range(2):
        env.restore(at)
        runs.append([env.step(action)[:4] for action in plan])
    other = ImaginedVectorEnv(pendulum_world, 5, propagation=propagation, max_episode_steps=30)
    other.restore(at)
    runs.append([other.step(action)[:4] for action in plan])
    for run in runs[1:]:
        for mine, theirs in zip(run, runs[0], strict=True):
            for a, b in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(a, b)


def test_forks_start_where_the_episode_is(pendulum_world: WorldModel) -> None:
    env = gym.make(ID, world=pendulum_world, propagation="mean").unwrapped
    assert isinstance(env, ImaginedEnv)
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))
    forks = env.fork(3)
    actions = np.array([[0.0], [1.0], [-1.0]], np.float32)
    obs = forks.step(actions)[0]
    np.testing.assert_allclose(env.step(actions[0])[0], obs[0], rtol=1e-5, atol=1e-6)
    assert len({row.tobytes() for row in obs}) == 3
    twice = ImaginedVectorEnv(pendulum_world, 2)
    twice.reset(seed=1)
    np.testing.assert_array_equal(twice.fork(2).core(), np.repeat(twice.core(), 2, 0))


def test_snapshots_of_other_envs_are_refused(pendulum_world: WorldModel) -> None:
    env = ImaginedVectorEnv(pendulum_world, 2)
    with pytest.raises(gym.error.ResetNeeded):
        env.snapshot()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"of shape \(2, 4\), this one.s are \(3, 4\)"):
        ImaginedVectorEnv(pendulum_world, 3).restore(env.snapshot())
    with pytest.raises(ValueError, match="at least 1 copy"):
        env.fork(0)
    wide = ImaginedVectorEnv(toy.world(toy.LinearGaussian(offset=(0.0,) * 5)), 5)
    wide.reset(seed=0)
    with pytest.raises(ValueError, match=r"^the snapshot follows member 4 of its world, this one's has 4$"):
        ImaginedVectorEnv(toy.world(), 5).restore(wide.snapshot())


@pytest.mark.parametrize(("given", "limit"), [({}, 1000), ({"max_episode_steps": 5}, 5)])
def test_forks_of_an_env_that_gym_made_have_a_time_limit(
    pendulum_world: WorldModel, given: dict[str, int], limit: int
) -> None:
    env = gym.make(ID, world=pendulum_world, **given)  # type: ignore[arg-type]
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))
    inner = env.unwrapped
    assert isinstance(inner, ImaginedEnv)
    forks = inner.fork(2, **given)
    assert forks.max_episode_steps == limit
    if given:
        ends = [forks.step(np.zeros((2, 1), np.float32))[3].tolist() for _ in range(4)]
        assert ends == [[False] * 2] * 3 + [[True] * 2]  # the step before the fork counts
    own = ImaginedEnv(pendulum_world, max_episode_steps=7)
    own.reset(seed=0)
    assert own.fork(2).max_episode_steps == 7


def test_envs_survive_pickling_where_they_are(pendulum_world: WorldModel) -> None:
    for env in (ImaginedEnv(pendulum_world), ImaginedVectorEnv(pendulum_world, 3)):
        env.reset(seed=0)
        env.step(env.action_space.sample())
        again = pickle.loads(pickle.dumps(env))
        actions = [env.action_space.sample() for _ in range(20)]
        for action in actions:
            mine, theirs = env.step(action)[:4], again.step(action)[:4]
            for one, other in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(one, other)
            if isinstance(env, ImaginedEnv) and (mine[2] or mine[3]):
                break
    with pytest.raises(ValueError, match="functions of yours"):
        pickle.dumps(toy.world())


def test_async_vector_env_runs_it_in_processes(pendulum_dir: str) -> None:
    env = AsyncVectorEnv([lambda: gym.make(ID, world=pendulum_dir)] * 2)
    env.reset(seed=0)
    for _ in range(5):
        obs = env.step(env.action_space.sample())[0]
    assert obs in env.observation_space
    env.close()


@pytest.mark.parametrize("propagation", ["mean", "member"])
def test_returns_are_differentiable_in_actions(ant_world: WorldModel, propagation: Any) -> None:
    """Through rotations, readouts and five imagined steps: the gradient is the slope of the return."""

    def gain(plan: torch.Tensor) -> torch.Tensor:
        state = ant_world.init(torch.tensor(ant_world.starts[:4]), torch.Generator().manual_seed(0))
        total = torch.zeros(())
        for action in plan:
            outcome = ant_world.step(state, action, propagation)
            state, total = outcome.state, total + outcome.reward.sum()
        return total

    generator = torch.Generator().manual_seed(1)
    plan = (0.3 * torch.randn(5, 4, 8, generator=generator)).requires_grad_()
    gain(plan).backward()
    assert plan.grad is not None
    way = plan.grad / plan.grad.norm()
    with torch.no_grad():
        slope = (gain(plan + 1e-2 * way) - gain(plan - 1e-2 * way)) / 2e-2
    torch.testing.assert_close(slope, plan.grad.norm(), rtol=0.02, atol=0.0)


# Wrappers and specs


def test_gymnasiums_wrappers_work_over_it(pendulum_dir: str, tmp_path: Path) -> None:
    env = gym.make(ID, world=pendulum_dir, render_mode="rgb_array", max_episode_steps=12)
    env = RecordVideo(
        RecordSingleStatistics(NormalizeReward(NormalizeObservation(env))), str(tmp_path / "videos")
    )
    env.reset(seed=0)
    env.action_space.seed(0)
    over = False
    while not over:
        obs, _, terminated, truncated, info = env.step(env.action_space.sample())
        over = terminated or truncated
    assert np.abs(obs).max() < 12
    assert info["episode"]["l"] <= 12
    env.close()
    (video,) = tmp_path.glob("videos/*.mp4")
    assert video.stat().st_size > 1_000


def test_gymnasiums_vector_wrappers_work_over_it(pendulum_dir: str) -> None:
    how = {"num_envs": 16, "max_episode_steps": 20, "autoreset_mode": AutoresetMode.NEXT_STEP}
    env = gym.make_vec(ID, world=pendulum_dir, **how)
    env = vector_wrappers.ClipReward(vector_wrappers.NormalizeObservation(env), max_reward=0.5)
    env.reset(seed=0)
    seen = [env.step(env.action_space.sample()) for _ in range(60)]
    assert all(step[1].max() <= 0.5 for step in seen)
    assert np.abs(np.concatenate([step[0] for step in seen]).mean(0)).max() < 1


def test_a_spec_survives_json_and_makes_the_same_env(pendulum_dir: str) -> None:
    one = gym.make(ID, world=pendulum_dir, max_episode_steps=30, trust=False)
    assert one.spec is not None
    two = gym.make(EnvSpec.from_json(one.spec.to_json()))
    for env in (one, two):
        env.reset(seed=3)
    action = np.full(1, 0.3, np.float32)
    assert two.spec is not None
    assert two.spec.max_episode_steps == 30
    np.testing.assert_array_equal(one.step(action)[0], two.step(action)[0])


def test_the_package_is_imported_by_the_id(pendulum_dir: str) -> None:
    code = (
        f"import gymnasium as g; print(g.make('wmgym:{ID}', world={pendulum_dir!r}).reset(seed=0)[0].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(4,)"


# Finite is not yet sane


@pytest.mark.parametrize("propagation", ["member", "mean"])
@pytest.mark.parametrize("trust", [None, True])
def test_absurd_numbers_give_finite_ones_or_one_line(propagation: Propagation, trust: bool | None) -> None:
    """Hopper's reward squares its actions; with trust, a distance is squared."""
    env = ImaginedVectorEnv("Hopper-v5", 2, propagation=propagation, trust=trust)
    for size in (1e3, 1e10, 1e14, 1e16, 1e20, 3e38, 1e39, 1e300):
        for value in (size, -size):
            for options, action in (
                (None, np.full((2, 3), value)),
                ({"obs": np.full(11, value)}, np.zeros((2, 3))),
                ({"state": np.full((2, len(env.world.core_names)), value)}, np.zeros((2, 3))),
            ):
                if size > 1e15 or options is not None:
                    refusal = r"at most 1e\+15 in size|is far from all that this world has learned from"
                    with pytest.raises(ValueError, match=refusal) as caught:
                        _ = env.reset(seed=0, options=options), env.step(action)
                    assert "\n" not in str(caught.value)
                    continue
                env.reset(seed=0, options=options)
                obs, reward, _, _, infos = env.step(action)
                assert all(np.isfinite(part).all() for part in (obs, reward, infos["error_bound"]))


@pytest.mark.parametrize(
    "given", [None, "a", 1j, [[1.0], [1.0, 2.0]], np.full((2, 3), 0.5, object), np.full((2, 3), np.nan)]
)
def test_what_is_no_array_of_numbers_is_one_line(given: Any) -> None:
    env = ImaginedVectorEnv("Hopper-v5", 2)
    env.reset(seed=0)
    for call in (
        lambda: env.step(given),
        lambda: env.reset(options={"obs": given}),
        lambda: env.reset(options={"state": given}),
        lambda: env.reset(options={"reset_mask": given if given is not None else "all"}),
        lambda: ImaginedVectorEnv(env.world, 2, starts=given if given is not None else "all"),
    ):
        with pytest.raises(ValueError, match=r"must be|Action dimension mismatch") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_observations_stay_inside_a_bounded_space() -> None:
    """A prediction knows nothing of the bounds: a sine of 1.02, say."""
    space = gym.spaces.Box(np.array([-0.5, -np.inf, -0.5], np.float32), np.full(3, 0.5, np.float32))
    world = toy.world()
    world = replace(world, task=replace(world.task, observation_space=space))
    env = ImaginedVectorEnv(world, 16)
    seen = [env.reset(seed=0)[0]] + [env.step(np.ones((16, 2)))[0] for _ in range(20)]
    assert all(space.contains(row) for obs in seen for row in obs)
    assert min(obs[:, 1].min() for obs in seen) < -0.5


def test_starts_far_from_the_data_are_refused(pendulum_world: WorldModel) -> None:
    world = pendulum_world
    near = world.high[: world.task.core.dim].clip(-1e3, 1e3)
    for env in (ImaginedEnv(world), ImaginedVectorEnv(world, 2)):
        env.reset(options={"state": near})  # outside of the data, within the margin
        for name, far in (("obs", np.full(4, 1e6)), ("state", near * 40 + 100), ("obs", np.full(4, -1e9))):
            with pytest.raises(ValueError, match=r"is far from all that this world has learned from") as said:
                env.reset(options={name: far})
            assert "\n" not in str(said.value)
    assert ImaginedVectorEnv(world, 2, starts=near[None]).starts.shape == (1, world.task.core.dim)
    with pytest.raises(ValueError, match=r"is far from all that this world has learned from"):
        ImaginedVectorEnv(world, 2, starts=np.stack([near, near * 40 + 100]))


def test_no_step_follows_an_end(pendulum_world: WorldModel) -> None:
    env = ImaginedEnv(pendulum_world, max_episode_steps=2)
    for _ in range(2):
        env.reset(seed=0)
        env.step(np.zeros(1, np.float32))
        assert env.step(np.zeros(1, np.float32))[3]
        over = env.snapshot()
        with pytest.raises(gym.error.ResetNeeded, match="episode is over"):
            env.step(np.zeros(1, np.float32))
    env.reset(seed=0)
    env.restore(over)
    with pytest.raises(gym.error.ResetNeeded, match="episode is over"):
        env.step(np.zeros(1, np.float32))
