"""Scoring: with the exact model the gap is zero, with a wrong one it is found."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import wmgym
from tests import toy
from wmgym.calibration.calibrate import calibrate
from wmgym.data.policy import MLPPolicy
from wmgym.evaluation import score as score_module
from wmgym.evaluation.gap_report import GapReport
from wmgym.evaluation.score import score
from wmgym.io import artifacts
from wmgym.models.saving import load
from wmgym.models.world import WorldModel

GAIN = np.array([[0.7, 0.7, 1.4], [0.4, 2.1, -0.2]])


def damp(obs: np.ndarray) -> np.ndarray:
    """A linear controller that does better than chance."""
    return np.clip(-(obs @ GAIN.T), -1, 1).astype(np.float32)


def idle(obs: np.ndarray) -> tuple[np.ndarray, None]:
    """As SB3's predict: actions beside a state."""
    return np.zeros((len(obs), 2), np.float32), None


@pytest.fixture(scope="module")
def report() -> GapReport:
    return score(toy.world(), {"damp": damp, "idle": idle}, 30, seed=0, propagation="sample", workers=1)


def biased(bonus: float) -> WorldModel:
    """The exact dynamics, with ``bonus`` too much reward a step."""
    world = toy.world()

    def reward(core: Tensor, action: Tensor, next_core: Tensor, moved: Tensor) -> Tensor:
        return bonus - (next_core**2).sum(-1)

    return replace(world, task=replace(world.task, reward=reward))


def test_an_exact_world_has_no_gap(report: GapReport) -> None:
    for entry in report.scores:
        low, high = entry.gap_interval
        assert low < 0 < high, entry.name
        assert low <= entry.gap <= high
        assert entry.diverged == 0.0
        assert entry.real_length == entry.imagined_length == toy.LIMIT


def test_copies_of_a_policy_are_no_further_evidence() -> None:
    policies = {"damp": damp, "the same": lambda obs: damp(obs), "idle": idle}
    found = score(toy.world(), policies, real_episodes=3, workers=1)
    assert found.agreement is not None
    assert (found.agreement.policies, found.agreement.lineages) == (3, 2)


def test_without_noise_returns_are_equal() -> None:
    world = toy.world(toy.LinearGaussian(sigma=0.0), toy.task(0.0))
    entry = score(world, {"damp": damp}, 4, workers=1)["damp"]
    np.testing.assert_allclose(entry.real_returns, entry.imagined_returns, rtol=1e-4)


def test_a_reward_that_is_too_good_is_found() -> None:
    entry = score(biased(0.1), {"damp": damp}, 30, seed=1, propagation="sample", workers=1)["damp"]
    assert entry.gap_interval[0] > 0
    truth = score(toy.world(), {"damp": damp}, 30, seed=1, propagation="sample", workers=1)
    spread = truth["damp"].real_mean - truth["random"].real_mean
    shift = entry.imagined_mean - truth["damp"].imagined_mean
    assert shift == pytest.approx(0.1 * toy.LIMIT, rel=1e-4)
    assert entry.gap - truth["damp"].gap == pytest.approx(shift / spread, rel=1e-4)


def test_the_reports_numbers_hang_together(report: GapReport) -> None:
    assert [entry.name for entry in report.scores] == sorted(
        ("damp", "idle", "random"), key=lambda name: -report[name].real_mean
    )
    assert report.env_id == toy.ENV_ID
    assert report.real_steps == report.imagined_steps == 3 * 30 * toy.LIMIT
    spread = report.scores[0].real_mean - report["random"].real_mean
    for entry in report.scores:
        assert len(entry.real_returns) == len(entry.imagined_returns) == 30
        assert entry.real_mean == pytest.approx(np.mean(entry.real_returns))
        assert entry.imagined_mean == pytest.approx(np.mean(entry.imagined_returns))
        assert entry.gap == pytest.approx((entry.imagined_mean - entry.real_mean) / spread)
        assert entry.real_interval[0] <= entry.real_mean <= entry.real_interval[1]
    with pytest.raises(KeyError, match="no policy 'best'"):
        report["best"]


