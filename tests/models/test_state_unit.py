"""The unit of errors of states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import wmgym
from tests import toy
from wmgym.models.state_unit import LEAST_SHARE, state_unit
from wmgym.models.support import sample_support
from wmgym.tasks.geometry import Geometry

PLAIN = Geometry(3)
LOOSE = Geometry(7, positions=((4, 5, 6),), rotations=(0,))


def test_the_unit_is_the_std_of_held_out_states_unless_they_hardly_move() -> None:
    rng = np.random.default_rng(0)
    seen, held = (rng.normal(size=(500, 3)).astype(np.float32) for _ in range(2))
    np.testing.assert_array_equal(state_unit(held, PLAIN, seen), held.std(0))
    held[:, 0] *= 1e-5
    np.testing.assert_allclose(state_unit(held, PLAIN, seen)[0], LEAST_SHARE * seen[:, 0].std(), rtol=1e-5)
    held[:, 1], seen[:, 1] = 3.0, 3.0
    assert state_unit(held, PLAIN, seen)[1] == 1.0
    assert state_unit(held, PLAIN)[0] < 1e-4  # nothing is known of the fit's data


def test_components_of_a_loose_bodys_vectors_share_a_unit() -> None:
    held = np.random.default_rng(0).normal(size=(500, 7)).astype(np.float32)
    held[:, [1, 2, 6]] *= 1e-5
    unit = state_unit(held, LOOSE)
    assert len(set(unit[:4])) == len(set(unit[4:])) == 1
    assert unit.min() > 0.5


def test_a_calibration_where_something_stands_still_trusts_as_one_where_it_moves() -> None:
    train, calib = toy.episodes(20, 0, steps=20), toy.episodes(20, 1, steps=20)
    world = replace(toy.world(), support=sample_support(train, 0))
    core, next_core = calib.core.copy(), calib.next_core.copy()
    core[:, 2] *= 1e-5
    next_core[:, 2] *= 1e-5
    still = wmgym.calibrate(world, replace(calib, core=core, next_core=next_core), horizon=2).calibration
    moving = wmgym.calibrate(world, calib, horizon=2).calibration
    assert still is not None
    assert moving is not None
    assert still.data_std[2] == pytest.approx(LEAST_SHARE * train.core[:, 2].std(), rel=1e-3)
    assert (still.distrust["mean"] < 10 * moving.distrust["mean"]).all()  # not a thousand times
