"""What a command was asked for, what it ran with and what it cost."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wmgym import store
from wmgym.records import library_versions


def write_run_json(out: Path, command: str, config: Mapping[str, Any], ledger: Mapping[str, float]) -> None:
    """Leave ``run.json`` in ``out``.

    Args:
        out: an existing directory.
        command: the verb.
        config: its settings, JSON values only.
        ledger: real and imagined steps, wall and CPU seconds.
    """
    store.write_json(
        out / "run.json",
        {"command": command, "config": dict(config), "versions": library_versions(), "ledger": dict(ledger)},
    )


def cpu_seconds() -> float:
    """CPU time of this process and its finished children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