def test_the_seed_decides_the_report(report: GapReport) -> None:
    again, other = (
        score(toy.world(), {"damp": damp, "idle": idle}, 30, seed=seed, propagation="sample", workers=1)
        for seed in (0, 1)
    )
    assert again == report
    assert other["damp"].real_returns != report["damp"].real_returns


def test_stale_bounds_are_said_to_be() -> None:
    """The real env is calm; bounds made on a calmer or on the same one."""
    for sigma, stale in ((0.1 * toy.SIGMA, True), (toy.SIGMA, False)):
        made = replace(toy.episodes(40, 0, sigma=sigma), task=toy.task())
        report = score(calibrate(toy.world(), made), {"damp": damp}, 12, workers=1)
        entry = report["damp"]
        assert entry.stale is stale
        assert entry.coverage is not None
        assert (entry.coverage < 0.5) is stale
        assert ("stale" in str(report)) is stale
        assert (f"only {entry.coverage:.0%} of errors lie inside" in str(report)) is stale
    assert score(toy.world(), {"damp": damp}, 2, workers=1)["damp"].coverage is None


def test_a_policy_need_not_beat_chance() -> None:
    def worse(obs: np.ndarray) -> np.ndarray:
        return np.sign(obs[:, :2]).astype(np.float32)

    found = score(toy.world(), {"worse": worse}, 5, workers=1)
    assert found.scores[0].name == "random"
    assert all(np.isfinite([entry.gap, *entry.gap_interval]).all() for entry in found.scores)


def test_divergence_is_counted() -> None:
    world = toy.world(toy.Stub([np.nan, 0.0, 0.0]))
    entry = score(world, {"idle": idle}, 3, workers=1)["idle"]
    assert entry.diverged == 1.0
    assert entry.imagined_length == 1.0
    assert np.isfinite(entry.gap)


def test_nothing_counts_after_an_episodes_end() -> None:
    world = toy.world()
    task = replace(
        world.task,
        reward=lambda core, action, next_core, moved: 1 + 0 * core[:, 0],
        terminated=lambda core, action, next_core, unobserved: next_core[:, 0] > 0.4,
    )
    entry = score(replace(world, task=task), {"idle": idle}, 20, workers=1)["idle"]
    assert entry.imagined_mean == entry.imagined_length  # paid one a step
    assert len(set(entry.imagined_returns)) > 3


def test_a_report_survives_as_json(report: GapReport, tmp_path: Path) -> None:
    assert GapReport.load(report.save(tmp_path / "report.json")) == report


@pytest.mark.parametrize(
    "change", [{"scores": None}, {"scores": [{"name": "x"}]}, {"extra": 1}, {"scores": [3]}, {"scores": 3}]
)
def test_a_foreign_report_is_refused(report: GapReport, tmp_path: Path, change: dict[str, Any]) -> None:
    artifacts.write_json(tmp_path / "report.json", report.to_dict() | change)
    with pytest.raises(artifacts.StoreError, match="not a gap report"):
        GapReport.load(tmp_path / "report.json")
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(artifacts.StoreError):
        GapReport.load(tmp_path / "report.json")


