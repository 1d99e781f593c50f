"""Sweeps: resumable, within budgets, the same wherever they run, not stopped by a run that fails."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import wmgym
from benchmarks.harness.clusters import SMALL_RUN as SETTINGS
from wmgym.app import cli, sweep_config, sweep_page, sweep_unit
from wmgym.app import sweep as sweep_module
from wmgym.app.sweep_unit import Done, Order
from wmgym.data.executors import ProcessExecutor, SerialExecutor
from wmgym.data.units import Unit
from wmgym.io import artifacts, files, locks
from wmgym.io.files import StoreError
from wmgym.io.progress import Advance

ENV = "InvertedPendulum-v5"


def config(seeds: tuple[int, ...] = (0, 1, 2, 3), **changes: Any) -> wmgym.SweepConfig:
    given: dict[str, Any] = {"tasks": (ENV,), "budgets": (300,), "algorithms": ("PPO",), "settings": SETTINGS}
    return wmgym.SweepConfig(seeds=seeds, **{**given, **changes})


def pretend(order: Unit[Order], advance: Advance) -> Done:
    """What a run would say, at once."""
    (folder := order.item.place).mkdir(parents=True, exist_ok=True)  # type: ignore[union-attr]
    with (folder / "calls").open("a") as file:  # type: ignore[operator]
        file.write("once\n")
    seed = order.seed
    row = {"policy": "p", "real_return": 10.0 * seed, "imagined_return": 1.0, "random_return": -1.0,
           "gap": 0.1, "verdict": "trust"}  # fmt: skip
    return Done(row, {"real_steps": 300, "imagined_steps": 512, "wall_s": 1.0, "cpu_s": 1.0})


def calls(out: Path) -> dict[str, int]:
    return {path.parent.name[-6:]: path.read_text().count("\n") for path in out.glob("units/*/calls")}


@pytest.fixture
def pretending(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Done]], None]:
    return lambda work: monkeypatch.setattr(sweep_module, "do_run", work)


def test_what_is_done_stays_and_the_rest_goes_on(
    tmp_path: Path, pretending: Callable[[Callable[..., Done]], None]
) -> None:
    def interrupted(order: Unit[Order], advance: Advance) -> Done:
        if order.seed == 2:
            raise KeyboardInterrupt
        return pretend(order, advance)

    pretending(interrupted)
    with pytest.raises(KeyboardInterrupt):
        wmgym.sweep(config(), tmp_path, executor="serial")
    pretending(pretend)
    found = wmgym.sweep(config(), tmp_path, executor="processes")
    assert calls(tmp_path) == {f"seed-{seed}": 1 for seed in range(4)}
    assert [row["seed"] for row in found.rows] == [0, 1, 2, 3]
    assert (found.failed, found.left) == ({}, [])
    more = wmgym.sweep(config((0, 1, 2, 3, 4)), tmp_path, executor="serial")
    assert [row["real_return"] for row in more.rows] == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert sum(calls(tmp_path).values()) == 5
    with (tmp_path / "results.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == list("01234")
    page = (tmp_path / "sweep.html").read_text()
    assert "5 runs done" in page
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == more.rows


@pytest.mark.parametrize("how", ["raises", "exits", "dies", "eats memory"])
def test_a_run_that_fails_is_named_with_its_log_and_stops_no_other(
    how: str, tmp_path: Path, pretending: Callable[[Callable[..., Done]], None], monkeypatch: Any
) -> None:
    def broken(given: wmgym.RunConfig, out: Path, **how_run: Any) -> Any:
        os.write(1, b"\xff\x00 garbage <script>\n")
        if given.seed == 1:
            if how == "raises":
                raise RuntimeError("the <b>battery</b>\nis empty")
            if how == "exits":
                sys.exit(7)
            if how == "dies":
                os._exit(9)
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
            np.ones(2**31)
        raise SystemExit("all others too")

    def work(order: Unit[Order], advance: Advance) -> Done:
        return sweep_unit.do_run(order, advance) if order.seed == 1 else pretend(order, advance)

    monkeypatch.setattr(sweep_unit, "run", broken)
    pretending(work)
    said: list[str] = []
    found = wmgym.sweep(config(), tmp_path, executor=ProcessExecutor(2), say=said.append)
    assert [row["seed"] for row in found.rows] == [0, 2, 3]
    ((name, why),) = found.failed.items()
    assert name == f"{ENV} PPO 300 steps seed 1"
    expected = {"raises": "RuntimeError: the <b>battery</b> is empty", "exits": "SystemExit: 7",
                "dies": f"unit '{name}': a worker process died; is memory short?",
                "eats memory": "Unable to allocate"}[how]  # fmt: skip
    assert expected in why
    folder = tmp_path / "units" / f"{ENV}-PPO-300-seed-1"
    assert b"\xff\x00 garbage" in (folder / "log.txt").read_bytes()
    assert any(str(folder / "log.txt") in line for line in said)
    page = (tmp_path / "sweep.html").read_text()
    assert "<b>battery" not in page
    assert f'href="units/{folder.name}/log.txt"' in page
    pretending(pretend)
    again = wmgym.sweep(config(), tmp_path, executor="serial")
    assert (len(again.rows), again.failed) == (4, {})


def test_budgets_stop_hard_and_say_what_is_left(
    tmp_path: Path, pretending: Callable[[Callable[..., Done]], None]
) -> None:
    pretending(pretend)
    said: list[str] = []
    found = wmgym.sweep(config(), tmp_path, executor="processes", budget_steps=700, say=said.append)
    assert [row["seed"] for row in found.rows] == [0, 1]
    assert found.left == [f"{ENV} PPO 300 steps seed {seed}" for seed in (2, 3)]
    assert found.ledger["real_steps"] == 600
    assert any(line.startswith("stopped before") for line in said)
    assert "2 left" in (tmp_path / "sweep.html").read_text()
    assert wmgym.sweep(config(), tmp_path, budget_steps=900).ledger["real_steps"] == 900

    def slow(order: Unit[Order], advance: Advance) -> Done:
        time.sleep(60)
        raise AssertionError

    pretending(slow)
    began = time.monotonic()
    found = wmgym.sweep(config(), tmp_path, budget_hours=found.ledger["hours"] + 1.5 / 3_600)
    assert time.monotonic() - began < 20
    assert found.left == [f"{ENV} PPO 300 steps seed 3"]
    before = found.ledger["hours"]
    assert wmgym.sweep(config(), tmp_path, budget_hours=before).ledger["hours"] == before


def test_another_sweep_at_work_and_other_settings_are_refused(
    tmp_path: Path, pretending: Callable[[Callable[..., Done]], None]
) -> None:
    pretending(pretend)
    wmgym.sweep(config((0,)), tmp_path, executor="serial")
    with pytest.raises(ValueError, match="with other settings; choose another --out"):
        wmgym.sweep(config((0,), settings={**SETTINGS, "evaluate": {"episodes": 3}}), tmp_path)
    with locks.alone(tmp_path, "sweep"), pytest.raises(StoreError, match="another sweep is at work"):
        wmgym.sweep(config((0,)), tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks: [Hopper-v5]\nseeds: [0]\nbudgets: [100]\nsneeds: 3", r"sneeds: Unexpected keyword argument"),
        ("tasks: [Hopper-v5]\nseeds: [0]", "budgets: Field required"),
        ("tasks: Hopper-v5\nseeds: [0]\nbudgets: [100]", "tasks: Input should be a valid (tuple|array)"),
        ("tasks: []\nseeds: [0]\nbudgets: [100]", "tasks is empty"),
        ("tasks: [a]\nseeds: [0, 0]\nbudgets: [100]", "seeds names one twice"),
        ("tasks: [a]\nseeds: [-1]\nbudgets: [100]", "seeds must lie in"),
        ("tasks: [a]\nseeds: [0]\nbudgets: [0]", "budgets must be at least 1"),
        ("tasks: [a]\nseeds: [yes]\nbudgets: [1]", "seeds.0: Input should be a valid integer"),
        ("tasks: [Nope-v0]\nseeds: [0]\nbudgets: [100]", "Nope-v0, DynaSAC, 100 steps: "),
        ("tasks: [Hopper-v5]\nseeds: [0]\nbudgets: [10]", "Hopper-v5, DynaSAC, 10 steps: real_steps=10"),
        ("settings: {seed: 3}\ntasks: [a]\nseeds: [0]\nbudgets: [1]", "settings.seed is the sweep's own"),
        ("settings: {train: 3}\ntasks: [a]\nseeds: [0]\nbudgets: [1]", "settings.train must hold"),
        (
            "settings: {trane: {}}\ntasks: [Hopper-v5]\nseeds: [0]\nbudgets: [9]",
            "unknown settings",
        ),
        (
            "!!python/object/apply:os.system ['touch /tmp/no']",
            "is not YAML: could not determine",
        ),
        ("{a: b: c}", "is not YAML"),
        ("&a [*a]", "must hold tasks"),
        ("tasks: &a [*a]\nseeds: [0]\nbudgets: [1]", "(is not JSON|refers to itself)"),
        ("[" * 5_000, "is not YAML"),
        ("\x00", "is not YAML"),
        ("", "must hold tasks, seeds and budgets, not a NoneType"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    done = CliRunner().invoke(cli.app, ["sweep", str(path), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert re.search(said, done.stderr), done.stderr
    assert not (tmp_path / "out" / "units").exists()


@pytest.mark.parametrize(
    "task", ["../../etc/passwd", "module:Env-v0", "lab/Push-v0", "a\nb", ".hidden", "é" * 300]
)
def test_hostile_names_stay_inside_the_folder(task: str, tmp_path: Path) -> None:
    made = sweep_config.SweepRun(task, "PPO", 300, 0, wmgym.RunConfig(ENV, train={"algorithm": "PPO"}))
    assert made.folder == os.path.basename(made.folder)
    assert made.folder[0] not in ".-"
    assert len(made.folder) < 120
    (tmp_path / made.folder).mkdir()
    other = sweep_config.SweepRun(f"{task}-", "PPO", 300, 0, made.config)
    assert other.folder != made.folder


def test_a_cell_is_no_formula(tmp_path: Path) -> None:
    row = dict.fromkeys(sweep_page.COLUMNS, 0) | {"task": "=cmd|' /C calc'!A0"}
    text = sweep_page.write_table([row], tmp_path / "t.csv").read_text()
    assert "\n'=cmd" in text


def test_aggregates_are_rliables_and_stratified_by_task() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"task": task, "algorithm": name, "budget": 10, "random_return": 0.0,
         "real_return": float(rng.normal(mean * scale, scale))}
        for task, scale in (("a", 1.0), ("b", 100.0)) for name, mean in (("X", 5), ("Y", 9)) for _ in range(8)
    ]  # fmt: skip
    found = {(each.task, each.algorithm): each for each in sweep_page.aggregates(rows)}
    assert set(found) == {(task, name) for task in ("", "a", "b") for name in "XY"}
    best, other = found["", "Y"], found["", "X"]
    assert best.iqm == pytest.approx(1.0, abs=0.1)
    assert other.interval[1] < best.interval[0]
    assert other.runs == 16
    mine = np.sort([r["real_return"] for r in rows if (r["task"], r["algorithm"]) == ("a", "X")])
    assert found["a", "X"].iqm == pytest.approx(mine[2:6].mean())


def test_what_is_worse_than_random_actions_counts_below_zero() -> None:
    rows = [
        {"task": "a", "algorithm": name, "budget": 10, "random_return": 0.0, "real_return": value}
        for name, value in (("X", -5.0), ("Y", -20.0))
    ]
    found = {each.algorithm: each.iqm for each in sweep_page.aggregates(rows)}
    assert found == {"X": -1.0, "Y": -4.0}


def test_files_that_come_back_are_whole_before_their_manifest(tmp_path: Path) -> None:
    found = {"world/manifest.json": b"{}", "world/arrays.x": b"1", "run.json": b"{}"}
    files.write_files(tmp_path, found)
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert written == sorted(found)
    with pytest.raises(StoreError):
        files.write_files(tmp_path, {"run.json/x": b""})


def digests(out: Path) -> dict[str, Any]:
    return {path.parent.name: artifacts.read_json(path)["made"] for path in out.glob("units/*/unit.json")}


@pytest.mark.slow
def test_a_killed_sweep_ends_like_one_that_was_not(tmp_path: Path) -> None:
    given = config((0, 1))
    whole = wmgym.sweep(given, tmp_path / "whole", executor=SerialExecutor())
    path = tmp_path / "sweep.yaml"
    document = {
        "tasks": [ENV],
        "seeds": [0, 1],
        "budgets": [300],
        "algorithms": ["PPO"],
        "settings": SETTINGS,
    }
    path.write_text(json.dumps(document))
    command = [sys.executable, "-m", "wmgym", "sweep", str(path), "--out", str(tmp_path / "cut")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        for _ in range(600):
            if list(tmp_path.glob("cut/units/*/run/round-00/*.json")):
                break
            time.sleep(0.05)
        process.kill()
    assert not list(tmp_path.glob("cut/units/*/unit.json"))
    again = wmgym.sweep(given, tmp_path / "cut", executor=ProcessExecutor(2))
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    same = ("seed", "real_return", "imagined_return", "gap", "verdict")
    assert [{key: row[key] for key in same} for row in again.rows] == [
        {key: row[key] for key in same} for row in whole.rows
    ]


@pytest.mark.slow
def test_a_sweep_on_ray_brings_the_same_bits_back(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    whole = wmgym.sweep(config((0, 1)), tmp_path / "here", executor=SerialExecutor())
    with contextlib.ExitStack() as after:
        after.callback(ray.shutdown)
        there = wmgym.sweep(config((0, 1)), tmp_path / "there", executor="ray")
    assert len(there.rows) == len(whole.rows) == 2
    assert digests(tmp_path / "here") == digests(tmp_path / "there")
    folder = tmp_path / "there" / there.rows[0]["folder"]
    assert wmgym.load(folder / "world").calibration is not None
    assert wmgym.load_policy(folder / "policy").name == there.rows[0]["policy"]
