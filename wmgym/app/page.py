"""The page of what a run or a score left on disk."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from wmgym.data.policy import PolicyFn, load_policy
from wmgym.data.pool import is_pool, load_pool
from wmgym.evaluation.gap_report import GapReport
from wmgym.evaluation.report.page import write_report
from wmgym.io import artifacts
from wmgym.io.files import StoreError
from wmgym.io.learning_log import read_log
from wmgym.models import saving
from wmgym.models.world import WorldModel

REPORT = "report.json"


def write_page(folder: Path, path: Path) -> Path:
    """Write the page of a directory that ``run`` or ``score`` has written.

    Its world and policies are loaded where they still are, for the video; what is gone is left out.

    Raises:
        StoreError: there is no report, or the page cannot be written.
        ImportError: jinja2 or matplotlib is missing.
    """
    report = GapReport.load(folder / REPORT)
    noted = artifacts.read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    config = noted.get("config", {})
    return write_report(
        report,
        path,
        world=_world(folder, config),
        policies=_policies(folder, config),
        learning=_learning(folder),
        cost=noted.get("ledger"),
        made_by={"Command": _command(noted)},
    )


def _command(noted: dict[str, Any]) -> str:
    """What to type for the same again, as far as ``run.json`` knows."""
    if "command" not in noted:
        return "wmgym.score"
    config = noted.get("config", {})
    words = ["wmgym", noted["command"], *(config[key] for key in ("env_id", "world") if key in config)]
    for policy in config.get("policy", ()):
        words += ["--policy", policy]
    for key in ("episodes", "seed"):
        if key in config:
            words += [f"--{key}", config[key]]
    return shlex.join(map(str, words))


def _world(folder: Path, config: dict[str, Any]) -> WorldModel | None:
    for place in (folder / "world", config.get("world")):
        try:
            if place is not None:
                return saving.load(place)
        except StoreError:
            continue
    return None


def _policies(folder: Path, config: dict[str, Any]) -> dict[str, PolicyFn | None]:
    """Saved policies by their names; nothing that a file names is imported or run."""
    found: dict[str, PolicyFn | None] = {}
    kept = sorted([*folder.glob("online/policies/*"), *folder.glob("round-*/policy")])
    for place in [str(folder / "policy"), *map(str, kept), *map(str, config.get("policy", ()))]:
        try:
            if is_pool(place):
                found |= load_pool(place, None)
            else:
                policy = load_policy(place)
                found |= {policy.name: policy, place: policy}
        except StoreError:
            continue
    return found


def _learning(folder: Path) -> list[dict[str, float]]:
    """The learning curve of a run: one of DynaSAC, or those of all rounds, one after the other."""
    if rows := read_log(folder / "online"):
        return rows
    before, rows = 0.0, []
    for part in sorted(folder.glob("round-*")):
        own = read_log(part)
        rows += [{**row, "imagined_steps": before + row["imagined_steps"]} for row in own]
        before = rows[-1]["imagined_steps"] if rows else 0.0
    return rows
