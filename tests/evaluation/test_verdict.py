"""The verdict's rules as a table of cases."""

from __future__ import annotations

from typing import Any

import pytest

from tests.evaluation.reports import report
from wmgym.evaluation.verdict import verdict

RANKING, DO_NOT = "trust for ranking only", "do not trust"


@pytest.mark.parametrize(
    ("changes", "level", "rule", "said"),
    [
        ({}, "trust", None, ""),
        ({"gaps": (0.04,) * 6}, "trust", None, ""),
        # Returns
        ({"gaps": (0.06,) * 6}, RANKING, "returns", "off by 6.0%"),
        ({"gaps": (0.0, 0.0, 0.0, 0.0, 0.13, 0.0)}, RANKING, "returns", "+13.0% [+11.0%, +15.0%] for e"),
        ({"gaps": (0.0, 0.0, 0.0, 0.0, -0.13, 0.0)}, RANKING, "returns", "Returns are wrong"),
        ({"half": 0.11}, RANKING, "returns", "Too few episodes to say"),
        # Error bounds
        ({"coverage": None}, RANKING, "error bounds", "calibrate it"),
        ({"coverage": 0.8}, RANKING, "error bounds", "80% of errors"),
        ({"coverage": 0.86}, "trust", None, ""),
        ({"stale": ("b",)}, RANKING, "error bounds", "significantly too few for b"),
        # Ranking
        ({"gaps": (-0.6, 0, 0, 0, 0, 0.6)}, DO_NOT, "ranking", "ranks policies wrongly"),
        ({"gaps": (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)}, DO_NOT, "ranking", "is 0.00"),  # the same return for all
        # Evidence
        ({"episodes": 9}, DO_NOT, "evidence", "in 9 real episodes"),
        ({"names": "abcd", "real": (4.0, 3.0, 2.0, 1.0)}, DO_NOT, "evidence", "4 policies scored"),
        ({"names": (), "real": (), "gaps": ()}, DO_NOT, "ranking", "0 policies scored"),
    ],
)
def test_rules(changes: dict[str, Any], level: str, rule: str | None, said: str) -> None:
    found = verdict(report(**changes))
    assert found.level == level, str(found)
    if rule is None:
        assert all(reason.passed for reason in found.reasons)
    else:
        (reason,) = (each for each in found.reasons if each.rule == rule)
        assert not reason.passed
        assert said in reason.text


def test_reasons_come_in_the_order_of_their_weight() -> None:
    found = verdict(report(gaps=(0.06,) * 6, coverage=None))
    assert [reason.passed for reason in found.reasons] == [False, None, True, True]
    assert str(found).splitlines()[:2] == ["trust for ranking only", f"- {found.reasons[0].text}"]
