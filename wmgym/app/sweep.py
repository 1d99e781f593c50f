"""Many runs, side by side: each resumable, their results in one table, budgets kept over all of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wmgym.app.sweep_config import SweepConfig, SweepRun, runs
from wmgym.app.sweep_page import write_page, write_table
from wmgym.app.sweep_unit import LOG, Done, Order, do_run
from wmgym.data.executors import make_executor
from wmgym.data.units import Executor, Outcome, Unit
from wmgym.io import artifacts, files, locks
from wmgym.io.files import StoreError
from wmgym.io.progress import track
from wmgym.io.schema import Amount, Count, Record, read_settings

_NOTE_SECONDS, _LOCK_SECONDS = 30.0, 2.0
_RECORD, _FAILED, _SPENT = "unit.json", "failed.json", "spent.json"


@dataclass(frozen=True)
class SweepResult:
    """What a sweep has come to.

    Attributes:
        rows: one for each finished run: task, algorithm, budget, seed, returns, cost.
        failed: why each failed run failed, by its name.
        left: names of the runs that a budget left undone.
        ledger: real steps planned and taken, and hours of machines, over every call and every machine.
        page: ``sweep.html``; None where jinja2 is not installed.
    """

    rows: list[dict[str, Any]]
    failed: dict[str, str]
    left: list[str]
    ledger: dict[str, float]
    page: Path | None


class _Budgets(Record):
    """What is counted over calls: hours of runs, and real steps of those that must begin again."""

    lost_steps: Count = 0
    hours: Amount = 0.0


class _Record(Record):
    fingerprint: str
    row: dict[str, str | int | float | None]
    ledger: dict[str, float]
    made: dict[str, str]


def sweep(
    config: SweepConfig,
    out: str | os.PathLike[str],
    *,
    executor: Executor | str = "processes",
    budget_steps: int | None = None,
    budget_hours: float | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> SweepResult:
    """Do every run of a sweep that is not done yet.

    Leaves in ``out``: ``units/NAME/run/`` with what ``wmgym.run`` leaves, ``units/NAME/log.txt``,
    ``results.json``, ``results.csv`` and ``sweep.html``. Killed anywhere, the same call goes on: finished
    runs are kept, and a run that was cut off goes on from its last stage where its files still are. A run
    that fails is named, with its log, and stops no other; the next call tries it again. More tasks, seeds,
    algorithms and budgets may follow.

    Args:
        config: what to run.
        out: the directory to write.
        executor: where; see ``wmgym.make_executor``.
        budget_steps: real steps in all. No run begins that would take more than is left.
        budget_hours: hours of runs in all, added up over machines and calls. What runs when they are spent is
            stopped; the serial executor can only stop between runs.
        progress: show a bar on a terminal.
        say: called with a line for each run that ends.

    Raises:
        ValueError: a combination that cannot run, a budget that is none, or ``out`` holds runs with other
            settings; all before any work.
        StoreError: ``out`` cannot be written, or another sweep is at work there.
    """
    for name, budget in {"budget_steps": budget_steps, "budget_hours": budget_hours}.items():
        if budget is not None and not budget > 0:
            raise ValueError(f"{name} must be above 0, got {budget}")
    folder, every = files.as_path(out), runs(config)
    artifacts.check_place(folder, names=("results.json", "results.csv", "sweep.html"), folder=True)
    where = make_executor(executor) if isinstance(executor, str) else executor
    with locks.alone(folder, "sweep", _LOCK_SECONDS):
        work = _Sweep(folder, every, config, budget_steps, budget_hours, say)
        with track("sweep", len(every), show=progress) as advance:
            advance(len(every) - len(work.todo))
            work.go(where, advance)
        return work.result()


@dataclass
class _Sweep:
    """The runs of a sweep and what is known of them."""

    out: Path
    every: list[SweepRun]
    config: SweepConfig
    budget_steps: int | None
    budget_hours: float | None
    say: Callable[[str], None]
    records: dict[str, _Record] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)  # of those at work, by name

    def __post_init__(self) -> None:
        for each in self.every:
            path = self.place(each) / _RECORD
            if not path.exists():
                continue
            record: _Record = read_settings(_Record, artifacts.read_json(path), str(path))
            if record.fingerprint != each.fingerprint:
                raise ValueError(
                    f"{self.out} holds {each.name} with other settings; choose another --out, or remove "
                    f"{path.parent}"
                )
            self.records[each.name] = record
        path = self.out / _SPENT
        self.spent: _Budgets = (
            read_settings(_Budgets, artifacts.read_json(path), str(path)) if path.exists() else _Budgets()
        )
        self.noted = time.monotonic()
        self.todo = [each for each in self.every if each.name not in self.records]

    def place(self, each: SweepRun) -> Path:
        return self.out / "units" / each.folder

    def go(self, executor: Executor, advance: Callable[[int], None]) -> None:
        """Do what is left to do and within the budgets."""

        def tick(amount: int, note: str = "") -> None:
            if self.budget_hours is not None and self.hours() >= self.budget_hours:
                raise _Spent
            if time.monotonic() - self.noted > _NOTE_SECONDS:
                self._note()

        outcomes = executor.map(do_run, self._units(executor.shares_files), tick)
        try:
            with contextlib.closing(outcomes):
                for outcome in outcomes:
                    self._ended(outcome)
                    advance(1)
        except _Spent:
            self.say(f"stopped: the budget of {self.budget_hours:g} hours is spent")
        finally:
            for name in list(self.began):  # cut off; Ctrl-C too
                self._stopped(name, again=not executor.shares_files)

    def steps(self) -> float:
        """Real steps of finished runs, of those at work, and those that were lost."""
        planned = {each.name: each.config.real_steps for each in self.every}
        return self.spent.lost_steps + sum(planned[name] for name in {*self.records, *self.began})

    def hours(self) -> float:
        """Hours of runs that have ended, however, and, so far, of those at work."""
        now = time.monotonic()
        return self.spent.hours + sum(now - began for began in self.began.values()) / 3_600

    def result(self) -> SweepResult:
        """The table and the page of all that is done."""
        rows = [self._row(each, self.records[each.name]) for each in self.every if each.name in self.records]
        left = [
            each.name for each in self.every if each.name not in self.records and each.name not in self.failed
        ]
        ledger = {"real_steps": self.steps(), "hours": self.hours()}
        for key in ("imagined_steps", "scored_real_steps", "cpu_s"):
            ledger[key] = sum(record.ledger.get(key, 0.0) for record in self.records.values())
        found: dict[str, Any] = {"rows": rows, "failed": self.failed, "left": left, "ledger": ledger}
        artifacts.write_json(self.out / "results.json", {"config": asdict(self.config), **found})
        write_table(rows, self.out / "results.csv")
        logs = {each.name: f"units/{each.folder}/{LOG}" for each in self.every}
        page = None
        try:
            page = write_page(self.out / "sweep.html", logs=logs, **found)
        except ImportError as error:
            self.say(f"no page: {error}")
        return SweepResult(rows, self.failed, left, ledger, page)

    def _units(self, here: bool) -> Iterator[Unit[Order]]:
        """Those to do, each when there is room for it, until the budget of steps is spent."""
        for each in self.todo:
            over = self.budget_steps is not None and self.steps() + each.config.real_steps > self.budget_steps
            if over or (self.budget_hours is not None and self.hours() >= self.budget_hours):
                self.say(f"stopped before {each.name}: the budget has no room for it")
                return
            place = self.place(each)
            place.mkdir(parents=True, exist_ok=True)
            order = Order(each.config.to_dict(), each.fingerprint, place.absolute() if here else None)
            self.began[each.name] = time.monotonic()
            yield Unit(each.name, order, each.seed, self.config.resources)

    def _ended(self, outcome: Outcome[Order, Done]) -> None:
        each = next(run for run in self.todo if run.name == outcome.unit.name)
        done, place = outcome.value, self.place(each)
        if done is None:
            done = Done(error=" ".join(str(outcome.error).split()) or type(outcome.error).__name__)
        if done.log and outcome.unit.item.place is None:
            files.write_bytes(place / LOG, done.log)
        self._stopped(each.name, again=bool(done.error) and outcome.unit.item.place is None)
        if done.error:
            self.failed[each.name] = done.error
            artifacts.write_json(place / _FAILED, {"error": done.error, "log": LOG})
            self.say(f"failed: {each.name}: {done.error} (log: {place / LOG})")
            return
        files.write_files(place / "run", done.files)
        for name, digest in done.made.items():
            if artifacts.digest(place / "run" / name) != digest:
                raise StoreError(f"{place / 'run' / name} is not what the run made; remove it and run again")
        record = _Record(fingerprint=each.fingerprint, row=done.row, ledger=done.ledger, made=done.made)
        artifacts.write_json(place / _RECORD, record.model_dump())
        (place / _FAILED).unlink(missing_ok=True)
        self.records[each.name] = record
        self.say(f"done: {each.name}: return {done.row['real_return']:,.1f}")

    def _stopped(self, name: str, *, again: bool) -> None:
        """Count what a run took; of one that has to begin ``again``, its steps as well."""
        planned = {each.name: each.config.real_steps for each in self.every}
        hours = (time.monotonic() - self.began.pop(name)) / 3_600
        self.spent = _Budgets(
            lost_steps=self.spent.lost_steps + planned[name] * again, hours=self.spent.hours + hours
        )
        self._note()

    def _note(self) -> None:
        """Keep the hours so far, should this process be killed."""
        self.noted = time.monotonic()
        now = _Budgets(lost_steps=self.spent.lost_steps, hours=self.hours())
        artifacts.write_json(self.out / _SPENT, now.model_dump())

    def _row(self, each: SweepRun, record: _Record) -> dict[str, Any]:
        about = {"task": each.task, "algorithm": each.algorithm, "budget": each.budget, "seed": each.seed}
        cost = {key: record.ledger[key] for key in ("real_steps", "wall_s", "cpu_s")}
        return {**about, **record.row, **cost, "folder": f"units/{each.folder}/run"}


class _Spent(Exception):  # noqa: N818
    """A budget is."""
