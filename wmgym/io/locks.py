"""One process at a time in a directory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from wmgym.io import files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def alone(directory: Path, work: str, patience: float = 0.0) -> Iterator[None]:
    """Let one process at a time do such work in a directory, which is made where it is missing.

    The kernel lets go of its ``.lock`` when the process dies, however it dies. Without locks, as on Windows
    and some network file systems, nobody is kept out.

    Args:
        directory: where.
        work: what it is called in the error.
        patience: seconds to wait for another one, whose own processes may end a moment after it was killed.

    Raises:
        StoreError: another one is at it, or the directory cannot be written.
    """
    with contextlib.ExitStack() as held:
        with files.write_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((directory / ".lock").open("w"))
        until = time.monotonic() + patience
        while fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise files.StoreError(
                        f"another {work} is at work in {directory}; wait for it, or choose another --out"
                    ) from None
                time.sleep(0.1)
            except OSError:  # a file system without locks
                break
        yield
