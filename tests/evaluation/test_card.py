"""The card of a world: from a report, beside the world's files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import wmgym
from tests.evaluation.reports import report
from wmgym.evaluation.card import card, write_card
from wmgym.evaluation.verdict import verdict
from wmgym.io import artifacts


def test_a_card_stands_beside_the_world(tmp_path: Path) -> None:
    world = wmgym.load("InvertedPendulum-v5")
    world.save(tmp_path)
    path = write_card(report(), tmp_path)
    assert path == tmp_path / "README.md"
    text = path.read_text()
    assert "**Verdict: trust.**" in text
    assert "| a | 100.0 [99.0, 101.0] | 100.0 [99.0, 101.0] | +0.0% | 90% |" in text
    assert "| 8 | 0.080 | 0.160 | 0.240 | 0.800 |" in text
    wmgym.load(tmp_path)  # every byte of the world is as it was
    assert "80% of errors" in write_card(report(coverage=0.8), tmp_path).read_text()
    world.save(tmp_path)
    assert path.exists()


def test_a_readme_of_the_users_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(artifacts.StoreError, match="holds no world"):
        write_card(report(), tmp_path / "none")
    wmgym.load("InvertedPendulum-v5").save(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(artifacts.StoreError, match="no card of wmgym"):
        write_card(report(), tmp_path)


def test_names_stay_text() -> None:
    hostile = report(names=("<img src=x>|`b`\n# c", *"bcdef"), scores={"b": {"stale": True}})
    text = card(replace(hostile, verdict=verdict(hostile)))
    assert r"| \<img src=x\>\|\`b\` # c | 100.0" in text
    assert "\n# c" not in text
