"""One run of a sweep, wherever it is done: here in its folder, or elsewhere and back as bytes."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wmgym.app.recipes import RunConfig
from wmgym.app.run import run
from wmgym.data.units import Unit
from wmgym.io import artifacts
from wmgym.io.progress import Advance

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOG = "log.txt"
_LOG_BYTES = 1 << 18  # of a log, its end, that travel
_KEPT = ("config.json", "run.json", "report.json", "world", "policy")
"""What of a run comes back from another machine; its data and the state of its agent stay there."""


@dataclass(frozen=True)
class Order:
    """What to run.

    Attributes:
        config: ``RunConfig.to_dict``.
        key: names the run's scratch folder on another machine.
        place: its folder here; None where the files of this machine are not seen.
    """

    config: dict[str, Any]
    key: str
    place: Path | None


@dataclass(frozen=True)
class Done:
    """What a run came to.

    Attributes:
        row: its line of the sweep's table.
        ledger: real and imagined steps, seconds.
        made: SHA-256 of its world and its policy.
        error: why it failed, one line; empty where it did not.
        log: the end of what it printed.
        files: what it left, by path, where it was done on another machine.
    """

    row: dict[str, Any] = field(default_factory=dict)
    ledger: dict[str, float] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    error: str = ""
    log: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)


def do_run(unit: Unit[Order], advance: Advance) -> Done:
    """Run or continue a run; what goes wrong in it is an answer as well."""
    order = unit.item
    with contextlib.nullcontext(order.place) if order.place else _scratch(order.key) as place:
        place.mkdir(parents=True, exist_ok=True)
        out = place / "run"
        with _printing_to(place / LOG):
            done = _attempt(RunConfig(**order.config), out)
        log = _end_of(place / LOG)
        if order.place is not None:
            return Done(done.row, done.ledger, done.made, done.error, log)
        brought = {} if done.error else _gathered(out)
        if not done.error:  # a run that failed keeps what it has for another try
            shutil.rmtree(place, ignore_errors=True)
    return Done(done.row, done.ledger, done.made, done.error, log, brought)


def _attempt(config: RunConfig, out: Path) -> Done:
    try:
        result = run(config, out, workers=1, page=False, say=print)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        said = " ".join(str(error).split()) or type(error).__name__
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return Done(error=f"{kind}{said}")
    score = result.report[result.policy.name]
    row = {
        "policy": result.policy.name,
        "real_return": score.real_mean,
        "imagined_return": score.imagined_mean,
        "random_return": result.report["random"].real_mean,
        "gap": score.gap,
        "verdict": result.report.verdict.level if result.report.verdict else "",
    }
    made = {name: artifacts.digest(out / name) for name in ("world", "policy")}
    return Done(row, result.ledger, made)


@contextlib.contextmanager
def _scratch(key: str) -> Iterator[Path]:
    """A folder on this machine that an earlier attempt at the run may have left, or a new one."""
    with contextlib.ExitStack() as held:
        place = _claimed(key, held)
        yield place or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="wmgym-sweep-")))


def _claimed(key: str, held: contextlib.ExitStack) -> Path | None:
    """This user's folder of that name, unless another attempt is at work there."""
    if fcntl is None:
        return None
    home = Path(tempfile.gettempdir()) / f"wmgym-sweep-{os.getuid()}"
    try:
        home.mkdir(mode=0o700, exist_ok=True)
        if home.is_symlink() or home.stat().st_uid != os.getuid():  # somebody else's
            return None
        (home / key).mkdir(mode=0o700, exist_ok=True)
        lock = held.enter_context((home / key / "lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return None
    return home / key


def _gathered(out: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in _KEPT:
        place = out / name
        parts = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
        found |= {str(part.relative_to(out)): part.read_bytes() for part in parts}
    for part in sorted(out.rglob("learning*.json")):
        found[str(part.relative_to(out))] = part.read_bytes()
    return found


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_BYTES))
        return file.read()


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Send all that this process prints, C code included, to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    streams = sys.stdout, sys.stderr
    with path.open("ab", buffering=0) as file:
        try:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
            with (
                open(1, "w", errors="backslashreplace", closefd=False) as out,
                open(2, "w", errors="backslashreplace", closefd=False) as err,
            ):
                sys.stdout, sys.stderr = out, err
                yield
        finally:
            sys.stdout, sys.stderr = streams
            for descriptor, before in zip((1, 2), kept, strict=True):
                os.dup2(before, descriptor)
                os.close(before)
