"""Cells of CSV files that are no plain numbers: read as what they say, or refused by line and column."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tests.data.importers.pendulums import HEADER, PERIOD, run
from tests.data.importers.test_from_log import read, refused
from wmgym.data.importers import csv
from wmgym.data.importers.from_log import from_log

NAMES = HEADER.split(",")


def changed(
    path: Path,
    name: str,
    change: Callable[[str], str],
    every: int = 1,
    separator: str = ",",
    seed: int = 0,
) -> Path:
    """A log in which some cells of a column are written otherwise."""
    lines = [separator.join(NAMES)]
    for i, row in enumerate(run(seed)):
        cells = [f"{value:.6f}" for value in row]
        k = NAMES.index(name)
        cells[k] = change(cells[k]) if i % every == every - 1 else cells[k]
        lines.append(separator.join(cells))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_that_is_no_number_is_named(tmp_path: Path, name: str) -> None:
    path = changed(tmp_path / "run.csv", name, lambda _: "ERR", every=50)
    refused(rf"run.csv, line 51: column '{name}' holds 'ERR', no number", path)


@pytest.mark.parametrize(
    "cell",
    [
        "1.2 rad",
        "12°",
        '"1,2"',
        "0x1f",
        "\u22121.5",
        "1.2.3",
        "12:30:01",
        "1;2",
        "1_000",
        "\u0661\u0662",
        "1e400",
        "-inf",
    ],
)
def test_what_is_no_number(tmp_path: Path, cell: str) -> None:
    (table,) = csv.read(str(changed(tmp_path / "run.csv", "q1", lambda _: cell, every=50)))
    said = table.facts["text"]["q1"]
    assert (said["line"], said["cell"], said["labels"]) == (51, cell.strip('"'), None)


@pytest.mark.parametrize(("name", "word"), [("q1", "on"), ("t", "x"), ("reward", "OK"), ("t", "31.01.2026")])
def test_words_are_no_observation_reward_or_time(tmp_path: Path, name: str, word: str) -> None:
    refused(f"line 2: column '{name}' holds '{word}'", changed(tmp_path / "run.csv", name, lambda _: word))


def test_a_line_of_units_and_blank_lines(tmp_path: Path) -> None:
    path = changed(tmp_path / "run.csv", "q1", str)
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, "s,rad,rad/s,V,1", *rows]) + "\n")
    refused("line 2: column 'q1' holds 'rad'.* if this line holds units, delete it", path)
    path.write_text("\n".join([header, "", *rows[:5], "0.1,0,x,0,0", *rows[6:]]) + "\n")
    refused("line 8: column 'dq1' holds 'x'", path)


@pytest.mark.parametrize("cell", ["", "NA", "#N/A", "--", "?", "null", "NaN"])
def test_markers_of_missing_values(tmp_path: Path, cell: str) -> None:
    (table,) = csv.read(str(changed(tmp_path / "run.csv", "q1", lambda _: cell, every=50)))
    assert np.flatnonzero(np.isnan(table.columns["q1"])).tolist() == [49, 99]


def test_missing_dates(tmp_path: Path) -> None:
    def date(seconds: str) -> str:
        return "NA" if seconds in ("0.000000", "1.000000") else f"2026-01-01T00:00:0{seconds}"

    data = read(changed(tmp_path / "run.csv", "t", date))
    assert data.lengths.tolist() == [48, 68]
    assert data.task.dt == pytest.approx(PERIOD)
    path = changed(tmp_path / "run.csv", "t", lambda s: "2026-01-01T00:00:99" if s == "1.000000" else date(s))
    refused("column 't' holds '2026-01-01T00:00", path)


def test_decimal_commas_between_semicolons(tmp_path: Path) -> None:
    """Where they cannot be separators of thousands."""
    given = read(changed(tmp_path / "run.csv", "q1", lambda c: c.replace(".", ","), separator=";"))
    np.testing.assert_allclose(given.obs[:, 0], run(0)[:-1, 1], atol=1e-6)
    for write in (
        lambda c: f"{float(c) * 1e4:,.2f}",
        lambda c: f"{1e4 + abs(float(c)) * 1e4:,.0f}",
        lambda c: c.replace(".", ",", 1) if float(c) < 0 else c,
    ):
        path = changed(tmp_path / "run.csv", "q1", write, separator=";")
        refused(r"column 'q1' holds .*, no number; write decimals with a point", path)


def test_labels_of_actions_mean_the_same_in_every_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words: dict[str, Callable[[str], str]] = {
        "a.csv": lambda c: "left" if float(c) < 0 else "right",
        "b.csv": lambda c: "right" if float(c) < 0 else "stop",
    }
    for seed, (name, word) in enumerate(words.items()):
        changed(tmp_path / name, "u", word, seed=seed)
    data = read(tmp_path)
    assert data.task.action_space == spaces.Discrete(3)
    np.testing.assert_array_equal(data.action[:119].ravel(), run(0)[:-1, 3] >= 0)
    np.testing.assert_array_equal(data.action[119:].ravel() - 1, run(1)[:-1, 3] >= 0)
    with warnings.catch_warnings(action="ignore"):
        from_log(tmp_path)
    assert "labels     left is 0, right is 1, stop is 2" in capsys.readouterr().out


@pytest.mark.parametrize("cell", ["", "nan", "--"])
def test_labels_and_empty_cells(tmp_path: Path, cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    changed(tmp_path / "a.csv", "u", lambda c: "left" if float(c) < 0 else "right")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    lines[41] = lines[41].replace("left", cell).replace("right", cell)
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    changed(tmp_path / "b.csv", "u", lambda c: "none" if float(c) < 0 else "right")
    with warnings.catch_warnings(action="ignore"):
        data = from_log(tmp_path)
    assert data.lengths.tolist() == [40, 78, 119]
    np.testing.assert_array_equal(data.action[:40].ravel(), 2 * (run(0)[:40, 3] >= 0))
    said = capsys.readouterr().out
    assert "labels     left is 0, none is 1, right is 2" in said
    assert "1 row without an action or reward: an episode ends before them" in said


@pytest.mark.parametrize(
    "change",
    [
        {"action": ["u", "q1"], "obs": "dq1"},  # labels beside numbers are no box
        {"terminated": "u", "action": "q1"},
    ],
)
def test_labels_have_no_other_role(tmp_path: Path, change: dict[str, Any]) -> None:
    path = changed(tmp_path / "run.csv", "u", lambda c: "left" if float(c) < 0 else "right")
    refused("column 'u' holds '(left|right)'", path, **change)


def test_labels_in_one_file_and_numbers_in_another(tmp_path: Path) -> None:
    changed(tmp_path / "a.csv", "u", str)
    changed(tmp_path / "b.csv", "u", lambda c: "left" if float(c) < 0 else "right")
    refused("b.csv, line 2: column 'u' holds", tmp_path)
