"""MuJoCo as dynamics, and corrections of it: exact where there is nothing to learn, a memory of actions."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wmgym
from wmgym.calibration.open_loop import open_loop_steps, stacked
from wmgym.models.config import FitConfig
from wmgym.models.drive import MEMORY, Drive
from wmgym.models.residual import MujocoDynamics, ResidualDynamics
from wmgym.models.residual_fit import _worth_keeping, corrected

TINY = FitConfig(members=2, width=32, depth=1, max_updates=100, eval_every=50, learning_rate=2e-3)


def world_of(env_id: str, data: wmgym.Transitions, **changes: Any) -> wmgym.WorldModel:
    return wmgym.fit(data, TINY, dynamics=wmgym.residual(wmgym.make_task(env_id, **changes)))


def errors(world: wmgym.WorldModel, data: wmgym.Transitions, horizon: int = 8) -> np.ndarray:
    """Mean open-loop error by step, in standard deviations."""
    starts = data.window_starts(horizon)[::7]
    steps = stacked(open_loop_steps(world, data, starts, horizon, "member"))
    found: np.ndarray = (steps.error / data.core.std(0)).mean((1, 2))
    return found


@pytest.mark.parametrize("env_id", ["Hopper-v5", "HalfCheetah-v5", "Swimmer-v5", "InvertedPendulum-v5"])
def test_the_residual_of_the_exact_model_is_zero(env_id: str) -> None:
    data = wmgym.collect(env_id, steps=200, seed=0, workers=1)
    world = world_of(env_id, data)
    assert isinstance(world.dynamics, ResidualDynamics)
    with torch.no_grad():
        core, action = torch.tensor(data.core), torch.tensor(data.action)
        said = world.dynamics.predict(core, action).mean
        nominal = world.dynamics.base.predict(core, action).mean
    unit = np.maximum(nominal[0].std(0).numpy(), 1e-6)
    assert float(np.abs((said - nominal).numpy() / unit).mean()) < 2e-3
    assert errors(world, data).max() < 2e-2


def test_mujoco_as_dynamics_is_the_real_env() -> None:
    data = wmgym.collect("HalfCheetah-v5", steps=100, seed=1, workers=1)
    exact = replace(world_of("HalfCheetah-v5", data), dynamics=MujocoDynamics(data.task))
    assert errors(exact, data)[0] < 1e-4
    env = wmgym.ImaginedVectorEnv(exact, 3, starts=data.state[:1])
    env.reset(seed=0)
    out = env.step(np.repeat(data.action[:1], 3, 0))
    np.testing.assert_allclose(out[0], np.repeat(data.next_obs[:1], 3, 0), atol=1e-4)
    np.testing.assert_allclose(out[1], data.reward[0], atol=1e-3)  # type: ignore[index]


def test_a_correction_learns_what_the_nominal_model_gets_wrong() -> None:
    robot = wmgym.make_task(wmgym.shift("InvertedPendulum-v5", gear=0.5, damping=3.0))
    data = wmgym.collect(robot, steps=600, seed=0, workers=1)
    test = wmgym.collect(robot, steps=200, seed=9, workers=1)
    hybrid = wmgym.fit(data, replace(TINY, max_updates=300), dynamics=wmgym.residual("InvertedPendulum-v5"))
    nominal = replace(hybrid, dynamics=MujocoDynamics(wmgym.make_task("InvertedPendulum-v5")))
    assert errors(hybrid, test, 4)[-1] < 0.3 * errors(nominal, test, 4)[-1]


@pytest.mark.parametrize(
    ("errors", "share"),
    [({0.0: 0.2, 1.0: 0.1}, 1.0), ({0.0: 1e-4, 1.0: 9e-4}, 1.0),
     ({0.0: 0.1, 0.25: 0.099, 0.5: 0.11, 1.0: 0.2}, 0.0),
     ({0.0: 0.1, 0.25: 0.09, 0.5: 0.08, 1.0: 0.11}, 0.5)],
)  # fmt: skip
def test_a_correction_that_makes_rollouts_worse_is_not_kept(errors: dict[float, float], share: float) -> None:
    robot = wmgym.make_task(wmgym.shift("InvertedPendulum-v5", gear=0.5))
    data = wmgym.collect(robot, steps=60, seed=0, workers=1)
    config = replace(TINY, max_updates=20)
    whole = corrected(wmgym.make_task("InvertedPendulum-v5"), data, config, 0)
    with nullcontext() if share == 1 else pytest.warns(UserWarning, match="of the correction|no correction"):
        kept = _worth_keeping(whole, errors)
    core, action = torch.tensor(data.core), torch.tensor(data.action)
    nominal, full, found = (each.predict(core, action).mean for each in (whole.base, whole, kept))
    torch.testing.assert_close(found, nominal + share * (full - nominal), atol=1e-5, rtol=1e-4)
    assert kept.rollout_error == (errors[0.0], errors[share])


def test_the_rollout_error_of_a_hybrid_is_recorded() -> None:
    robot = wmgym.make_task(wmgym.shift("InvertedPendulum-v5", gear=0.5))
    data = wmgym.collect(robot, steps=60, seed=0, workers=1)
    config = replace(TINY, max_updates=20)
    hybrid = wmgym.fit(data, config, dynamics=wmgym.residual("InvertedPendulum-v5"))
    alone, kept = hybrid.provenance.fit["rollout_error"]
    assert 0 < kept < alone


def test_a_delay_shows_in_earlier_actions() -> None:
    robot = wmgym.make_task(wmgym.shift("InvertedPendulum-v5", delay=2))
    data = wmgym.collect(robot, steps=600, seed=0, workers=1)
    test = wmgym.collect(robot, steps=200, seed=9, workers=1)
    config = replace(TINY, max_updates=300)
    hybrid = wmgym.fit(data, config, dynamics=wmgym.residual("InvertedPendulum-v5"))
    nominal = replace(hybrid, dynamics=MujocoDynamics(wmgym.make_task("InvertedPendulum-v5")))
    assert errors(hybrid, test, 3)[-1] < 0.3 * errors(nominal, test, 3)[-1]


@pytest.mark.parametrize(
    ("change", "delay", "play"),
    [({"delay": 2, "backlash": 0.3}, 2, 0.3), ({"gear": 0.8}, 0, 0.0), ({"gear": 0.6, "delay": 1}, 1, 0.0),
     pytest.param({}, 0, 0.0, marks=pytest.mark.slow),
     pytest.param({"delay": 1}, 1, 0.0, marks=pytest.mark.slow),
     pytest.param({"backlash": 0.17}, 0, 0.17, marks=pytest.mark.slow)],
)  # fmt: skip
def test_the_drive_is_found(change: dict[str, Any], delay: int, play: float, tmp_path: Path) -> None:
    """Delay and play become part of the model, which then is exact under other commands too."""
    robot = wmgym.make_task(wmgym.shift("InvertedDoublePendulum-v5", **change))
    data = wmgym.collect(robot, steps=300, seed=0, workers=1)
    steady = wmgym.collect(robot, {"pull": lambda obs: 0.4 * obs[:, 1:2]}, steps=60, seed=5, workers=1)
    world = world_of("InvertedDoublePendulum-v5", data)
    drive: Any = world.dynamics.drive  # type: ignore[attr-defined]
    assert drive.delay == delay
    assert drive.half == pytest.approx((play,) if play else (), abs=0.01)
    world.save(tmp_path / "world")
    again = wmgym.load(tmp_path / "world")
    assert again.dynamics.drive == drive  # type: ignore[attr-defined]
    if (play or delay) and "gear" not in change:  # which is for the correction to learn
        assert errors(again, steady, 4).max() < 0.05


def test_play_is_remembered_by_every_episode() -> None:
    """Closed form: what acts follows a command that is more than ``half`` away."""
    drive = Drive(1, (0.5,))
    commands, acted = [0.4, 2.0, 2.2, 1.0, -1.0], [0.0, 0.0, 1.5, 1.7, 1.5]
    earlier, held = torch.zeros(1, MEMORY), torch.zeros(1, 1)
    for command, wanted in zip(commands, acted, strict=True):
        held = drive.acts(torch.tensor([[command]]), earlier, held)
        earlier = torch.cat([torch.tensor([[command]]), earlier[:, :-1]], 1)
        assert float(held) == pytest.approx(wanted)


def test_a_memory_is_the_last_actions_and_an_episode_starts_at_rest() -> None:
    data = wmgym.collect("InvertedPendulum-v5", steps=120, seed=0, workers=1)
    dynamics: Any = world_of("InvertedPendulum-v5", data).dynamics
    core, carry = torch.tensor(data.core[:1]), None
    for step in range(MEMORY + 2):
        carry = dynamics.predict(core, torch.full((1, 1), step / 10), carry).carry
    np.testing.assert_allclose(carry, [[0.5, 0.4, 0.3, 0.2]])
    fresh = dynamics.predict(core, torch.ones(1, 1)).mean
    zeros = dynamics.predict(core, torch.ones(1, 1), torch.zeros(1, MEMORY)).mean
    torch.testing.assert_close(fresh, zeros)


def test_a_hybrid_world_is_saved_copied_and_stepped(tmp_path: Path) -> None:
    robot = wmgym.make_task(wmgym.shift("Hopper-v5", mass=1.2))
    data = wmgym.collect(robot, steps=150, seed=0, workers=1)
    world = world_of("Hopper-v5", data)
    world.save(tmp_path / "hybrid")
    again, twin = wmgym.load(tmp_path / "hybrid"), copy.deepcopy(world)
    assert again.task.env_kwargs == robot.env_kwargs
    for other in (again, twin, world.to("cpu")):
        np.testing.assert_allclose(errors(other, data, 3), errors(world, data, 3), rtol=1e-4, atol=1e-6)


def test_a_process_that_only_loads_finds_every_kind_of_dynamics() -> None:
    code = (
        "import contextlib\n"
        "from wmgym.models import dynamics\n"
        "for name in dynamics._OWN_KINDS:\n"
        "    with contextlib.suppress(KeyError, ValueError):  # its arrays and settings are missing\n"
        "        dynamics.unpack_dynamics(name, {}, {})\n"
        "print(sorted(dynamics._REGISTERED))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    package = Path(wmgym.__file__).parent
    said = {
        name
        for file in package.rglob("*.py")
        for name in re.findall(r'^@register_dynamics\("(\w+)"\)', file.read_text(), re.MULTILINE)
    }
    assert done.stdout.strip() == str(sorted(said))


@pytest.mark.parametrize("base", [None, 3])
def test_what_cannot_be_corrected_is_named(base: Any) -> None:
    with pytest.raises(TypeError, match="residual takes an env, its id, a task or dynamics, got"):
        wmgym.residual(base)


def test_mujoco_needs_a_model_that_steps_as_the_env_does() -> None:
    with pytest.raises(ValueError, match="does not say how its state lies in MuJoCo"):
        wmgym.residual("CartPole-v1")
    late = wmgym.make_task(wmgym.shift("Hopper-v5", delay=9))
    with pytest.raises(ValueError, match="by 4 steps at most, this robot by 9"):
        MujocoDynamics(late)


@pytest.mark.parametrize("change", [{"delay": 2}, {"backlash": 0.3}, {"delay": 1, "backlash": 0.2}])
def test_mujoco_as_a_simulator_has_the_drive_of_its_robot(change: dict[str, Any]) -> None:
    robot = wmgym.make_task(wmgym.shift("Hopper-v5", gear=0.8, **change))
    log = wmgym.collect(robot, steps=120, seed=0, workers=1)
    assert wmgym.gap(log, robot, horizon=8).open_loop < 1e-3
    assert wmgym.gap(log, wmgym.shift("Hopper-v5", gear=0.8), horizon=8).open_loop > 0.05
    hybrid = wmgym.fit(log, replace(TINY, max_updates=20), dynamics=wmgym.residual(robot))
    assert hybrid.dynamics.drive == MujocoDynamics(robot).drive  # type: ignore[attr-defined]
