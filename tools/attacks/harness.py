"""Try things in a child process, watched: what was raised, how long it took and how much memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from wmgym.data.processes import end_with

WRONG = ("exception", "accepted", "hang", "memory", "lost", "differs", "orphan")
"""What can go wrong: another exception than a ValueError of one line that names the file; nonsense taken for
sound; more than 2 s of processor time; more than twice the memory of the sound artefact; an artefact gone; a
result that is not bit-equal; a process left behind."""

SECONDS, SLACK_MB = 2.0, 32.0
_WALL = 20.0  # times SECONDS, after which an attempt is killed, as the machine may be busy otherwise
_PREPARED = 600.0  # seconds of wall-clock time to make what is attacked
_ADDRESS_SPACE = 6 << 30  # bytes; what asks for more fails, and says so in its chain of errors
_NO_MEMORY = ("alloc", "memory")


@dataclass(frozen=True)
class Attempt:
    """One thing to try.

    Attributes:
        kind: row of the table.
        name: what is done, so that a finding can be repeated.
        act: does it. A ValueError is right where it is one line that holds ``named``; else None is right, and
            ``(one of WRONG, detail)`` is a finding.
        named: what the message of an error has to name.
        sound: nothing is changed; errors are findings, and the memory it takes is the measure for its kind.
        seconds: of processor time at most; of wall-clock time ten times as many.
    """

    kind: str
    name: str
    act: Callable[[], tuple[str, str] | None]
    named: str = ""
    sound: bool = False
    seconds: float = SECONDS


Attack = Callable[[np.random.Generator, Path, int], Iterator[Attempt]]
"""Attempts from a seed, the same ones every time: ``(rng, empty folder, about how many)``."""


@dataclass(frozen=True)
class Finding:
    """What went wrong with one attempt."""

    kind: str
    name: str
    wrong: str
    detail: str


def watch(attack: Attack, seed: int, folder: Path, count: int) -> tuple[dict[str, int], list[Finding]]:
    """Run all attempts; how many there were of each kind, and what went wrong.

    Where one kills or blocks the child, another child goes on with the next attempt.
    """
    tried: dict[str, int] = {}
    findings: list[Finding] = []
    at, context = 0, multiprocessing.get_context("fork")
    while True:
        receiver, sender = context.Pipe(duplex=False)
        folder.mkdir(parents=True, exist_ok=True)
        child = context.Process(target=_run, args=(attack, seed, folder, count, at, sender))
        child.start()
        sender.close()
        running: dict[str, Any] | None = None
        try:
            while receiver.poll(_PREPARED if running is None else running["seconds"] * _WALL):
                said = json.loads(receiver.recv_bytes())
                if "begun" in said:
                    running = said
                    continue
                running, at = None, at + 1
                tried[said["kind"]] = tried.get(said["kind"], 0) + 1
                if said["wrong"]:
                    findings.append(
                        Finding(**{key: said[key] for key in ("kind", "name", "wrong", "detail")})
                    )
            wrong = "hang"
        except EOFError:
            wrong = "exception"
        child.kill()
        child.join()
        if running is None:
            return tried, findings
        at += 1
        tried[running["kind"]] = tried.get(running["kind"], 0) + 1
        detail = "killed" if wrong == "hang" else f"the process died with {child.exitcode}"
        findings.append(Finding(running["kind"], running["begun"], wrong, detail))


def _run(attack: Attack, seed: int, folder: Path, count: int, skip: int, sender: Connection) -> None:
    end_with(os.getppid())
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    sound: dict[str, float] = {}
    for at, attempt in enumerate(attack(np.random.default_rng(seed), folder, count)):
        if at < skip and not attempt.sound:
            continue
        about = {"kind": attempt.kind, "seconds": attempt.seconds}
        if at >= skip:
            sender.send_bytes(json.dumps({"begun": attempt.name, **about}).encode())
        said = _tried(attempt, sound)
        if at >= skip:
            wrong, detail = said or ("", "")
            report = {"kind": attempt.kind, "name": attempt.name, "wrong": wrong, "detail": detail[:300]}
            sender.send_bytes(json.dumps(report).encode())


def _tried(attempt: Attempt, sound: dict[str, float]) -> tuple[str, str] | None:
    before, began = _memory("VmRSS", reset=True), time.process_time()
    try:
        said = attempt.act()
    except ValueError as error:
        said = _judged(error, attempt)
    except Exception as error:
        said = "exception", f"{type(error).__name__}: {error}"
    seconds, grown = time.process_time() - began, _memory("VmHWM") - before
    if attempt.sound:
        sound[attempt.kind] = grown
    if said is None and seconds > attempt.seconds:
        said = "hang", f"{seconds:.1f} s"
    most = 2 * sound.get(attempt.kind, grown) + SLACK_MB
    if said is None and grown > most:
        said = "memory", f"{grown:.0f} MB, and the sound one takes {sound[attempt.kind]:.0f} MB"
    return said


def _judged(error: ValueError, attempt: Attempt) -> tuple[str, str] | None:
    text, chain = str(error), _chain(error)
    if attempt.sound:
        return "exception", f"a sound one is refused: {text}"
    if any(isinstance(each, MemoryError) or _asked_too_much(each) for each in chain):
        return "memory", f"{chain[-1]}"
    if len(text.splitlines()) != 1 or attempt.named not in text:
        return "exception", f"not one line that names the file: {text}"
    return None


def _asked_too_much(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and all(word in str(error).lower() for word in _NO_MEMORY)


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found


def _memory(field: str, reset: bool = False) -> float:
    """MB that the kernel counts for this process; ``reset`` begins a new high-water mark."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))


def children() -> list[int]:
    """Process ids of this process's children."""
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(each) for each in text.split()]
