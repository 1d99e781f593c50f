"""Where units of work are done: one after the other here, in processes here, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from wmgym.data import processes
from wmgym.data.units import Executor, Item, Outcome, Result, Unit, Work, attempt, outcome_of
from wmgym.io.arguments import count_or_none
from wmgym.io.progress import Advance

KINDS = ("serial", "processes", "ray")
"""What ``make_executor`` makes."""


@dataclass(frozen=True)
class SerialExecutor:
    """Does one unit after the other in this process."""

    shares_files: ClassVar[bool] = True

    def map(
        self, work: Work[Item, Result], units: Iterable[Unit[Item]], advance: Advance
    ) -> Generator[Outcome[Item, Result]]:
        """Outcomes in the order of the units."""
        for index, unit in enumerate(units):
            advance(0)
            error: BaseException | None = None
            value = None
            with _one_thread():
                try:
                    value = work(unit, advance)
                except (Exception, SystemExit) as raised:
                    raised.add_note(f"It was raised in unit {unit.name!r}.")
                    error = raised
            yield Outcome(index, unit, value, error)


@dataclass(frozen=True)
class ProcessExecutor:
    """Does each unit in a process forked from this one, which inherits the work: closures will do.

    None is left a second after its parent is gone, however it ends.

    Attributes:
        workers: that run at once.
    """

    shares_files: ClassVar[bool] = True
    workers: int

    def map(
        self, work: Work[Item, Result], units: Iterable[Unit[Item]], advance: Advance
    ) -> Generator[Outcome[Item, Result]]:
        """Outcomes as they come; the error of a process that died is a ``RuntimeError``."""

        def run(unit: Unit[Item], tell: Advance) -> bytes:
            return attempt(work, unit, tell, processes.dumps)

        for index, unit, payload in processes.forked(run, units, self.workers, advance):
            if payload is None:
                died = f"unit {unit.name!r}: a worker process died; is memory short?"
                yield Outcome(index, unit, error=RuntimeError(died))
            else:
                yield outcome_of(index, unit, payload, processes.loads)


def make_executor(kind: str, *, workers: int | None = None, address: str | None = None) -> Executor:
    """An executor by name.

    Args:
        kind: ``"serial"``; ``"processes"``, which needs a system that can fork; or ``"ray"``.
        workers: units at once on this machine; None takes every core.
        address: of a Ray cluster, ``"auto"`` for the one that this machine belongs to. None starts Ray on
            this machine alone, for as long as this process lives.

    Raises:
        ValueError: another name, an argument that this kind does not take, or no way to fork.
        ImportError: Ray is not installed.
        ConnectionError: no Ray cluster answers at the address.
    """
    if kind not in KINDS:
        raise ValueError(f"executor must be one of {', '.join(KINDS)}, got {kind!r}")
    workers = count_or_none("workers", workers)
    if address is not None and kind != "ray":
        raise ValueError(f"address={address!r} is for executor='ray', not {kind!r}")
    if kind == "ray":
        from wmgym.data.ray_cluster import connect
        from wmgym.data.ray_executor import RayExecutor

        if address is not None:
            connect(address)  # or say at once that none is there
        return RayExecutor(address, workers)
    if kind == "serial":
        if workers is not None and workers > 1:
            raise ValueError(f"executor='serial' is one process; workers={workers} is for 'processes'")
        return SerialExecutor()
    if not processes.can_fork():
        raise ValueError("this system cannot fork processes; take executor='serial' or 'ray'")
    return ProcessExecutor(workers or os.cpu_count() or 1)


def chosen(executor: Executor | str | None, workers: int | None, units: int, pays: bool) -> Executor:
    """The executor that a verb's two arguments name; without either, processes where they pay.

    Raises:
        ValueError: see ``make_executor``; or ``workers`` beside an executor that has its own.
    """
    workers = count_or_none("workers", workers)
    if isinstance(executor, str):
        return make_executor(executor, workers=workers)
    if executor is not None:
        if workers is not None:
            raise ValueError("workers= goes with a name of an executor; this one has its own")
        return executor
    if workers is None:
        workers = os.cpu_count() or 1 if pays else 1
    most = min(workers, units)
    return SerialExecutor() if most < 2 or not processes.can_fork() else ProcessExecutor(most)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 1
    if torch is None or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
