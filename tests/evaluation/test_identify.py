"""Identified parameters: those that were changed, with intervals; what no parameter explains is left over."""

from __future__ import annotations

import numpy as np
import pytest

import wmgym

pytest.importorskip("colorama", reason="pip install 'wmgym[sysid]'")
ID = "InvertedPendulum-v5"


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


def test_other_robots_and_parameters_are_refused() -> None:
    log = wmgym.collect(ID, steps=60, seed=0, workers=1)
    with pytest.raises(ValueError, match="the log is not of 'Hopper-v5'"):
        wmgym.identify(log, "Hopper-v5")
    with pytest.raises(ValueError, match="cannot identify delay"):
        wmgym.identify(log, ID, ("delay",))
