"""The command that examines this machine; ``cli`` adds it to the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import typer
from rich.text import Text

from wmgym.app import console, options


def doctor(as_json: options.AsJson = False) -> None:
    """Check this machine, and say how to fix what is missing.

    Example: wmgym doctor
    """
    from wmgym.app.doctor import examine

    findings = examine()
    failed = any(finding.status == "fail" for finding in findings)
    if as_json:
        found = [dataclasses.asdict(finding) for finding in findings]
        console.show({"command": "doctor", "ok": not failed, "findings": found})
    else:
        color = {"ok": "green", "warn": "yellow", "fail": "red"}
        rows = [(f.name, Text(f.status, color[f.status]), f.detail, f.cure) for f in findings]
        console.show(console.table(None, ("name", "status", "detail", "cure"), rows))
    raise typer.Exit(1 if failed else 0)


COMMANDS: tuple[Callable[..., None], ...] = (doctor,)
"""In the order of the list of commands."""
