"""Drift on the linear-Gaussian toy, whose noise can be turned up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tests import toy
from wmgym.calibration import online, shift_detection
from wmgym.calibration.calibrate import calibrate
from wmgym.calibration.open_loop import open_loop_steps
from wmgym.data.joining import concat
from wmgym.data.transitions import Transitions
from wmgym.models.world import WorldModel


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return calibrate(toy.world(), toy.episodes(128, 0), horizon=24)


def louder(count: int, seed: int, factor: float = 3.0) -> Transitions:
    """Episodes of a robot that has changed: more noise, which nobody told."""
    data = toy.episodes(count, seed, sigma=factor * toy.SIGMA, steps=24)
    return replace(data, task=toy.task())


def coverage(world: WorldModel, data: Transitions) -> np.ndarray:
    """Share ``(2, 24)`` of errors inside the bounds by the step and given disagreement."""
    table, found = world.calibration, []
    assert table is not None
    for h, step in enumerate(open_loop_steps(world, data, data.first, 24, "member", trust=True), start=1):
        hours = np.full(len(step.disagreement), h)
        both = (
            table.error_bound(hours, "member", step.core, disagreement)
            for disagreement in (None, step.disagreement)
        )
        found.append([(step.error <= bound).mean() for bound in both])
    return np.array(found).T


def test_an_episode_counts_for_the_steps_that_it_has(world: WorldModel) -> None:
    """Not for those that the bounds have: the last step of an episode that ends early is one of few."""
    data, table = toy.episodes(20, 3, steps=5), world.calibration
    assert table is not None
    assert table.horizon == 24
    inside: dict[tuple[int, int], list[np.ndarray]] = {}
    starts = np.arange(len(data))
    for h, step in enumerate(open_loop_steps(world, data, starts, 5, "member", trust=True), start=1):
        bound = table.error_bound(np.full(len(starts), h), "member", step.core, step.disagreement)
        for row in np.flatnonzero(~np.isnan(step.error[:, 0])):
            inside.setdefault((int(data.episode[row]), h), []).append(step.error[row] <= bound[row])
    assert len(inside) == 20 * 5
    shares = {place: np.mean(each) for place, each in inside.items()}
    expected = np.mean([np.mean([shares[episode, h] for h in range(1, 6)]) for episode in range(20)])
    assert online.check(world, data).coverage == pytest.approx(expected)


def test_unchanged_episodes_leave_bounds_as_they_are(world: WorldModel) -> None:
    data = toy.episodes(60, 1, steps=24)
    seen = online.check(world, data)
    assert (seen.episodes, seen.stale) == (60, False)
    assert seen.coverage == pytest.approx(0.9, abs=0.02)
    after = calibrate(world, data, update=True).calibration
    assert after is not None
    assert world.calibration is not None
    for propagation in ("mean", "member", "sample"):
        ratio = after.half_width[propagation] / world.calibration.half_width[propagation]
        assert ratio.mean() == pytest.approx(1.0, abs=0.06)
        np.testing.assert_allclose(after.coverage[propagation], 0.9, atol=0.09)
    assert after.episodes == world.calibration.episodes + 60
    assert set(after.fingerprints) == {*world.calibration.fingerprints, *data.fingerprints()}


def test_louder_episodes_are_noticed_and_bounds_follow(world: WorldModel) -> None:
    before = online.check(world, louder(10, 2))
    assert before.stale
    assert before.coverage < 0.6
    adapted = calibrate(world, louder(60, 3), update=True)
    np.testing.assert_allclose(coverage(adapted, louder(300, 4)), 0.9, atol=0.08)
    assert not online.check(adapted, louder(10, 5)).stale
    table = adapted.calibration
    assert table is not None
    inside = np.ones(300, bool)
    fresh = louder(300, 6)
    for h, step in enumerate(open_loop_steps(adapted, fresh, fresh.first, 24, "member", trust=True), start=1):
        bound = table.error_bound(np.full(300, h), "member", step.core, step.disagreement)
        inside &= (step.error <= table.tube["member"][23] * bound).all(1)
    assert inside.mean() == pytest.approx(0.9, abs=0.08)
    assert (np.diff(table.tube["member"]) >= 0).all()


def test_the_share_missed_is_as_promised_whatever_comes(world: WorldModel) -> None:
    """Gibbs & Candes' promise: half of the episodes loud, in turns with calm ones."""
    loud, calm = louder(60, 7), toy.episodes(60, 8, steps=24)
    turns = concat([data.select([k]) for k in range(60) for data in (loud, calm)])
    adapted = online.update(world, turns)
    shares = coverage(adapted, louder(300, 10)), coverage(adapted, toy.episodes(300, 11, steps=24))
    assert np.mean(shares) == pytest.approx(0.9, abs=0.03)
    assert shares[0].mean() < 0.87 < 0.95 < shares[1].mean()


