"""Folders of runs, finished and killed, edited in one place: refused by name, or of the very same result."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import wmgym
from tools.attacks import forge
from tools.attacks.harness import Attempt

_QUICK: dict[str, Any] = {
    "learning_starts": 100, "train_freq": 50, "batch_size": 16, "gradient_steps": 2,
    "imagination_kwargs": {"rollout_batch": 16, "rollout_steps": 3},
    "world_kwargs": {"members": 2, "width": 8, "depth": 1, "batch_size": 32, "first_updates": 10,
                     "updates": 2},
    "policy_kwargs": {"net_arch": [8]},
}  # fmt: skip
_COMMON: dict[str, Any] = {
    "collect": {"calibration_steps": 100, "max_episode_steps": 25}, "evaluate": {"episodes": 2},
}  # fmt: skip
_WRITTEN_ANEW = ("report.html", "run.json", "events.out", "README.md")
"""Files that a run writes again at its end, or that nothing reads."""


def config(name: str, seed: int) -> wmgym.RunConfig:
    """A run that takes seconds: online, or in rounds."""
    if name == "online":
        train = {"algorithm": "DynaSAC", "steps": 250, "hyperparameters": _QUICK}
        return wmgym.RunConfig("InvertedPendulum-v5", seed, train=train, **_COMMON)
    rounds = [{"real_steps": 100, "fit_updates": 5, "imagined_steps": 64}] * 2
    train = {"algorithm": "PPO", "num_envs": 4, "hyperparameters": {"n_steps": 16, "batch_size": 16}}
    fit = {"members": 2, "width": 8, "depth": 1}
    return wmgym.RunConfig("InvertedPendulum-v5", seed, rounds=rounds, train=train, fit=fit, **_COMMON)


def attempts(rng: np.random.Generator, folder: Path, count: int) -> Iterator[Attempt]:
    """Each folder unedited, then edits of all of them in random order."""
    every: list[Attempt] = []
    for name in ("online", "rounds"):
        made = {seed: folder / f"{name}-{seed}" for seed in (0, 1)}
        for seed, out in made.items():
            if not (out / "run.json").exists():
                _run(config(name, seed), out)
        states = {"finished": made[0], "killed": folder / f"{name}-killed"}
        if not states["killed"].exists():
            _kill(config(name, 0), states["killed"])
        expected = _result(made[0])
        for state, base in states.items():
            target = folder / "edited"
            kind = f"run folder, {name}, {state}"

            def act(
                edit: Callable[[Path], object],
                base: Path = base,
                target: Path = target,
                name: str = name,
                expected: object = expected,
            ) -> tuple[str, str] | None:
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(base, target)
                edit(target)
                _run(config(name, 0), target)
                return None if _result(target) == expected else ("differs", "another result, without a word")

            yield Attempt(
                f"{kind}: unedited", "unedited", lambda act=act: act(lambda _: None), sound=True, seconds=60
            )
            for what, edit in _edits(rng, base, made[1]):
                every.append(
                    Attempt(kind, what, lambda act=act, edit=edit: act(edit), named=str(target), seconds=60)
                )
    for index in rng.permutation(len(every))[:count]:
        yield every[index]


def _run(settings: wmgym.RunConfig, out: Path, say: Callable[[str], None] | None = None) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        wmgym.run(settings, out, say=say)


def _kill(settings: wmgym.RunConfig, out: Path) -> None:
    """Leave a run that was stopped on the way."""
    said: list[str] = []

    def stop(text: str) -> None:
        said.append(text)
        if len(said) == (6 if settings.online else 1):
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        _run(settings, out, stop)


def _result(out: Path) -> dict[str, Any]:
    """What counts of a run: artifacts, report and steps."""
    report = json.loads((out / "report.json").read_text())
    report.pop("origin", None)
    ledger = json.loads((out / "run.json").read_text())["ledger"]
    return {
        "report": report,
        "steps": {key: value for key, value in ledger.items() if key.endswith("steps")},
        **{
            name: (out / name / "manifest.json").read_text()
            for name in ("world", "policy", "calibration-data")
        },
    }


Edit = tuple[str, Callable[[Path], object]]


def _edits(rng: np.random.Generator, base: Path, other: Path) -> Iterator[Edit]:
    """Edits of a folder; ``other`` is one of a run with another seed."""
    files = sorted(path.relative_to(base) for path in base.rglob("*") if path.is_file())
    for path in files:
        content = (base / path).read_bytes()
        if any(word in path.name for word in _WRITTEN_ANEW):
            continue
        yield f"{path} gone", lambda out, path=path: (out / path).unlink()
        at = int(rng.integers(max(len(content), 1)))
        flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] if content else b"x"
        yield f"{path} with a bit of {at} changed", _writer(path, flipped)
        yield f"{path} empty", _writer(path, b"")
        yield f"{path} is a folder", lambda out, path=path: ((out / path).unlink(), (out / path).mkdir())
        if (other / path).exists():
            yield f"{path} of another run", _writer(path, (other / path).read_bytes())
        if path.suffix == ".json" and path.name != "manifest.json":
            document = json.loads(content)
            places = [place for place in forge.places(document) if place]
            for index in rng.permutation(len(places))[:6]:
                place = places[index]
                changes = list(forge.mutations(forge.look(document, place)))
                how, value = changes[int(rng.integers(len(changes)))]
                text = forge.encode(forge.put(document, place, value))
                yield f"{path}: {forge.dotted(place)}: {how}", _writer(path, text)
    for folder in sorted({path.parent for path in files} - {Path()}):
        yield f"{folder} gone", lambda out, folder=folder: shutil.rmtree(out / folder)
        if (other / folder).exists():
            yield (
                f"{folder} of another run",
                lambda out, folder=folder: (
                    shutil.rmtree(out / folder), shutil.copytree(other / folder, out / folder)
                ),
            )  # fmt: skip


def _writer(path: Path, content: bytes) -> Callable[[Path], object]:
    return lambda out: (out / path).write_bytes(content)
