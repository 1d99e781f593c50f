"""Identified parameters: those that were changed, with intervals; what no parameter explains is left over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import wmgym
from wmgym.models.config import FitConfig

pytest.importorskip("colorama", reason="pip install 'wmgym[sysid]'")
ID = "InvertedPendulum-v5"
TINY = FitConfig(members=2, width=32, depth=1, max_updates=100, eval_every=50)


def test_what_was_changed_is_identified() -> None:
    robot = wmgym.make_task(wmgym.shift(ID, gear=0.6, damping=2.0))
    log = wmgym.collect(robot, steps=300, seed=0, workers=1)
    found = wmgym.identify(log, ID, ("gear", "damping"))
    np.testing.assert_allclose([found.changes["gear"], found.changes["damping"]], [0.6, 2.0], rtol=1e-3)
    assert all(each.identified for each in found.parameters)
    assert found.error < 1e-3 * found.error_before
    env = found.simulator()
    assert wmgym.gap(log, env, horizon=4).open_loop < 0.01
    assert "gear 0.600" in str(found)


def test_a_delay_is_left_over_and_a_pendulum_has_no_friction() -> None:
    robot = wmgym.make_task(wmgym.shift(ID, delay=2))
    log = wmgym.collect(robot, steps=300, seed=0, workers=1)
    found = wmgym.identify(log, ID, ("gear", "friction"))
    assert found.error > 0.3 * found.error_before
    friction = next(each for each in found.parameters if each.name == "friction")
    assert not friction.identified
    assert found.delay == 0


def test_a_drive_and_parameters_are_identified_together() -> None:
    """Neither is found without the other: weak motors explain some of a delay, and a delay is no play."""
    robot = wmgym.make_task(wmgym.shift(ID, delay=2, gear=0.7))
    log = wmgym.collect(robot, steps=300, seed=0, workers=1)
    found = wmgym.identify(log, ID, ("gear", "drive"))
    assert found.delay == 2
    assert found.backlash == 0
    assert found.changes["gear"] == pytest.approx(0.7, rel=1e-2)
    assert "delay 2 steps" in str(found)
    assert wmgym.gap(log, found.simulator(), horizon=4).open_loop < 0.01
    hybrid = wmgym.fit(log, TINY, dynamics=wmgym.residual(found.simulator()))
    drive: Any = hybrid.dynamics.drive  # type: ignore[attr-defined]
    assert drive.delay == 2
    assert wmgym.gap(log, hybrid, horizon=4).open_loop < 0.05


def test_what_a_log_cannot_tell_apart_is_said_and_the_nominal_robot_is_kept() -> None:
    """A pendulum of twice the mass, gear and damping moves alike; one that is not driven shows no gear."""
    robot = wmgym.make_task(wmgym.shift(ID, gear=0.6))
    log = wmgym.collect(robot, steps=300, seed=0, workers=1)
    found = wmgym.identify(log, ID, ("mass", "gear", "damping"))
    assert not any(each.identified for each in found.parameters)
    assert found.changes == pytest.approx({"mass": 1.0, "gear": 0.6, "damping": 1.0}, rel=1e-3)
    assert "look for fewer" in str(found)
    assert wmgym.identify(log, ID, ("mass", "gear")).changes == pytest.approx(
        {"mass": 1, "gear": 0.6}, rel=0.01
    )

    robot = wmgym.make_task(wmgym.shift(ID, damping=2.0, gear=0.5))
    log = wmgym.collect(robot, lambda obs: np.zeros((len(obs), 1)), steps=300, seed=0, workers=1)
    found = wmgym.identify(log, ID, ("gear", "damping"))
    assert found.changes == pytest.approx({"gear": 1.0, "damping": 2.0}, rel=1e-2)
    assert [each.identified for each in found.parameters] == [False, True]


def test_a_noisy_robot_is_a_simulator_without_its_noise_too() -> None:
    noisy = wmgym.shift(ID, sensor_noise=0.01)
    clean = wmgym.collect(ID, steps=100, seed=0, workers=1)
    assert wmgym.gap(clean, noisy, horizon=4).open_loop < 1e-6
    assert wmgym.identify(clean, noisy, ("gear", "gear")).changes == pytest.approx({"gear": 1.0}, rel=1e-3)
    assert wmgym.gap(noisy, noisy, episodes=2, horizon=4).open_loop > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"backlash": 0.2, "gear": 0.7}, {"delay": 1, "damping": 3.0}, {}])
def test_drives_of_other_kinds_are_identified(change: dict[str, Any]) -> None:
    log = wmgym.collect(wmgym.make_task(wmgym.shift(ID, **change)), steps=300, seed=0, workers=1)
    found = wmgym.identify(log, ID, ("gear", "damping", "drive"))
    assert found.delay == change.get("delay", 0)
    assert found.backlash == pytest.approx(change.get("backlash", 0.0), abs=0.02)
    assert found.changes["gear"] == pytest.approx(change.get("gear", 1.0), abs=0.02)


def test_other_robots_and_parameters_are_refused() -> None:
    log = wmgym.collect(ID, steps=60, seed=0, workers=1)
    with pytest.raises(ValueError, match="the log's observation_space"):
        wmgym.identify(log, "Hopper-v5")
    with pytest.raises(ValueError, match="cannot identify delay"):
        wmgym.identify(log, ID, ("delay",))
