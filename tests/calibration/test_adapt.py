"""Adapting: the new robot is learned, the old world stays, and a world does not feed on itself."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import wmgym
from tests import toy
from wmgym.calibration.adapt import CORRECTION
from wmgym.calibration.open_loop import open_loop_steps, stacked
from wmgym.data.logs import assembled
from wmgym.data.transitions import Transitions
from wmgym.models.config import FitConfig
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.world import WorldModel

TINY = FitConfig(members=2, width=32, depth=2, max_updates=150, eval_every=50)


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """A few updates are enough for a pendulum."""
    few = {"max_updates": 150, "batch_size": 64, "eval_every": 50}
    with pytest.MonkeyPatch.context() as patched:
        module = sys.modules["wmgym.calibration.adapt"]
        patched.setattr(module, "CORRECTION", replace(CORRECTION, **few, members=2, width=32))
        patched.setattr(module, "_FINE_TUNING", {**module._FINE_TUNING, **few})
        yield


def one_step_error(world: WorldModel, data: Transitions, steps: int = 1) -> float:
    starts = data.window_starts(steps)
    errors = stacked(open_loop_steps(world, data, starts, steps, "member")).error[-1]
    return float((errors / data.core.std(0)).mean())


@pytest.fixture(scope="module")
def robot() -> wmgym.Task:
    return wmgym.make_task(wmgym.shift("InvertedPendulum-v5", gear=0.4, damping=4.0))


@pytest.fixture(scope="module")
def logs(robot: wmgym.Task) -> Transitions:
    return wmgym.collect(robot, steps=600, seed=3, workers=1)


@pytest.fixture(scope="module")
def adapted(pendulum_world: WorldModel, logs: Transitions) -> WorldModel:
    return wmgym.adapt(pendulum_world, logs)


def test_an_adapted_world_is_one_of_the_new_robot(
    pendulum_world: WorldModel, adapted: WorldModel, robot: wmgym.Task, logs: Transitions
) -> None:
    test = wmgym.collect(robot, steps=200, seed=77, workers=1)
    assert one_step_error(adapted, test) < 0.5 * one_step_error(pendulum_world, test)
    assert adapted.task.env_kwargs == robot.env_kwargs
    assert adapted.calibration is not None
    used, apart = set(adapted.provenance.fingerprints), set(adapted.calibration.fingerprints)
    assert set(pendulum_world.provenance.fingerprints) < used
    assert not used & apart
    assert set(logs.fingerprints()) <= used | apart
    assert adapted.provenance.fit["adapted"] in ("fine-tuned", "corrected")
    assert adapted.provenance.fit["from"] == pendulum_world.provenance.fit


def test_bounds_are_made_by_policies_that_were_not_learned_from(
    pendulum_world: WorldModel, robot: wmgym.Task
) -> None:
    pushes = {f"push {k}": (lambda obs, k=k: np.full((len(obs), 1), k / 10)) for k in range(-3, 3)}
    data = wmgym.collect(robot, pushes, episodes=18, max_episode_steps=20, seed=4, workers=1)
    world = wmgym.adapt(pendulum_world, data)
    assert world.calibration is not None
    of = dict(zip(data.fingerprints(), data.episode_policy, strict=True))
    bounding = {of[each] for each in world.calibration.fingerprints}
    learned = {of[each] for each in world.provenance.fingerprints if each in of}
    assert len(bounding) == 2
    assert not bounding & learned
    assert bounding | learned == set(pushes)


def test_a_reward_is_adapted_too() -> None:
    tiny = replace(TINY, members=1, max_updates=300, batch_size=64)
    first, log, test = (
        wmgym.collect(lambda scale=scale: Paid(scale), steps=800, seed=seed, workers=1)
        for seed, scale in enumerate((1.0, 1.3, 1.3))
    )
    world = wmgym.fit(first, tiny)
    assert reward_error(wmgym.adapt(world, log), test) < 0.5 * reward_error(world, test)


def test_a_readout_is_adapted_too() -> None:
    task = wmgym.make_task("InvertedDoublePendulum-v5")
    first, data = (wmgym.collect(task, steps=800, seed=seed, workers=1) for seed in (0, 1))
    world = wmgym.fit(first, replace(TINY, members=1, max_updates=300, batch_size=64))
    assert isinstance(world.readout, EnsembleMLP)
    off = copy.deepcopy(world.readout)
    off.biases[-1][..., : off.target_dim] += 1.0
    wrong = replace(world, readout=off.finished())
    adapted = wmgym.adapt(wrong, data)

    def error(one: WorldModel) -> float:
        assert one.readout is not None
        said = one.readout.predict(torch.tensor(data.next_core), torch.tensor(data.action)).mean[0]
        return float((said - torch.tensor(data.readout)).abs().mean())

    assert error(adapted) < 0.6 * error(wrong)


def reward_error(world: WorldModel, data: Transitions) -> float:
    assert data.reward is not None
    state = world.init(torch.tensor(data.state), torch.Generator().manual_seed(0))
    said = world.step(state, torch.tensor(data.action)).reward
    return float((said - torch.tensor(data.reward)).abs().mean())


class Paid(toy.LinearGaussianEnv):
    """Pays ``scale`` times as much, and always a little."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale, self.t = scale, 0

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, _, ended, _, info = super().step(action)
        self.t += 1
        return obs, self.scale * (1 + float(obs[0])), ended, self.t % 40 == 0, info


