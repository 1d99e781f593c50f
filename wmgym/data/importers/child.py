"""The process that parses foreign files: ``python -m wmgym.data.importers.child``, a task on its stdin."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import sys
from typing import Any

from wmgym.data.importers.table import Table, pack
from wmgym.data.processes import end_with


def main() -> int:
    """Read the task, parse its files, and answer with their tables on stdout; the exit status."""
    task = json.load(sys.stdin)
    end_with(task["parent"])
    _limit_memory(task["gigabytes"])
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library's chatter is no answer
    try:
        tables = [table for kind, path in task["files"] for table in _read(kind, path)]
        payload = pack(tables)
    except Exception as error:  # whatever a foreign parser raises on a damaged file
        if _short_of_memory(error):
            return _failed(f"it takes more memory than max_gigabytes={task['gigabytes']:g}; raise it")
        return _failed(str(error) or type(error).__name__)
    with answer:
        answer.write(payload)
    return 0


def _read(kind: str, path: str) -> list[Table]:
    print(f"reading {path}", file=sys.stderr, flush=True)
    module: Any = importlib.import_module(f"wmgym.data.importers.{kind}")
    tables: list[Table] = module.read(path)
    return tables


def _short_of_memory(error: Exception) -> bool:
    """Whether memory ran out, be it where a library was loaded."""
    if isinstance(error, ImportError):
        return any(said in str(error) for said in ("failed to map segment", "Cannot allocate memory"))
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def _failed(why: str) -> int:
    print(f"error: {' '.join(why.split())}", file=sys.stderr)
    return 1


def _limit_memory(gigabytes: float) -> None:
    try:
        import resource
    except ImportError:  # Windows has none
        return
    size = int(gigabytes * 2**30)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    sys.exit(main())