def test_constant_returns_are_no_trouble() -> None:
    world = toy.world(toy.LinearGaussian(sigma=0.0), toy.task(0.0))
    free = replace(
        world, task=replace(world.task, reward=lambda core, action, next_core, moved: 0 * core[:, 0])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entry = score(free, {"idle": idle}, 3, workers=1)["idle"]
    assert entry.imagined_interval == (0.0, 0.0)


# What can be named instead of built


def test_worlds_and_policies_by_name_path_and_object(tmp_path: Path) -> None:
    env_id = "InvertedPendulum-v5"
    shipped = load(env_id)
    policy = MLPPolicy(
        "still", (np.zeros((4, 1), np.float32),), (np.zeros(1, np.float32),), "relu", "clip",
        np.float32([-3]), np.float32([3]),
    )  # fmt: skip
    policy.save(tmp_path / "policies/still")
    saved = tmp_path / "world"
    shipped.save(saved)

    class Model:
        """As an SB3 agent, of which only ``predict`` counts."""

        def predict(self, obs: np.ndarray) -> tuple[np.ndarray, None]:
            return policy(obs), None

    def run(world: Any, policies: Any) -> GapReport:
        return score(world, policies, 2, max_episode_steps=5, workers=1)

    expected = run(shipped, {"still": policy})
    for world in (env_id, f"wmgym/{env_id}", saved, str(saved)):
        assert run(world, policy) == expected
    for policies in (tmp_path / "policies/still", str(tmp_path / "policies")):
        assert run(shipped, policies) == expected
    assert run(shipped, {"still": Model()}) == expected
    assert run(shipped, Model())["Model"].real_returns == expected["still"].real_returns
    assert [entry.name for entry in run(shipped, None).scores] == ["random"]


def test_episodes_are_capped_on_both_sides(tmp_path: Path) -> None:
    entry = score(toy.world(), damp, 3, max_episode_steps=4, workers=1)
    assert entry["damp"].real_length == entry["damp"].imagined_length == entry.max_episode_steps == 4
    longer = score(toy.world(), damp, 3, max_episode_steps=10 * toy.LIMIT, workers=1)
    assert longer["damp"].real_length == longer["damp"].imagined_length == toy.LIMIT
    endless = toy.world(described=replace(toy.task(), max_episode_steps=None))
    assert score(endless, damp, 2, max_episode_steps=4, workers=1)["damp"].imagined_length == 4
    with pytest.raises(ValueError, match="max_episode_steps must be a whole number of at least 1"):
        score(toy.world(), damp, max_episode_steps=0)


def test_reports_of_version_0_1_load(report: GapReport, tmp_path: Path) -> None:
    document = report.to_dict()
    del document["max_episode_steps"]
    artifacts.write_json(tmp_path / "report.json", document)
    old = GapReport.load(tmp_path / "report.json")
    assert old == replace(report, max_episode_steps=None)


# Refusals


@pytest.mark.parametrize(
    ("policies", "named"), [({}, "at least one"), ({"random": damp}, "name 'random' is reserved")]
)
def test_bad_policies(policies: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        score(toy.world(), policies)


def test_an_interval_needs_two_episodes() -> None:
    with pytest.raises(ValueError, match="real_episodes"):
        score(toy.world(), {"damp": damp}, 1)


def test_a_task_without_a_limit_asks_for_one_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_module, "collect_each", lambda *args, **kwargs: 1 / 0)
    world = toy.world(described=replace(toy.task(), max_episode_steps=None))
    with pytest.raises(ValueError, match="no time limit; pass max_episode_steps="):
        score(world, {"damp": damp}, 2)


def test_a_changed_robot_is_scored_against(pendulum_world: WorldModel) -> None:
    """The recipe of the README for a robot that changes: score it, take its episodes, adapt the bounds."""
    changed = wmgym.shift("InvertedPendulum-v5", mass=3.0)
    report = score(pendulum_world, None, 2, env=changed, max_episode_steps=20, workers=1)
    nominal = score(pendulum_world, None, 2, max_episode_steps=20, workers=1)
    assert (report.env_id, nominal.env_id) == ("wmgym/Shifted-v0", "InvertedPendulum-v5")
    assert report["random"].real_returns != nominal["random"].real_returns
    with pytest.raises(ValueError, match="changed robot's observation_space"):
        score(pendulum_world, None, 2, env="Hopper-v5")


def test_bounds_are_updated_with_episodes_of_a_changed_robot(pendulum_world: WorldModel) -> None:
    fresh = wmgym.collect(wmgym.make_task(wmgym.shift("InvertedPendulum-v5", mass=3.0)), episodes=4, seed=5)
    updated = calibrate(pendulum_world, fresh, update=True)
    assert updated.calibration is not None
    assert set(fresh.fingerprints()) <= set(updated.calibration.fingerprints)
    with pytest.raises(ValueError, match="a robot that has changed"):
        calibrate(pendulum_world, fresh)
