"""The README is short, runs as printed, and says what the results say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import wmgym
from tests.test_docs import shorter
from tools import make_gif

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CODE = "\n".join(re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S))
SCORED = r"^mine: real [\d,.]+ \[.*\], imagined [\d,.]+ \[.*\], gap [+-]"
PICTURES = re.findall(r"^!\[.+\]\((.+)\)$", README, re.M)


def test_it_is_short_and_shows_pictures() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    assert len(re.findall(r"^\|[ :|-]+\|$", README, re.M)) <= 1  # tables
    assert len(PICTURES) >= 2
    assert next(n for n, line in enumerate(lines) if line.startswith("![")) < 10  # on the first screen


def test_what_it_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(shorter(CODE), "README.md", "exec"), {"__name__": "__main__"})
    assert re.search(SCORED, capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
def test_the_code_runs_as_printed_in_a_process_of_its_own(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:wmgym", "-c", CODE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert re.search(SCORED, done.stdout, re.MULTILINE)


def test_the_returns_it_admits_are_those_measured() -> None:
    (said,) = re.findall(r"real returns of ([\d,]+), ([\d,]+) and\s+([\d,]+)\s+by seed", README)
    rows = json.loads((ROOT / "benchmarks" / "results" / "end_to_end.json").read_text())["rows"]
    measured = [r["real_mean"] for r in rows if r["section"] == "run" and r["env"] == "HalfCheetah-v5"]
    assert list(said) == [f"{value:,.0f}" for value in measured]


def test_the_returns_it_is_proud_of_are_those_measured() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "sample_efficiency.json").read_text())["rows"]
    unit = {"algorithm": "DynaSAC", "env": "HalfCheetah-v5", "step": 10_000}
    found = [row for row in rows if unit.items() <= row.items()]
    returns = sorted(row["mean"] for row in found)
    (mean,) = re.findall(r"mean return of ([\d,]+) over five seeds", README)
    (least, most) = re.findall(r"DynaSAC ([\d,]+) to ([\d,]+)", README)[0]
    assert len(returns) == 5
    assert [mean, least, most] == [f"{x:,.0f}" for x in (sum(returns) / 5, returns[0], returns[-1])]


def test_the_returns_without_a_real_step_are_those_measured() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "offline.json").read_text())["rows"]
    found = sorted((r for r in rows if r["algorithm"] == "DynaSAC"), key=lambda r: r["seed"])
    hopper, walker = ([r for r in found if r["env"] == env] for env in ("Hopper-v5", "Walker2d-v5"))
    (said,) = re.findall(
        r"earn ([\d,]+) in\s+MuJoCo on Hopper, and ([\d,]+) and ([\d,]+) on Walker2d, by seed; "
        r"imagination said ([\d,]+), ([\d,]+) and ([\d,]+)\.",
        README,
    )
    measured = [r[key] for key in ("real", "imagined") for r in (*hopper, *walker)]
    assert list(said) == [f"{value:,.0f}" for value in measured]


def test_bounds_hold_as_often_as_it_says_for_policies_trained_in_a_world() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "offline.json").read_text())["rows"]
    covered: dict[str, list[float]] = {}
    for row in rows:
        covered.setdefault(row["env"], []).extend(row.get("coverage", {}).values())
    shares = [round(100 * sum(each) / len(each)) for each in covered.values() if each]
    (said,) = re.findall(r"in a world alone they hold for (\d+) to (\d+) % of errors", README)
    assert [int(share) for share in said] == [min(shares), max(shares)]


def test_the_film_shows_what_its_caption_says() -> None:
    (share,) = re.findall(r"(\d+) % of the errors here are inside", README)
    world = wmgym.load(make_gif.ENV)
    shown = make_gif.film(world, make_gif.best_held_out(), round(make_gif.SECONDS / world.task.dt))
    # Trajectories that diverge differ by a rounding error from processor to processor.
    assert 100 * shown.inside == pytest.approx(int(share), abs=5)
    assert (shown.error <= shown.bound)[:20].all()
    assert (ROOT / PICTURES[0]).stat().st_size <= 3_000_000
