"""The finished stages of a run: what each made, so that nothing that has changed since is built upon."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wmgym.app.checks import settings_read
from wmgym.io import artifacts
from wmgym.io.artifacts import StoreError
from wmgym.io.files import MissingError
from wmgym.io.provenance import cpu_seconds, fingerprint
from wmgym.io.schema import Record, read_settings


class _Stage(Record):
    """What a finished stage leaves in its file.

    Attributes:
        noted: steps and seconds that it took.
        made: SHA-256 of each thing that it made, by its path from the file's directory.
        begins: fingerprint of all that the stages before it made and of the settings that it has read.
        seal: fingerprint of the other fields.
    """

    noted: dict[str, float]
    made: dict[str, str]
    begins: str
    seal: str


class Stages:
    """Does each stage once, and then checks that what it made is as it was.

    Attributes:
        ledger: real and imagined steps, wall-clock and CPU seconds, summed over the stages so far.
    """

    def __init__(
        self,
        out: Path,
        config: dict[str, Any],
        reads: Callable[[dict[str, Any], str], dict[str, Any]] = settings_read,
    ) -> None:
        """Begin; ``reads`` names the settings that the stage with a record reads."""
        self.ledger: dict[str, float] = {"real_steps": 0, "imagined_steps": 0, "wall_s": 0.0, "cpu_s": 0.0}
        self._out, self._config, self._reads, self._begins = out, config, reads, ""

    @contextmanager
    def stage(self, name: str, makes: Sequence[str]) -> Iterator[dict[str, float] | None]:
        """A unit of work: what it notes is timed and recorded; None where a record says that it is done.

        Args:
            name: its record is ``name.json`` in the run's directory.
            makes: files and artifacts that it leaves, from the record's directory on; patterns name all that
                are there.

        Raises:
            StoreError: it is done, but what it made is gone or has changed, or is of another run.
        """
        record = self._out / f"{name}.json"
        begins = fingerprint([self._begins, self._reads(self._config, f"{name}.json")])
        if record.exists():
            yield None
            done = self._read(record, begins, makes)
        else:
            noted: dict[str, float] = {}
            wall, cpu = time.perf_counter(), cpu_seconds()
            yield noted
            for key, spent in {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}.items():
                noted[key] = noted.get(key, 0.0) + spent
            noted = {key: float(value) for key, value in noted.items()}
            made = {path: artifacts.digest(record.parent / path) for path in _found(record.parent, makes)}
            body = {
                "noted": {key: float(value) for key, value in noted.items()},
                "made": made,
                "begins": begins,
            }
            done = _Stage(**body, seal=fingerprint(body))
            artifacts.write_json(record, done.model_dump())
        self._begins = fingerprint([begins, done.made])
        for key, value in done.noted.items():
            if key != "rollout_error":
                self.ledger[key] = self.ledger.get(key, 0) + (int(value) if key.endswith("steps") else value)

    def _read(self, record: Path, begins: str, makes: Sequence[str]) -> _Stage:
        again = f"delete {record} and what it names to do this stage again"
        try:
            document = artifacts.read_json(record)
        except StoreError as error:
            raise StoreError(f"{str(error).rpartition('; ')[0]}; {again}") from error  # with one cure alone
        try:
            done: _Stage = read_settings(_Stage, document, str(record))
        except ValueError as error:
            raise StoreError(f"{error}; {again}") from error
        if fingerprint({key: value for key, value in document.items() if key != "seal"}) != done.seal:
            raise StoreError(f"{record} has changed since the run wrote it; {again}")
        if done.begins != begins:
            raise StoreError(
                f"{record} is of a run with other settings, or what came before it was made anew; {again}"
            )
        for path in sorted({*done.made, *_found(record.parent, makes)}):
            place = record.parent / path
            try:
                same = artifacts.digest(place) == done.made.get(path)
            except MissingError:
                raise StoreError(f"{place} is missing; {again}") from None
            except StoreError as error:
                raise StoreError(f"{error}; {again}") from error
            if not same:
                raise StoreError(f"{place} is not what this run made; {again}")
        return done


def _found(folder: Path, makes: Sequence[str]) -> list[str]:
    """The paths that patterns stand for; a path without a pattern stands for itself."""
    found = []
    for path in makes:
        there = sorted(str(each.relative_to(folder)) for each in folder.glob(path)) if "*" in path else [path]
        found += there
    return found


def plain(value: Any) -> Any:
    """A setting as JSON can hold it; classes and functions by their names."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        return value.item()
    simple = value is None or isinstance(value, str | bool | int | float)
    return value if simple else getattr(value, "__qualname__", type(value).__qualname__)
