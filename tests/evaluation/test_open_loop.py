"""Worlds of recorded data are judged by recorded data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import toy
from wmgym.calibration.calibrate import calibrate
from wmgym.data.transitions import Transitions
from wmgym.evaluation.compare import compare
from wmgym.evaluation.open_loop import score_open_loop
from wmgym.evaluation.report.page import write_report
from wmgym.evaluation.score import score
from wmgym.evaluation.select import select
from wmgym.models.world import WorldModel
from wmgym.tasks.described import describe_task


@pytest.fixture(scope="module")
def judged() -> WorldModel:
    """The toy's true model, calibrated."""
    return calibrate(toy.world(), toy.episodes(20, seed=1))


@pytest.fixture(scope="module")
def recorded() -> Transitions:
    return toy.episodes(20, seed=2)


def test_the_true_model_passes(judged: WorldModel, recorded: Transitions, tmp_path: Path) -> None:
    report = score_open_loop(judged, recorded)
    assert report.passed
    assert [reason.rule for reason in report.reasons] == ["prediction", "rewards", "error bounds"]
    assert 0.85 < report.coverage < 0.95
    assert [row.steps for row in report.open_loop] == [1, 2, 4, 8, 16, 32, 60]
    assert "+ The error bounds hold" in str(report)
    with pytest.raises(TypeError, match=r"what wmgym.score returns, got a OpenLoopReport"):
        write_report(report, tmp_path / "report.html")  # type: ignore[arg-type]
    document = json.loads(report.save(tmp_path / "report.json").read_text())
    assert document["passed"] is True


def test_a_wrong_model_does_not(recorded: Transitions) -> None:
    still = toy.world(toy.Stub([0.0, 0.0, 0.0], std=0.01))
    report = score_open_loop(calibrate(still, toy.episodes(20, seed=1)), recorded)
    assert not report.passed
    assert "does not predict these episodes" in str(report)
    assert report.reasons[0].passed is False


def test_what_was_seen_judges_nothing(judged: WorldModel, recorded: Transitions) -> None:
    with pytest.raises(ValueError, match="20 of these episodes were used"):
        score_open_loop(judged, toy.episodes(20, seed=1))
    with pytest.raises(ValueError, match="calibrate it first"):
        score_open_loop(toy.world(), recorded)


def test_score_offers_it_where_there_is_no_env(judged: WorldModel) -> None:
    task = describe_task(judged.task.observation_space, judged.task.action_space, dt=0.1, max_episode_steps=9)
    with pytest.raises(ValueError, match=r"no env to score policies against.*score_open_loop"):
        score(toy.world(described=task), lambda obs: obs[:, :2])
    with pytest.raises(ValueError, match=r"no env to score policies against.*score_open_loop"):
        compare(toy.world(described=task), None, lambda obs: obs[:, :2])
    with pytest.raises(ValueError, match=r"no env to score policies against.*score_open_loop"):
        select(toy.world(described=task), {"a": None, "b": lambda obs: obs[:, :2]})
    with pytest.raises(ValueError, match="this task has no env"):
        task.make()