def test_steps_that_no_new_episode_reached_move_with_the_last(world: WorldModel) -> None:
    data = replace(toy.episodes(20, 9, sigma=3 * toy.SIGMA, steps=6), task=toy.task())
    after = calibrate(world, data, update=True).calibration
    assert after is not None
    assert world.calibration is not None
    ratio = after.half_width["mean"] / world.calibration.half_width["mean"]
    assert (ratio[:6] > 1.5).all()
    np.testing.assert_allclose(ratio[6:], np.broadcast_to(ratio[5], ratio[6:].shape), rtol=1e-5)


def test_refusals(world: WorldModel) -> None:
    data = toy.episodes(3, 1)
    with pytest.raises(ValueError, match="calibrate it first"):
        calibrate(toy.world(), data, update=True)
    with pytest.raises(ValueError, match="horizon included"):
        calibrate(world, data, update=True, horizon=3)
    with pytest.raises(ValueError, match="no bounds"):
        online.check(toy.world(), data)
    with pytest.raises(ValueError, match="made the bounds already"):
        calibrate(calibrate(world, data, update=True), data, update=True)


def windows(data: Transitions, length: int = 24) -> np.ndarray:
    return data.first[:, None] + np.arange(length)


def test_surprise_has_its_closed_form() -> None:
    """The exact model: ``E log(1 + z**2)`` of a normal ``z``, and of one three times as wide."""
    for factor in (1.0, 3.0):
        expected = stats.norm(scale=factor).expect(lambda z: np.log1p(z**2))
        data = louder(100, 12, factor)
        found = shift_detection.signs(toy.world(), data, windows(data)).surprise
        assert found.shape == (100,)
        assert found.mean() == pytest.approx(expected, rel=0.03)


def test_disagreement_excuses() -> None:
    """Members that differ by a lot are not surprised by what lies between them."""
    apart = toy.world(toy.LinearGaussian(offset=(-1.0, 1.0)))
    data = toy.episodes(20, 13)
    calm, usual = (
        shift_detection.signs(w, data, windows(data)).surprise.mean() for w in (apart, toy.world())
    )
    assert calm < 0.1 * usual


def test_gain_is_a_standard_score_and_finds_stronger_actuators() -> None:
    """With the exact model it is the size of a standard normal, shifted by what the actuators add."""
    data = toy.episodes(400, 14, steps=24)
    usual = shift_detection.signs(toy.world(), data, windows(data)).gain
    assert stats.kstest(usual, stats.halfnorm.cdf).pvalue > 0.01
    extra = 0.5 * data.action @ toy.B.T
    stronger = replace(data, next_core=(data.next_core + extra).astype(np.float32))
    found = shift_detection.signs(toy.world(), stronger, windows(data)).gain
    shift = 0.5 * np.sqrt((((data.action @ toy.B.T) / toy.SIGMA)[windows(data)] ** 2).sum((1, 2)))
    assert found.mean() == pytest.approx(shift.mean(), rel=0.05)


def test_direction_and_impulse_have_their_closed_forms() -> None:
    data = toy.episodes(300, 15, steps=24)
    world, rows = toy.world(), windows(data)
    still = shift_detection.signs(world, data, rows)
    assert 1.0 < still.direction.mean() < 1.7  # the largest of three eigenvalues that are 1 on average
    along = np.array([0.6, 0.0, 0.8]) * 2 * toy.SIGMA
    biased = replace(data, next_core=(data.next_core + along).astype(np.float32))
    assert shift_detection.signs(world, biased, rows).direction.mean() == pytest.approx(
        5.0, rel=0.2
    )  # 1 + 2 squared
    pushed = data.next_core.copy()
    pushed[rows[:, 7], 1] += 30 * toy.SIGMA
    hit = shift_detection.signs(world, replace(data, next_core=pushed), rows).impulse
    np.testing.assert_allclose(hit, 30, atol=5)
    assert still.impulse.max() < 10


def test_windows_beyond_the_data_are_refused() -> None:
    data = toy.episodes(2, 16)
    with pytest.raises(ValueError, match="indices of 120 transitions"):
        shift_detection.signs(toy.world(), data, np.array([[118, 119, 120]]))
