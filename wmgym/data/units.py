"""Independent units of work, and what an executor makes of them."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from wmgym.data import processes
from wmgym.io.progress import Advance

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Unit(Generic[Item]):
    """One of many independent pieces of work.

    Attributes:
        name: errors name it.
        item: what the work is done to.
        seed: for work that draws; it is not set anywhere.
        resources: what Ray reserves for it besides, or instead of, one CPU: ``{"GPU": 1}``, ``{"CPU": 2}``,
            ``{"memory": 2e9}`` in bytes, or a resource of the cluster's own. Other executors look at none.
    """

    name: str
    item: Item
    seed: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of a unit.

    Attributes:
        index: its place among the units as given.
        unit: the unit.
        value: what the work returned.
        error: what went wrong instead; it or its notes name the unit.
    """

    index: int
    unit: Unit[Item]
    value: Result | None = None
    error: BaseException | None = None


Work: TypeAlias = Callable[[Unit[Item], Advance], Result]
"""What is done to a unit; tells ``advance`` of its progress."""


class Executor(Protocol):
    """Where units are done. What comes of each does not depend on it: torch computes in one thread each.

    Attributes:
        shares_files: whether units see the files of this machine.
    """

    shares_files: ClassVar[bool]

    def map(
        self, work: Work[Item, Result], units: Iterable[Unit[Item]], advance: Advance
    ) -> Generator[Outcome[Item, Result]]:
        """Outcomes as they come, in any order; ``in_order`` sorts them.

        A unit is taken from ``units`` when there is room for it and not before. ``advance`` is called every
        now and then even where nothing advances. Closing the generator stops all units that run.
        """


def in_order(outcomes: Generator[Outcome[Item, Result]]) -> list[Result]:
    """Results in the order of the units; the first error stops the others and is raised."""
    found: dict[int, Any] = {}
    with contextlib.closing(outcomes):
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
            found[outcome.index] = outcome.value
    return [found[index] for index in sorted(found)]


def attempt(
    work: Work[Item, Result], unit: Unit[Item], advance: Advance, dumps: Callable[[Any], bytes]
) -> bytes:
    """Do a unit in another process; what came of it, or what went wrong and where, for ``outcome_of``."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for torch, should the work import it
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # never enter the parent's thread pool
    try:
        return dumps((work(unit, advance), ""))
    except BaseException as error:  # SystemExit too, which leaves the parent as it would without processes
        where = f"It was raised in a worker process, in unit {unit.name!r}:\n{traceback.format_exc()}"
        try:
            payload = dumps((error, where))
            processes.loads(payload)
        except Exception:  # an error may hold anything, and fail in many ways
            payload = dumps((RuntimeError(f"{type(error).__name__}: {error}"), where))
        return payload


def outcome_of(
    index: int, unit: Unit[Item], payload: bytes, loads: Callable[[bytes], Any]
) -> Outcome[Item, Any]:
    """What ``attempt`` sent."""
    try:
        value, where = loads(payload)
    except Exception as error:  # the classes of users fail in their own ways
        said = " ".join(str(error).split()) or type(error).__name__
        unread = RuntimeError(f"unit {unit.name!r}: its result cannot be read here: {said}")
        return Outcome(index, unit, error=unread)
    if not where:
        return Outcome(index, unit, value)
    value.add_note(where)
    return Outcome(index, unit, error=value)
