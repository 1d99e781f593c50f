"""A step done in parts is the step."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import wmgym
from wmgym.envs import parts
from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.models.fallback import with_fallback
from wmgym.models.residual import MujocoDynamics

ROWS = 44


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads, and parts of few rows."""
    monkeypatch.setattr(parts, "LEAST", 8)
    monkeypatch.setattr(parts, "MOST", 16)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def walk(env: ImaginedVectorEnv, steps: int, whole: bool, patch: pytest.MonkeyPatch) -> list[Any]:
    """All that so many steps return."""
    with patch.context() as inside:
        if whole:
            inside.setattr(parts, "LEAST", 10**9)
            inside.setattr(parts, "MOST", 10**9)
        found: list[Any] = list(env.reset(seed=3))
        actions = np.random.default_rng(0).uniform(-1, 1, (steps, *(env.action_space.shape or ())))
        for action in actions:
            found += env.step(action.astype(np.float32))
        return [*found, env.core(), *vars(env.snapshot().state).values()]


def exact(env_id: str) -> wmgym.WorldModel:
    """A world that MuJoCo steps."""
    world = wmgym.load(env_id)
    return replace(world, dynamics=MujocoDynamics(world.task))


def alike(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            alike(one[key], other[key])
    elif isinstance(one, np.ndarray) and one.dtype == object:
        for a, b in zip(one, other, strict=True):
            alike(a, b)
    elif one is None:
        assert other is None
    else:
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("env_id", "autoreset_mode"),
    [
        ("Hopper-v5", "SameStep"),
        ("Hopper-v5", "NextStep"),
        ("Humanoid-v5", "SameStep"),
        pytest.param("Humanoid-v5", "NextStep", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("trust", [False, True])
def test_parts_come_to_the_whole(
    env_id: str, autoreset_mode: str, trust: bool, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = ImaginedVectorEnv(env_id, ROWS, autoreset_mode=autoreset_mode, trust=trust, max_episode_steps=3)
    assert len(parts.parts_of(ROWS, env.world)) == 3
    whole = walk(env, 5, True, monkeypatch)
    apart = walk(env, 5, False, monkeypatch)
    for one, other in zip(whole, apart, strict=True):
        alike(one, other)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("kind", ["hybrid", "fallback"])
def test_parts_that_mujoco_steps_come_to_the_whole(
    kind: str, trust: bool, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memories of actions and of who stepped are joined, and start anew with the episodes."""
    world = wmgym.load("Hopper-v5")
    if kind == "hybrid":
        config = wmgym.FitConfig(members=2, width=16, depth=1, max_updates=20)
        log = wmgym.collect("Hopper-v5", steps=300, seed=0, workers=1)
        hybrid = wmgym.fit(log, config, dynamics=wmgym.residual("Hopper-v5"))
        world = replace(world, dynamics=hybrid.dynamics)
    env = ImaginedVectorEnv(
        world, ROWS, trust=trust, max_episode_steps=4, fallback="mujoco" if kind == "fallback" else None
    )
    assert parts.separable(env.world, "member")
    whole = walk(env, 6, True, monkeypatch)
    apart = walk(env, 6, False, monkeypatch)
    for one, other in zip(whole, apart, strict=True):
        alike(one, other)


def test_what_was_returned_is_not_changed_by_later_steps(two_threads: None) -> None:
    env = ImaginedVectorEnv("Ant-v5", ROWS, max_episode_steps=3)
    obs, _ = env.reset(seed=0)
    kept = []
    for _ in range(5):
        kept.append((obs, obs.copy(), core := env.core(), core.copy()))
        obs, *_ = env.step(np.zeros((ROWS, 8), np.float32))
    for seen, as_it_was, at, as_it_stood in kept:
        np.testing.assert_array_equal(seen, as_it_was)
        np.testing.assert_array_equal(at, as_it_stood)


def test_a_snapshot_holds_while_parts_go_on(two_threads: None) -> None:
    env = ImaginedVectorEnv("Walker2d-v5", ROWS, max_episode_steps=4)
    env.reset(seed=0)
    still = np.zeros((ROWS, 6), np.float32)
    env.step(still)
    here = env.snapshot()
    first = [env.step(still)[0] for _ in range(6)]
    env.restore(here)
    for obs in first:
        np.testing.assert_array_equal(env.step(still)[0], obs)


@pytest.mark.parametrize("then", [True, False])
def test_the_mode_of_a_step_does_not_stick(then: bool, two_threads: None) -> None:
    env = ImaginedVectorEnv("Hopper-v5", ROWS, max_episode_steps=2)
    env.reset(seed=0)
    for inference in (not then, then, not then):
        with torch.inference_mode(inference):
            obs = env.step(np.zeros((ROWS, 3), np.float32))[0]
    assert np.isfinite(obs).all()


def test_threads_of_the_caller_stay_as_many(two_threads: None) -> None:
    env = ImaginedVectorEnv(exact("Hopper-v5"), ROWS)
    env.reset(seed=0)
    env.step(np.zeros((ROWS, 3), np.float32))
    assert torch.get_num_threads() == 2


def test_what_a_part_raises_is_raised(two_threads: None) -> None:
    def work(part: slice) -> None:
        raise ArithmeticError(part.start)

    for world in (wmgym.load("Hopper-v5"), with_fallback(wmgym.load("Hopper-v5")), exact("Hopper-v5")):
        with pytest.raises(ArithmeticError):
            parts.each_part(work, parts.parts_of(ROWS, world), world)


@pytest.mark.parametrize("rows", [1, 7, 8, 16, 17, 31, 33, 1_000, 4_097])
def test_slices_cover_every_row_once(rows: int, two_threads: None) -> None:
    for world in (wmgym.load("Hopper-v5"), exact("Hopper-v5")):
        seen = np.concatenate([np.arange(rows)[part] for part in parts.parts_of(rows, world)])
        np.testing.assert_array_equal(seen, np.arange(rows))


def _child(env: ImaginedVectorEnv) -> None:
    torch.set_num_threads(2)
    env.step(np.zeros((ROWS, 3), np.float32))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(two_threads: None) -> None:
    env = ImaginedVectorEnv(exact("Hopper-v5"), ROWS)
    env.reset(seed=0)
    env.step(np.zeros((ROWS, 3), np.float32))
    child = multiprocessing.get_context("fork").Process(target=_child, args=(env,))
    child.start()
    child.join(30)
    assert child.exitcode == 0


def test_functions_of_the_caller_see_all_rows(two_threads: None) -> None:
    world = wmgym.load("Hopper-v5")
    assert parts.separable(world, "member")
    assert not parts.separable(world, "sample")
