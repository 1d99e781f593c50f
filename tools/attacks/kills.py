"""Kill what writes at any moment: nothing is lost, what is done again is bit-equal, no process is left.

Each attempt runs one of the verbs in a process of its own, kills it, or one of its workers, by SIGKILL,
SIGTERM or Ctrl-C, and then looks: whatever was there before is there or has been replaced as a whole, and
within a second no process of that session is left. Then the same call runs to its end.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import wmgym
from tools.attacks.harness import Attempt
from wmgym.app import run as run_module
from wmgym.data.processes import end_with
from wmgym.io import artifacts
from wmgym.io.artifacts import StoreError

ENV = "InvertedPendulum-v5"
TINY = {"members": 2, "width": 8, "depth": 1, "max_updates": 20, "eval_every": 10}
PPO = {"n_steps": 16, "batch_size": 64, "n_epochs": 1}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_GONE_SECONDS = 1.0
_LONG = 60.0  # seconds of processor time

Wrong = tuple[str, str] | None


@dataclass(frozen=True)
class Verb:
    """One thing to kill.

    Attributes:
        act: does it, and leaves all that it makes in the folder.
        kept: what of it has to be bit-equal however often it was killed, as glob patterns.
        seconds: that it takes when nobody kills it.
        whole: those of its paths at which something whole has to be found, whenever it was killed.
        twice: kill it on its way again before it may end.
    """

    act: Callable[[Path], object]
    kept: tuple[str, ...]
    seconds: float
    whole: tuple[str, ...] = ()
    twice: bool = False


def attempts(rng: np.random.Generator, folder: Path, count: int) -> Iterator[Attempt]:
    """One verb after the other, each killed after a time drawn from what it takes."""
    torch.set_num_threads(1)  # a forked child would wait for the threads of its parent
    warnings.simplefilter("ignore")
    run_module._Run._page = lambda run: None  # type: ignore[method-assign]  # derived, and most of the time
    home = Path(tempfile.mkdtemp(dir=folder))
    verbs = dict(itertools.islice(_verbs(home), max(count, 1)))  # made as they are needed
    sound = {name: _kept(home / "sound" / name, verb.kept) for name, verb in verbs.items()}
    for index, name in zip(range(count), itertools.cycle(verbs), strict=False):
        verb, place = verbs[name], home / f"{index}"
        draws = rng.random(6)

        def act(name: str = name, verb: Verb = verb, place: Path = place, draws: np.ndarray = draws) -> Wrong:
            return _attempt(verb, place, sound[name], draws)

        yield Attempt(f"kill during {name}", f"{name}-{index}", act, seconds=_LONG)


def _attempt(verb: Verb, place: Path, sound: dict[str, bytes], draws: np.ndarray) -> Wrong:
    place.mkdir()
    if verb.whole:
        verb.act(place)  # something is there that the killed one replaces
    before = _kept(place, verb.whole)
    for at in range(1 + verb.twice):
        wrong = _kill(verb, place, draws[3 * at :])
        wrong = wrong or _lost(place, verb.whole, before)
        if wrong:
            return wrong
    verb.act(place)
    found = _kept(place, verb.kept)
    differs = [name for name in sound.keys() | found.keys() if sound.get(name) != found.get(name)]
    return ("differs", ", ".join(sorted(differs))) if differs else None


def _kill(verb: Verb, place: Path, draws: np.ndarray) -> Wrong:
    """Begin, wait, kill the process or one of its workers, and look for what is left of them."""
    delay, which, whom = draws[0] * verb.seconds, SIGNALS[int(draws[1] * len(SIGNALS))], draws[2]
    session = _forked(verb.act, place)
    ends = time.monotonic() + delay
    while time.monotonic() < ends and os.waitpid(session, os.WNOHANG) == (0, 0):
        time.sleep(min(0.002, delay))
    try:
        workers = _of_session(session) - {session}
        victim = min(workers) if workers and whom < 0.3 else session
        os.kill(victim, which)
    except ProcessLookupError:
        pass  # it had come to its end
    if not _waited(session, 30.0):
        os.killpg(session, signal.SIGKILL)
        return "hang", f"{which.name} did not end it"
    ends = time.monotonic() + _GONE_SECONDS
    while (left := _of_session(session)) and time.monotonic() < ends:
        time.sleep(0.01)
    for each in left:
        os.kill(each, signal.SIGKILL)
    return ("orphan", f"{len(left)} after {which.name}, {delay:.3f} s from the start") if left else None


def _forked(act: Callable[[Path], object], place: Path) -> int:
    """The process that does it, alone in its session."""
    parent = os.getpid()
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.setsid()
        end_with(parent)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        act(place)
        status = 0
    finally:
        os._exit(status)


def _waited(pid: int, seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return True
        except ChildProcessError:  # it had ended before the kill
            return True
        time.sleep(0.005)
    return False


def _of_session(session: int) -> set[int]:
    """Processes of a session that are not zombies."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                state, _, _, own = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:  # it ended meanwhile
                continue
            if int(own) == session and state != "Z":
                found.add(int(entry))
    return found


