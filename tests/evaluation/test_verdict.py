"""The verdict's rules as a table of cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.reports import LOGGED, NAMES, OTHER, ROWS, report
from wmgym.evaluation.exploitation import exploitation, optimism
from wmgym.evaluation.findings import Counterfactual
from wmgym.evaluation.gap_report import GapReport
from wmgym.evaluation.verdict import verdict
from wmgym.io import artifacts

RANKING, DO_NOT = "trust for ranking only", "do not trust"


def rewarded(error: float | None, size: float | None = 1.0) -> dict[str, Any]:
    return {"open_loop": (replace(ROWS[0], reward_error=error, reward_size=size), *ROWS[1:])}


def other(**changes: Any) -> dict[str, Any]:
    return {"counterfactual": Counterfactual(8, (LOGGED, OTHER, replace(OTHER, actions="noise", **changes)))}


@pytest.mark.parametrize(
    ("changes", "level", "rule", "said"),
    [
        ({}, "trust", None, ""),
        # Returns
        ({"gaps": (0.04,) * 6}, "trust", None, ""),
        ({"gaps": (0.06,) * 6}, RANKING, "returns", "off by 6.0% of the return scale"),
        ({"gaps": (0.06,) * 6, "scale": 9.46}, RANKING, "returns", "of the return scale (9.46) on average"),
        ({"gaps": (0.0, 0.0, 0.0, 0.0, 0.13, 0.0)}, RANKING, "returns", "+13.0% [+11.0%, +15.0%], for e"),
        ({"gaps": (0.0, 0.0, 0.0, 0.0, -0.13, 0.0)}, RANKING, "returns", "returns are wrong"),
        ({"half": 0.11, "trained": {}}, RANKING, "returns", "Too few episodes to say"),
        # Rewards of single steps
        (rewarded(0.06), RANKING, "rewards", "+6.0% off"),
        (rewarded(-0.06), RANKING, "rewards", "-6.0% off"),
        (rewarded(0.04), "trust", None, ""),
        (rewarded(0.0, 0.0), "trust", None, ""),
        (rewarded(None, None), RANKING, "rewards", "unknown"),
        ({"open_loop": ()}, RANKING, "rewards", "unknown"),
        # Open-loop prediction
        ({"open_loop": ()}, RANKING, "prediction", "unknown"),
        ({"open_loop": (*ROWS[:3], replace(ROWS[3], error=0.75))}, RANKING, "prediction", "error is 94%"),
        ({"open_loop": (*ROWS, replace(ROWS[3], steps=64, error=9.0))}, "trust", None, ""),
        # Error bounds
        ({"coverage": None}, RANKING, "error bounds", "calibrate it"),
        ({"coverage": 0.8}, RANKING, "error bounds", "80% of errors"),
        ({"coverage": 0.86}, "trust", None, ""),
        ({"coverage": 0.86, "level": 0.95}, RANKING, "error bounds", "bounds of 95%"),
        ({"coverage": 0.99}, RANKING, "error bounds", "too wide"),
        ({"scores": {"b": {"stale": True}}}, RANKING, "error bounds", "significantly too few for b"),
        # ... whose makers judge them only where they fail
        ({"scores": {"b": {"calibrated_on": True, "coverage": 0.1}}}, "trust", None, ""),
        ({"scores": {"b": {"calibrated_on": True, "stale": True}}}, RANKING, "error bounds", "too few for b"),
        ({"scores": {name: {"calibrated_on": True} for name in (*NAMES, "trained")}}, RANKING, "error bounds",
         "unknown"),
        # Other actions
        ({"counterfactual": None}, RANKING, "counterfactual", "not tested"),
        ({"counterfactual": Counterfactual(8, (), "no real episode has 8 steps")}, RANKING, "counterfactual",
         "no real episode has 8 steps"),
        (other(error=0.21), RANKING, "counterfactual", "0.210 std off under actions of the kind 'noise'"),
        (other(cosine=0.7), RANKING, "counterfactual", "cosine of 0.70"),
        (other(error=0.19, cosine=0.81), "trust", None, ""),
        # Failure
        ({"scores": {"f": {"imagined_mean": 29.0}}}, "trust", None, ""),
        ({"scores": {"f": {"imagined_mean": 31.0}}}, RANKING, "optimism", "not that of f"),
        ({"scores": {"a": {"failed": 1.0, "failed_imagined": 0.9}}}, "trust", None, ""),
        ({"scores": {"a": {"failed": 0.6, "failed_imagined": 0.4}}}, RANKING, "optimism", "that of 67%"),
        # Policies trained in the world
        ({"trained": {}}, RANKING, "exploitation", "no policy trained in it was scored"),
        ({"trained": {"x": 0.0, "y": 0.3}}, RANKING, "exploitation", "y earns +30.0% [+28.0%, +32.0%]"),
        ({"trained": {"x": 0.09}}, RANKING, "exploitation", "Too few episodes"),
        ({"trained": {"x": -0.5}}, "trust", None, ""),  # a world that is too hard misleads no training
        # Ranking
        ({"gaps": (-0.6, 0, 0, 0, 0, 0.6)}, DO_NOT, "ranking", "ranks policies wrongly"),
        ({"gaps": (0.0, 0.2, 0.4, 0.6, 0.75, 0.9)}, DO_NOT, "ranking", "is 0.00"),  # one return for all
        ({"real": (50.0, 50.9, 49.2, 50.0, 50.5, 49.5)}, DO_NOT, "ranking", "not differ by more than chance"),
        # Evidence
        ({"episodes": 9}, DO_NOT, "evidence", "in 9 real episodes"),
        ({"names": "abcd"}, DO_NOT, "evidence", "4 policies"),
        ({"lineages": 2, "names": "abcd"}, DO_NOT, "evidence", "2 independent trainings"),
        ({"names": ()}, DO_NOT, "ranking", "only 0 policies scored"),
    ],
)  # fmt: skip
def test_rules(changes: dict[str, Any], level: str, rule: str | None, said: str) -> None:
    found = verdict(report(**changes))
    assert found.level == level, str(found)
    if rule is None:
        assert all(reason.passed for reason in found.reasons)
    else:
        (reason,) = (each for each in found.reasons if each.rule == rule)
        assert not reason.passed
        assert said in reason.text


def test_one_training_speaks_for_itself_alone() -> None:
    for runs, scope in ((1, "policies of this training"), (2, "policies of these 2 trainings"), (3, "")):
        found = verdict(report(lineages=runs))
        assert (found.level, found.scope) == ("trust", scope)
        assert found.title == str(found).splitlines()[0] == (f"trust ({scope})" if scope else "trust")
        (evidence,) = (reason for reason in found.reasons if reason.rule == "evidence")
        assert ("to speak for policies of other trainings" in evidence.text) == bool(scope)
    assert verdict(report(lineages=1, episodes=9)).scope == ""


def test_reasons_come_in_the_order_of_their_weight() -> None:
    found = verdict(report(gaps=(0.06,) * 6, coverage=None))
    passed = [reason.passed for reason in found.reasons]
    assert passed == sorted(passed, key=[False, None, True].index)
    assert str(found).splitlines()[:2] == ["trust for ranking only", f"- {found.reasons[0].text}"]


def test_what_an_old_report_does_not_hold_is_no_reason_to_trust() -> None:
    old = report(level=None, open_loop=(), counterfactual=None, agreement=None, trained={}, coverage=None)
    found = verdict(old)
    assert found.level == "do not trust"
    assert [reason.rule for reason in found.reasons if reason.passed] == ["returns", "optimism"]


def test_the_report_holds_its_verdict(tmp_path: Path) -> None:
    made = report(gaps=(0.06,) * 6)
    made = replace(made, verdict=verdict(made))
    path = made.save(tmp_path / "report.json")
    assert artifacts.read_json(path)["verdict"]["level"] == "trust for ranking only"
    assert GapReport.load(path) == made


def test_policies_trained_in_the_world_are_judged_apart() -> None:
    found = exploitation(report(gaps=(0.01,) * 6, trained={"x": 0.1, "y": 0.3}))
    assert found is not None
    assert (found.policies, found.worst) == (("x", "y"), "y")
    assert found.mean_gap == pytest.approx(0.2)
    assert found.bystanders == pytest.approx(0.01)
    assert exploitation(report(trained={})) is None


def test_optimism_names_who_fails_unforeseen() -> None:
    found = optimism(
        report(scores={"f": {"imagined_mean": 80.0}, "a": {"failed": 1.0, "failed_imagined": 1.0}})
    )
    assert found.failing == ("a", "f", "random")
    assert found.missed == ("f",)
