"""Progress bars with rate and ETA, on a terminal only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Advance(Protocol):
    """Reports work done; ``note`` replaces the text beside the bar."""

    def __call__(self, amount: int, note: str = "") -> None:
        """Move the bar on by ``amount``."""


@contextmanager
def track(description: str, total: int, *, show: bool) -> Iterator[Advance]:
    """Show a bar on stderr while the block runs; silent where ``show`` is false or stderr is no terminal."""
    console = Console(stderr=True)
    if not (show and console.is_terminal):
        yield _silent
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(description, total=total, note="")

        def advance(amount: int, note: str = "") -> None:
            if note:
                progress.update(bar, advance=amount, note=note)
            else:
                progress.update(bar, advance=amount)

        yield advance


def _silent(amount: int, note: str = "") -> None:
    return None


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Units a second."""
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")