def _lost(place: Path, patterns: tuple[str, ...], before: dict[str, bytes]) -> Wrong:
    """What was there is there, or something whole in its stead."""
    gone = [name for name in before if not (place / name).exists()]
    if gone:
        return "lost", ", ".join(gone)
    for path in (path for pattern in patterns for path in place.glob(pattern)):
        try:
            _read(path)
        except StoreError as error:
            return "lost", str(error)
    return None


def _read(path: Path) -> None:
    if path.name == artifacts.MANIFEST:
        kind = artifacts.read_json(path)["kind"]
        artifacts.read_directory(path.parent, kind=kind)
    else:
        artifacts.read_json(path)


def _kept(place: Path, patterns: tuple[str, ...]) -> dict[str, bytes]:
    """Files by their names; a manifest stands for the arrays and the document whose hashes it holds."""
    paths = (path for pattern in patterns for path in place.glob(pattern))
    return {str(path.relative_to(place)): _untimed(path) for path in paths}


def _untimed(path: Path) -> bytes:
    """Content, but for the seconds that a report says it took."""
    document = artifacts.read_json(path)
    for name in ("wall_s", "cpu_s", "speed"):
        document.get("origin", {}).pop(name, None)
    return json.dumps(document).encode()


def _verbs(home: Path) -> Iterator[tuple[str, Verb]]:
    """Each verb, timed, and done once in ``home/sound``."""
    data = wmgym.collect(ENV, steps=200, seed=0, max_episode_steps=25, workers=1)
    world = wmgym.fit(data, wmgym.FitConfig(**TINY), 0)  # type: ignore[arg-type]
    settings = wmgym.TrainConfig("PPO", steps=512, num_envs=8, hyperparameters=PPO)
    config = wmgym.RunConfig(
        ENV,
        rounds=[{"real_steps": 60, "fit_updates": 10, "imagined_steps": 128}] * 2,
        collect={"calibration_steps": 50, "max_episode_steps": 25},
        fit={name: value for name, value in TINY.items() if name != "max_updates"},
        train={"algorithm": "PPO", "num_envs": 8, "hyperparameters": PPO},
        evaluate={"episodes": 2},
    )

    def save(place: Path) -> None:
        for _ in range(5):
            data.save(place / "data")
            world.save(place / "world")

    def collect(place: Path) -> None:
        limits: Any = {"steps": 2_000, "max_episode_steps": 25, "workers": 2}
        wmgym.collect(ENV, seed=1, **limits).save(place / "data")

    def fit(place: Path) -> None:
        wmgym.fit(data, wmgym.FitConfig(**TINY), 1).save(place / "world")  # type: ignore[arg-type]

    def train(place: Path) -> None:
        wmgym.sb3.to_policy(wmgym.train(world, settings, 1), "PPO").save(place / "policy")

    def score(place: Path) -> None:
        policy = wmgym.load_policy(home / "sound" / "train" / "policy")
        wmgym.score(world, {"PPO": policy}, 8, 1, max_episode_steps=25, workers=2).save(place / "report.json")

    def run(place: Path) -> None:
        wmgym.run(config, place / "run")

    manifests = ("*/manifest.json",)
    of_run = ("run/*/manifest.json", "run/*/*/manifest.json", "run/report.json")
    for name, act, kept, whole, twice in (
        ("save", save, manifests, manifests, False),
        ("collect", collect, manifests, manifests, False),
        ("fit", fit, manifests, manifests, False),
        ("train", train, manifests, manifests, False),
        ("score", score, ("report.json",), ("report.json",), False),
        ("run", run, of_run, (), False),
        ("resume", run, of_run, (), True),
    ):
        place = home / "sound" / name
        place.mkdir(parents=True)
        began = time.monotonic()
        act(place)
        yield name, Verb(act, kept, time.monotonic() - began, whole, twice)
