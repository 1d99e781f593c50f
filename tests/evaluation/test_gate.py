"""The gate: limits on a report, exit statuses and the JUnit file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from tests.evaluation.reports import report
from wmgym.app.cli import app
from wmgym.evaluation.gate import gate, write_junit


@pytest.mark.parametrize(
    ("limits", "passed"),
    [
        ({"min_rank": 0.9}, [True]),
        ({"min_rank": 1.0}, [True]),
        ({"max_gap": 0.02}, [True]),
        ({"max_gap": 0.005}, [False]),
        ({"coverage": (0.87, 0.93)}, [True]),
        ({"coverage": (0.91, 0.93)}, [False]),
        ({"coverage": (0.5, 0.8)}, [False]),
        ({"min_rank": 0.9, "max_gap": 0.0, "coverage": (0.87, 0.93)}, [True, False, True]),
    ],
)
def test_limits(limits: dict[str, Any], passed: list[bool]) -> None:
    checks = gate(report(gaps=(0.01, -0.01, 0.01, -0.01, 0.01, -0.01)), **limits)
    assert [check.passed for check in checks] == passed


def test_what_was_not_measured_does_not_pass() -> None:
    bare = report()
    bare = replace(
        bare, scores=tuple(entry for entry in bare.scores if entry.name == "random"), agreement=None
    )
    checks = gate(bare, min_rank=-1.0, max_gap=10.0, coverage=(0.0, 1.0))
    assert [check.passed for check in checks] == [False] * 3
    assert not gate(report(coverage=None), coverage=(0.0, 1.0))[0].passed


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, "needs a limit"),
        ({"min_rank": 1.5}, "between -1 and 1, got 1.5"),
        ({"max_gap": float("nan")}, "at least 0"),
        ({"coverage": (0.9, 0.8)}, "got 0.9:0.8"),
    ],
)
def test_bad_limits(limits: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        gate(report(), **limits)


def test_junit_file(tmp_path: Path) -> None:
    hostile = report(names=("<a&b>\x00", '"b', "c", "d", "e", "f"), gaps=(0.3,) + (0.0,) * 5)
    checks = gate(hostile, min_rank=0.9, max_gap=0.01)
    path = write_junit(tmp_path / "new" / "gate.xml", checks, "Hopper-v5")
    (suite,) = ElementTree.parse(path).getroot()
    assert (suite.tag, suite.get("tests"), suite.get("failures")) == ("testsuite", "2", "1")
    rank, gap = suite
    assert (rank.get("name"), gap.get("name")) == ("rank", "gap")
    assert rank.find("failure") is None
    failure = gap.find("failure")
    assert failure is not None
    assert "widest +0.300 (<a&b>" in failure.attrib["message"]


# The command


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["gate", *map(str, words)])
    return done.exit_code, done.output


def test_exit_statuses(tmp_path: Path) -> None:
    path = report(gaps=(0.04,) * 6).save(tmp_path / "report.json")
    limits = ("--min-rank", 0.9, "--max-gap", 0.05, "--coverage", "0.87:0.93")
    assert run(path, *limits, "--junit", tmp_path / "gate.xml")[0] == 0
    assert ElementTree.parse(tmp_path / "gate.xml").getroot()[0].get("failures") == "0"
    status, said = run(path, "--max-gap", 0.03, "--json")
    assert status == 1
    assert json.loads(said)["checks"][0]["detail"].startswith("mean absolute gap 0.040, at most 0.03")
    assert run(tmp_path / "none.json", *limits) == (1, f"error: {tmp_path}/none.json is missing; check the"
                                                       " path or write it again\n")  # fmt: skip


@pytest.mark.parametrize(
    "words", [(), ("--coverage", "0.9"), ("--coverage", "0.9:0.8"), ("--min-rank", "2"), ("--max-gap", "x")]
)
def test_wrong_usage(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert run(tmp_path / "report.json", *words)[0] == 2
