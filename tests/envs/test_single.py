"""The compiled step of one env does what the vector env does."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode

import wmgym
from tests import toy
from tests.families import Line, Reach, Rover
from wmgym.envs.conventions import row_of
from wmgym.models.compiled import compiled_step
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.saving import SHIPPED

IDS = sorted(entry.name for entry in SHIPPED.iterdir() if entry.is_dir())
CLOSE = 1e-5  # of a standard deviation
ROUNDED = {"Ant-v5": 2e-5, "Humanoid-v5": 5e-5, "HumanoidStandup-v5": 1e-4, "Pusher-v5": 5e-5}
"""Where the batch itself is farther than that from float64; the compiled step is nearer to it."""


def compiled(env: wmgym.ImaginedEnv) -> bool:
    """Whether steps of an env do not go through its vector env."""
    return env._episode()._step is not None


def follow(world: wmgym.WorldModel, steps: int, scale: float = 1.2, **kwargs: Any) -> None:
    """Steps both from the same snapshots, and compares all that they return."""
    one = wmgym.ImaginedEnv(world, **kwargs)
    batch = wmgym.ImaginedVectorEnv(world, 1, autoreset_mode=AutoresetMode.NEXT_STEP, **kwargs)
    assert compiled(one)
    assert world.calibration is not None
    std, space = world.calibration.data_std, world.task.action_space
    rng, close = np.random.default_rng(0), ROUNDED.get(world.task.env_id, CLOSE)
    one.reset(seed=0)
    batch.reset(seed=0)
    for _ in range(steps):
        before = one.snapshot()
        batch.restore(before)
        action = rng.uniform(space.low * scale, space.high * scale).astype(np.float32)
        obs, reward, terminated, truncated, infos = one.step(action)
        its_obs, its_reward, its_end, its_cut, its_infos = batch.step(action[None])
        assert np.abs((one._venv.core() - batch.core()) / std).max() <= close
        assert obs.dtype == its_obs.dtype
        shown = np.abs(its_obs[0]) + 1
        assert (np.abs(obs - its_obs[0]) / shown).max() < 1e-3
        assert reward == pytest.approx(its_reward[0], rel=1e-5, abs=1e-4)
        assert (terminated, truncated) == (its_end[0], its_cut[0])
        assert list(infos) == [key for key in its_infos if key[0] != "_"]
        for key, value in infos.items():
            unit = std if key == "error_bound" else 1.0
            # A disagreement of a rounding error or two, as of a first step, is no number to rely on.
            assert np.allclose(value / unit, its_infos[key][0] / unit, rtol=2e-3, atol=2e-3), key
            assert not isinstance(value, np.ndarray) or value.dtype == its_infos[key].dtype
        mine, its = one.snapshot(), batch.snapshot()
        assert (mine.elapsed, mine.ended) == (its.elapsed, its.ended)
        assert torch.equal(mine.generator, its.generator)
        if terminated or truncated:
            one.reset()


@pytest.mark.parametrize("env_id", IDS)
def test_a_step_is_that_of_the_batch(env_id: str) -> None:
    follow(wmgym.load(env_id), 30)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", IDS)
def test_a_thousand_steps_are_those_of_the_batch(env_id: str) -> None:
    follow(wmgym.load(env_id), 1_000)
    follow(wmgym.load(env_id), 200, trust=True)


@pytest.mark.parametrize("propagation", ["member", "mean", "sample"])
@pytest.mark.parametrize("trust", [None, "ignore", "truncate", "terminate", "penalise"])
def test_every_way_to_step(propagation: str, trust: str | None) -> None:
    follow(
        wmgym.load("Walker2d-v5"),
        15,
        propagation=propagation,
        trust=None if trust is None else wmgym.Trust(trust, threshold=0.05, penalty=0.5),
        max_episode_steps=12,
    )


def test_the_compiled_step_is_nearer_to_float64_than_the_batch() -> None:
    world = wmgym.load("HumanoidStandup-v5")
    step = compiled_step(world, "member", False)
    assert step is not None
    assert isinstance(world.dynamics, EnsembleMLP)
    exact = copy.deepcopy(world.dynamics).double()
    exact.use_precision("float32")
    generator = torch.Generator().manual_seed(0)
    state = world.init(torch.tensor(world.starts[:1]), generator)
    rng, off = np.random.default_rng(0), np.zeros(2)
    for _ in range(20):
        action = torch.tensor(rng.uniform(-0.4, 0.4, (1, 17)).astype(np.float32))
        step.load(state)
        target = exact.predict_assigned(state.core.double(), action.double(), state.member).mean
        truth, _ = world.coordinates.move(state.core.double(), target[:, : world.coordinates.change_dim])
        step.step(action[0].numpy(), 1, generator)
        state = world.step(state, action).state
        off += [float((each.core - truth).abs().sum()) for each in (step.state, state)]
    assert off[0] < off[1]


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Humanoid-v5", "Pusher-v5"])
@pytest.mark.parametrize("trust", [None, True])
def test_starts_are_those_of_the_batch(env_id: str, trust: bool | None) -> None:
    one = wmgym.ImaginedEnv(env_id, trust=trust)
    batch = wmgym.ImaginedVectorEnv(env_id, 1, trust=trust)
    assert compiled(one)
    for seed in (0, 7, None, None, 2**40):
        obs, infos = one.reset(seed=seed)
        its_obs, its_infos = batch.reset(seed=seed)
        np.testing.assert_array_equal(obs, its_obs[0])
        assert obs.dtype == its_obs.dtype
        assert list(infos) == [key for key in its_infos if key[0] != "_"]
        for key, value in infos.items():
            np.testing.assert_array_equal(value, its_infos[key][0])
        mine, its = one.snapshot(), batch.snapshot()
        assert torch.equal(mine.generator, its.generator)
        for part in ("core", "shown", "member", "companion", "lasting_disagreement"):
            assert torch.equal(getattr(mine.state, part), getattr(its.state, part))
        one.step(one.action_space.sample())
        one.restore(mine)


def test_an_episode_may_be_stepped_either_way_and_restored_exactly() -> None:
    env = wmgym.ImaginedEnv("HalfCheetah-v5", trust=True)
    env.reset(seed=3)
    env.action_space.seed(3)
    plan = [env.action_space.sample() for _ in range(20)]
    env.step(plan[0])
    at, runs = env.snapshot(), []
    for copied in (env, pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        copied.restore(at)
        runs.append([copied.step(action)[:2] for action in plan])
        assert compiled(copied)
    env.restore(at)
    env._venv.step(plan[0][None])  # the batch takes a step between two of the compiled ones
    mixed = [env.step(action)[:2] for action in plan[1:3]]
    for run in runs[1:]:
        for (obs, reward), (its, its_reward) in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(obs, its)
            assert reward == its_reward
    np.testing.assert_allclose(mixed[1][0], runs[0][2][0], rtol=1e-3, atol=1e-4)


def test_what_is_wrong_with_an_action_is_said_by_the_vector_env() -> None:
    env = wmgym.ImaginedEnv("Hopper-v5")
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(3, np.float32))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        env.step(np.array([np.nan, 0, 0], np.float32))
    with pytest.raises(ValueError, match="Action dimension mismatch"):
        env.step(np.zeros(2, np.float32))
    env.step(np.zeros(3, np.float16))
    far, exact = (env.snapshot() for _ in range(2))
    outcomes = []
    for given, at in (([9e14, 0, -9e14], far), (np.array([1, 0, -1], np.int64), exact)):
        env.restore(at)
        outcomes.append(env.step(given)[0])
    np.testing.assert_array_equal(*outcomes)  # clipped


def test_a_task_whose_functions_cannot_be_recorded_steps_all_the_same() -> None:
    def branching(state: Any, action: Any, next_state: Any, unobserved: Any) -> Any:
        return np.array([1.0 if float(x[0]) > 0 else 0.0 for x in next_state])

    world = wmgym.load("Hopper-v5")
    world = replace(world, task=replace(world.task, reward=branching))
    env = wmgym.ImaginedEnv(world)
    assert not compiled(env)
    env.reset(seed=0)
    assert env.step(np.zeros(3, np.float32))[1] == 1.0


@pytest.mark.parametrize("kind", ["learned", "subclass", "thawed", "bfloat16", "fallback"])
def test_what_cannot_be_compiled_steps_as_a_batch_of_one(kind: str) -> None:
    class Other(EnsembleMLP):
        pass

    world, kwargs = wmgym.load("Hopper-v5"), dict[str, Any]()
    assert isinstance(world.dynamics, EnsembleMLP)
    if kind == "learned":
        world = toy.world()
    elif kind == "subclass":
        other = Other(world.dynamics.config)
        other.load_state_dict(world.dynamics.state_dict())
        world = replace(world, dynamics=other.finished())
    elif kind == "thawed":
        world.dynamics.requires_grad_(True)
    elif kind == "bfloat16":
        kwargs["precision"] = "bfloat16"
    else:
        kwargs["fallback"] = "mujoco"
    env = wmgym.ImaginedEnv(world, **kwargs)
    assert not compiled(env)
    env.reset(seed=0)
    env.step(env.action_space.sample())


def flat(env: wmgym.ImaginedEnv, obs: Any) -> np.ndarray:
    return np.asarray(gym.spaces.flatten(env.observation_space, obs))


@pytest.mark.parametrize(
    "make",
    [Line, Rover, Reach, partial(Line, Discrete(3, start=-1)), partial(Line, MultiDiscrete([3, 2]))],
    ids=["bonus", "flags", "goals", "discrete", "parts"],
)
def test_worlds_that_learned_rewards_and_ends(make: Any) -> None:
    config = wmgym.FitConfig(members=2, width=32, depth=2, max_updates=60, eval_every=30, batch_size=64)
    world = wmgym.fit(wmgym.collect(make, steps=600, seed=0, workers=1), config)
    for propagation in ("member", "sample"):
        one = wmgym.ImaginedEnv(world, propagation=propagation)
        batch = wmgym.ImaginedVectorEnv(
            world, 1, autoreset_mode=AutoresetMode.NEXT_STEP, propagation=propagation
        )
        assert compiled(one)
        one.reset(seed=0)
        batch.reset(seed=0)
        one.action_space.seed(0)
        for _ in range(20):
            batch.restore(one.snapshot())
            action = one.action_space.sample()
            obs, *mine, _ = one.step(action)
            its_obs, *its, _ = batch.step(np.asarray(action)[None])
            np.testing.assert_allclose(flat(one, obs), flat(one, row_of(its_obs, 0)), rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(mine, [each[0] for each in its], rtol=1e-4, atol=1e-4)
            assert torch.equal(one.snapshot().generator, batch.snapshot().generator)
            if mine[1] or mine[2]:
                one.reset()


@pytest.mark.parametrize("readout", [False, True])
def test_weights_changed_in_place_count_from_the_next_reset(readout: bool) -> None:
    env = wmgym.ImaginedEnv("Ant-v5", propagation="mean")
    other = wmgym.ImaginedVectorEnv("Ant-v5", 1, propagation="mean")
    still = np.zeros(8, np.float32)

    def next_obs() -> tuple[np.ndarray, np.ndarray]:
        env.reset(seed=0)
        other.reset(seed=0)
        return env.step(still)[0], other.step(still[None])[0][0]

    before, _ = next_obs()
    for world in (env.world, other.world):
        model = world.readout if readout else world.dynamics
        assert isinstance(model, EnsembleMLP)
        factor = 1.5 if readout else 1.1  # at rest the forces that are read out are small
        changed = {name: value * factor for name, value in model.state_dict().items() if "weights" in name}
        model.load_state_dict(changed, strict=False)
    after, batched = next_obs()
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, batched, rtol=1e-3, atol=1e-3)