def test_adapting_leaves_the_old_world_alone(pendulum_world: WorldModel, logs: Transitions) -> None:
    before, described = pendulum_world.pack()
    before = {name: array.copy() for name, array in before.items()}
    wmgym.adapt(pendulum_world, logs, seed=1)
    after, again = pendulum_world.pack()
    assert described == again
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])


def test_an_adapted_world_is_saved_and_adapted_again(
    adapted: WorldModel, logs: Transitions, robot: wmgym.Task, tmp_path: object
) -> None:
    again = wmgym.load(adapted.save(f"{tmp_path}/world"))
    assert one_step_error(again, logs) == pytest.approx(one_step_error(adapted, logs), rel=1e-3)
    more = wmgym.collect(robot, steps=300, seed=8, workers=1)
    twice = wmgym.adapt(again, more)
    assert set(adapted.provenance.fingerprints) < set(twice.provenance.fingerprints)


def test_the_same_robot_needs_no_adapting(pendulum_world: WorldModel) -> None:
    """Whatever is tried, held-out episodes decide, and what was there takes part."""
    same = wmgym.collect("InvertedPendulum-v5", steps=300, seed=5, workers=1)
    test = wmgym.collect("InvertedPendulum-v5", steps=200, seed=6, workers=1)
    assert one_step_error(wmgym.adapt(pendulum_world, same), test) < 1.5 * one_step_error(
        pendulum_world, test
    )


def imagined(world: WorldModel, steps: int, seed: int) -> Transitions:
    """What a world makes of random actions, as transitions of ten episodes."""
    env = wmgym.ImaginedVectorEnv(world, 10, max_episode_steps=steps + 1)
    env.reset(seed=seed)
    rng, rows = np.random.default_rng(seed), []
    for _ in range(steps):
        before, action = env.core(), rng.uniform(-1, 1, (10, 2)).astype(np.float32)
        env.step(action)
        rows.append((before, action, env.core()))
    obs, action, next_obs = (np.stack(x, 1).reshape(10 * steps, -1) for x in zip(*rows, strict=True))
    episode, reward = np.repeat(np.arange(10), steps), -(next_obs**2).sum(1)
    ended = np.zeros(len(obs), bool)
    return assembled(world.task, obs, action, next_obs, episode, ended, reward=reward, source="imagined")


@pytest.mark.slow
def test_a_world_that_feeds_on_itself_collapses_and_adapt_does_not_let_it() -> None:
    """Five refits, each to what the last world imagined: the error against reality grows."""
    real, config = (
        toy.episodes(10, seed=1, sigma=0.0, steps=30),
        replace(TINY, max_updates=300, learning_rate=0.02),
    )
    world, errors = wmgym.fit(toy.episodes(10, seed=0, sigma=0.0, steps=8), config), []
    for generation in range(5):
        errors.append(one_step_error(world, real))
        own = imagined(world, 8, generation)
        with pytest.raises(ValueError, match="these transitions are imagined"):
            wmgym.adapt(world, own)
        world = wmgym.fit(own, config, seed=generation)
        assert world.provenance.source == "imagined"
    errors.append(one_step_error(world, real))
    assert errors[-1] > 2 * errors[0], errors


def test_what_an_imagined_env_makes_is_imagined(pendulum_world: WorldModel, pendulum_dir: str) -> None:
    task = wmgym.make_task("wmgym/InvertedPendulum-v5", env_kwargs={"world": pendulum_dir})
    assert wmgym.collect(task, steps=30, workers=1).source == "imagined"


def test_other_robots_and_single_episodes_are_refused(pendulum_world: WorldModel, robot: wmgym.Task) -> None:
    with pytest.raises(ValueError, match="other states or actions"):
        wmgym.adapt(pendulum_world, wmgym.collect("Hopper-v5", steps=60, seed=0, workers=1))
    with pytest.raises(ValueError, match="one episode"):
        wmgym.adapt(pendulum_world, wmgym.collect(robot, episodes=1, seed=0, workers=1))
    with pytest.raises(ValueError, match="has learned from these episodes already"):
        wmgym.adapt(pendulum_world, wmgym.collect("InvertedPendulum-v5", steps=800, seed=0, workers=1))
    with pytest.raises(TypeError, match="adapt takes a WorldModel, got str"):
        wmgym.adapt("worlds/pendulum", wmgym.collect(robot, episodes=2, workers=1))  # type: ignore[arg-type]


def test_one_transition_is_not_enough(pendulum_world: WorldModel, logs: Transitions) -> None:
    short = wmgym.collect("InvertedPendulum-v5", episodes=2, max_episode_steps=1, workers=1)
    for given in ((short,), (short.select(np.array([0])), logs)):
        with pytest.raises(ValueError, match="a single transition to learn from"):
            wmgym.adapt(pendulum_world, *given)


@pytest.mark.parametrize("seed", [1.5, -1, "a", None, True, 2**64])
def test_a_seed_is_a_whole_number(pendulum_world: WorldModel, logs: Transitions, seed: Any) -> None:
    with pytest.raises(ValueError, match=r"^seed must be"):
        wmgym.adapt(pendulum_world, logs, seed=seed)
