"""The compiled model of a robot that nobody described is its nominal simulator, like that of a known one."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TransformAction

import wmgym
from tests.tasks.test_mjcf import Everything
from wmgym.evaluation.report.gap_page import write_gap
from wmgym.models.config import FitConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "own_robot"))
from push_bot import chase

ROBOT = "lab/PushBot-v0"
SMALL = FitConfig(members=2, width=32, depth=1, max_updates=150, eval_every=50, learning_rate=2e-3)


@pytest.fixture(scope="module")
def weak() -> wmgym.Transitions:
    """A log of a robot with weak, stiff motors."""
    robot = wmgym.shift(ROBOT, gear=0.6, damping=2.0)
    return wmgym.collect(robot, {"random": None, "chase": chase}, steps=500, noise=0.3, workers=1)


@pytest.mark.parametrize("env", [ROBOT, "Reacher-v5"])
def test_a_robot_is_its_own_simulator(env: str) -> None:
    """Reacher shows a readout too, its fingertip's place, which MuJoCo's states do not hold."""
    data = wmgym.collect(env, steps=200, seed=3, workers=1)
    assert wmgym.gap(data, env, horizon=8).open_loop < 1e-4


def test_a_robot_without_an_id_too() -> None:
    data = wmgym.collect(Everything, steps=200, max_episode_steps=50, workers=1)
    found = wmgym.gap(data, Everything, horizon=4)
    by_name = {row.name: row.open_loop for row in found.dimensions}
    assert max(error for name, error in by_name.items() if not name.startswith("obs_")) < 1e-3


def test_what_was_changed_is_measured_and_identified(weak: wmgym.Transitions) -> None:
    nominal = wmgym.gap(weak, ROBOT, horizon=4)
    assert nominal.open_loop > 0.01
    said = wmgym.identify(weak, ROBOT, ("gear", "damping"))
    assert said.changes == pytest.approx({"gear": 0.6, "damping": 2.0}, rel=1e-3)
    assert wmgym.gap(weak, said.simulator(), horizon=4).open_loop < 0.01 * nominal.open_loop


def test_a_hybrid_is_closer_and_comes_back_from_a_file(weak: wmgym.Transitions, tmp_path: Path) -> None:
    nominal = wmgym.gap(weak, ROBOT, horizon=4)
    hybrid = wmgym.fit(weak, SMALL, dynamics=wmgym.residual(ROBOT))
    hybrid.save(tmp_path / "hybrid")
    few = {"episodes": 2, "max_episode_steps": 20, "workers": 1}
    closer = wmgym.gap(weak, tmp_path / "hybrid", {"chase": chase}, horizon=4, **few)
    assert closer.open_loop < 0.5 * nominal.open_loop
    assert closer.returns  # its rewards and its hand's place are learned


@pytest.mark.slow  # it draws
def test_policies_run_on_the_robot_and_on_its_model(tmp_path: Path) -> None:
    robot = wmgym.shift(ROBOT, gear=0.6)
    found = wmgym.gap(robot, ROBOT, {"chase": chase}, episodes=2, max_episode_steps=30, workers=1)
    assert found.returns[0].real_mean != found.returns[0].simulated_mean
    write_gap(found, tmp_path / "gap.html", reality=robot, simulator=ROBOT, policies={"chase": chase})
    assert "video" in (tmp_path / "gap.html").read_text()


def test_a_policy_cannot_be_replayed_in_states_alone(weak: wmgym.Transitions) -> None:
    assert np.isfinite(wmgym.counterfactual(weak, 2, weak.action[2:5], ROBOT).simulated).all()
    with pytest.raises(ValueError, match="MuJoCo alone steps states"):
        wmgym.counterfactual(weak, 2, chase, ROBOT)


def test_mujoco_takes_steps_of_a_learned_world(weak: wmgym.Transitions) -> None:
    world = wmgym.fit(weak, SMALL)
    envs = wmgym.ImaginedVectorEnv(world, 4, fallback="mujoco")
    envs.reset(seed=0)
    taken = [envs.step(envs.action_space.sample())[4]["fallback"].mean() for _ in range(30)]
    assert 0 < np.mean(taken) <= 0.2


def doubled(env: gym.Env[Any, Any] | None = None) -> gym.Env[Any, Any]:
    """PushBot whose actions go half as far."""
    env = env or gym.make(ROBOT)
    shape: Any = env.action_space.shape
    return TransformAction(env, lambda action: action / 2, spaces.Box(-2, 2, shape, np.float32))


def weak_doubled() -> gym.Env[Any, Any]:
    return doubled(wmgym.shift(ROBOT, gear=0.6))


@pytest.mark.parametrize(
    ("robot", "nominal"),
    [pytest.param(weak_doubled, doubled, marks=pytest.mark.slow), (Everything, Everything)],
)
def test_a_hybrid_of_a_function_comes_back_with_its_task(robot: Any, nominal: Any, tmp_path: Path) -> None:
    log = wmgym.collect(robot, steps=100, max_episode_steps=50, workers=1)
    config = replace(SMALL, max_updates=20, eval_every=10)
    hybrid = wmgym.fit(log, config, dynamics=wmgym.residual(nominal))
    hybrid.save(tmp_path / "hybrid")
    with pytest.raises(ValueError, match="a function made the nominal model's env"):
        wmgym.load(tmp_path / "hybrid")
    loaded = wmgym.load(tmp_path / "hybrid", task=wmgym.make_task(nominal))
    assert wmgym.gap(log, loaded, horizon=4).open_loop == wmgym.gap(log, hybrid, horizon=4).open_loop


def test_a_saved_task_does_not_make_another_env_than_it_had(tmp_path: Path) -> None:
    data = wmgym.collect(doubled, steps=60, workers=1)
    data.save(tmp_path / "data")
    with pytest.raises(ValueError, match="takes other actions than this task"):
        wmgym.Transitions.load(tmp_path / "data").task.make()


def test_a_log_at_another_rate_is_refused(weak: wmgym.Transitions) -> None:
    slower = replace(weak, task=replace(weak.task, dt=2 * weak.task.dt))
    for take in (
        lambda: wmgym.fit(slower, SMALL, dynamics=wmgym.residual(ROBOT)),
        lambda: wmgym.identify(slower, ROBOT, ("gear",)),
    ):
        with pytest.raises(ValueError, match="the log's dt is"):
            take()


def test_identify_says_what_it_cannot_do(weak: wmgym.Transitions) -> None:
    with pytest.raises(ValueError, match="no parameter was named"):
        wmgym.identify(weak, ROBOT, ())
    very_weak = wmgym.collect(wmgym.shift(ROBOT, gear=0.1), steps=100, workers=1)
    (gear,) = wmgym.identify(very_weak, ROBOT, ("gear",)).parameters
    assert gear.value < 0.301  # the end of the range that is nearer
    assert not gear.identified
    said = wmgym.identify(weak, wmgym.make_task(lambda: gym.make(ROBOT)), ("gear",))
    with pytest.raises(ValueError, match="a function makes the nominal env"):
        said.simulator()


def test_what_needs_a_world_or_an_id_says_so(weak: wmgym.Transitions) -> None:
    with pytest.raises(ValueError, match="watch takes a world"):
        wmgym.watch(ROBOT, weak)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="register a class of your own"):
        wmgym.shift(Everything, gear=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="An env of your own goes with the module"):
        wmgym.shift("lab/Nothing-v0", gear=0.5)
