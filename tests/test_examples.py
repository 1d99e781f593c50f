"""Every example runs as a user would run it, only shorter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHORT = {"plan_by_gradient.py": ["--real-steps", "2000", "--updates", "400", "--starts", "4"]}


def run(name: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *SHORT[name]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


def test_every_example_is_run_here_and_short() -> None:
    scripts = sorted((ROOT / "examples").glob("*.py"))
    assert [path.name for path in scripts] == sorted(SHORT)
    for path in scripts:
        assert len(path.read_text().splitlines()) <= 60


@pytest.mark.timeout(300)
def test_planning_by_gradient_beats_doing_nothing_in_mujoco() -> None:
    said = {
        name.strip(): float(value)
        for name, value in re.findall(r"(.*):\s+(-?[\d.]+)", run("plan_by_gradient.py"))
    }
    assert said["real return of the plans"] > said["real return of no action"] + 1
    assert abs(said["imagined return of the plans"] - said["real return of the plans"]) < 0.5
