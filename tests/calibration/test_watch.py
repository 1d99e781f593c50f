"""A watch flags a robot that has changed, and leaves the usual one alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import wmgym
from tests import toy
from wmgym.calibration import watch as module


@pytest.fixture(scope="module")
def watch() -> wmgym.Watch:
    return wmgym.watch(toy.world(), toy.episodes(300, 1))


def test_the_usual_robot_is_flagged_about_as_seldom_as_asked_for() -> None:
    strict = wmgym.watch(toy.world(), toy.episodes(300, 1), level=0.1)
    flags = [strict(toy.episodes(17, 100 + i)).flagged for i in range(100)]
    assert 0 <= np.mean(flags) <= 0.2
    assert {look.steps for look in strict.looks} == set(module.LOOKS)


def test_weaker_actuators_and_a_drift_are_flagged_and_named(watch: wmgym.Watch) -> None:
    data = toy.episodes(17, 2)
    weaker = replace(data, next_core=(data.next_core - 0.3 * data.action @ toy.B.T).astype(np.float32))
    said = watch(weaker)
    assert said.flagged
    assert said.p_value < watch.level
    assert said.sign == "how strongly actions act"
    assert said.steps == module.LOOKS[0], "it is plain at the first look"
    assert "has changed" in str(said)
    drift = replace(data, next_core=(data.next_core + np.array([0, 0.4 * toy.SIGMA, 0])).astype(np.float32))
    assert watch(drift).sign == f"the mean error of {watch.world.core_names[1]}"


def test_a_small_change_takes_more_steps(watch: wmgym.Watch) -> None:
    changes = []
    for seed in range(5):
        data = toy.episodes(17, 40 + seed)
        shifted = (data.next_core + np.array([0.2 * toy.SIGMA, 0, 0])).astype(np.float32)
        changes.append(watch(replace(data, next_core=shifted)))
    assert any(change.flagged and change.steps > module.LOOKS[0] for change in changes)
    usual = watch(toy.episodes(17, 3))
    assert not usual.flagged
    assert usual.steps == module.LOOKS[-1]
    assert "no sign" in str(usual)


def test_a_short_reference_looks_less_often() -> None:
    short = wmgym.watch(toy.world(), toy.episodes(45, 4))
    assert [look.steps for look in short.looks] == [250]
    assert short(toy.episodes(17, 5)).steps == 250


def test_an_exact_world_of_a_robot_without_noise_flags_no_rounding() -> None:
    """Nothing varies: no sign may be divided by zero."""
    calm = wmgym.watch(toy.world(toy.LinearGaussian()), toy.episodes(60, 6, sigma=0.0))
    assert not calm(toy.episodes(10, 7, sigma=0.0)).flagged


@pytest.mark.parametrize("env_id", [*wmgym.MUJOCO_IDS, None])
def test_every_sign_has_a_name_of_its_own(env_id: str | None) -> None:
    """The root's displacement and its rotation, which no core names, included."""
    world = toy.world() if env_id is None else wmgym.load(env_id)
    data = toy.episodes(1, 1) if env_id is None else wmgym.collect(env_id, steps=20, workers=1)
    names = module._names(world)
    assert len(set(names)) == len(names) == module._signs(world, data).shape[1]


def test_refusals(watch: wmgym.Watch) -> None:
    with pytest.raises(ValueError, match="record more"):
        wmgym.watch(toy.world(), toy.episodes(20, 1))
    with pytest.raises(ValueError, match="first look takes 250 steps"):
        watch(toy.episodes(2, 1))
    with pytest.raises(ValueError, match="imagined"):
        watch(replace(toy.episodes(17, 1), source="imagined"))
    with pytest.raises(ValueError, match="level"):
        wmgym.watch(toy.world(), toy.episodes(45, 4), level=0)
    with pytest.raises(ValueError, match="different robots"):
        watch(wmgym.collect("InvertedPendulum-v5", steps=300, workers=1))
    with pytest.raises(TypeError, match="a watch takes a log of the robot, got str"):
        watch("data/log")  # type: ignore[arg-type]
    assert "array" not in repr(watch)


@pytest.mark.parametrize("freedom", [7, 19, 60])
def test_the_tail_is_students(freedom: int) -> None:
    for value in (-2.0, 0.0, 1.5, 4.0, 9.0):
        expected = stats.t.sf(value, freedom)
        assert module._upper_tail(value, freedom) == pytest.approx(expected, rel=2e-2)
