"""Parse foreign files in a process of its own, with limits of time and memory."""

from __future__ import annotations

import glob
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wmgym.data.importers.table import Table, unpack
from wmgym.io.files import StrPath

KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".csv.gz": "csv",
    ".tsv.gz": "csv",
    ".npz": "npz",
    ".hdf5": "hdf5",
    ".h5": "hdf5",
    ".mcap": "mcap",
}
"""The formats of single files by suffix; data sets of Minari and LeRobot are folders."""

_OTHERWISE = "convert it to CSV, or read it yourself and pass arrays to wmgym.from_arrays"

MAX_SECONDS, MAX_GIGABYTES = 300.0, 8.0


def read_tables(
    paths: StrPath | Sequence[StrPath],
    max_seconds: float = MAX_SECONDS,
    max_gigabytes: float = MAX_GIGABYTES,
) -> list[Table]:
    """Every recording in these files, folders or patterns, in the order of their names.

    The parsers of foreign formats can hang or take all memory on a damaged file. They run in another
    process, which is killed past a limit and answers in numbers and JSON alone.

    Args:
        paths: files, data sets, folders of files, or patterns such as ``"logs/*.csv"``.
        max_seconds: time for all of them.
        max_gigabytes: memory of the parsing process.

    Raises:
        ValueError: nothing there, several formats at once, or a file that cannot be parsed within the limits.
    """
    found = [each for path in _listed(paths) for each in _files(path)]
    kinds = {kind for kind, _ in found}
    if len(kinds) > 1:
        raise ValueError(f"the files are of several formats ({', '.join(sorted(kinds))}); pass one at a time")
    task = {"files": found, "gigabytes": max_gigabytes, "parent": os.getpid()}
    try:
        done = _parse(task, max_seconds)
    except subprocess.TimeoutExpired as error:
        where = _last_path(error.stderr or b"", found)
        raise ValueError(
            f"{where} took more than {max_seconds:g} s to read; is it damaged? Else raise max_seconds"
        ) from None
    if done.returncode:
        where = _last_path(done.stderr, found)
        raise ValueError(f"{where}: {_reason(done.returncode, done.stderr, max_gigabytes)}")
    return unpack(done.stdout)


def _parse(task: Mapping[str, Any], max_seconds: float) -> subprocess.CompletedProcess[bytes]:
    """What a new process answers to this task."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "wmgym.data.importers.child"],
        input=json.dumps(task).encode(),
        capture_output=True,
        timeout=max_seconds,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # the same libraries
    )


def _listed(paths: StrPath | Sequence[StrPath]) -> list[Path]:
    found = []
    for each in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        text = os.fspath(each)
        if glob.has_magic(text) and not os.path.exists(text):
            matching = sorted(glob.glob(text))
            if not matching:
                raise ValueError(f"no file matches {text!r}; check the pattern")
            found += [Path(match) for match in matching]
        else:
            found.append(Path(text))
    if not found:
        raise ValueError("no files; pass at least one path")
    return found


def _files(path: Path) -> list[tuple[str, str]]:
    """Formats and absolute paths of what a path names."""
    where = os.path.realpath(path)
    if os.path.isfile(path):
        kind = _kind(path)
        if kind is None:
            raise ValueError(f"{path} has none of the suffixes {', '.join(KINDS)}; {_OTHERWISE}")
        return [(kind, where)]
    if not os.path.isdir(path):
        raise ValueError(f"{path} is no file or folder; check the path")
    if (path / "data" / "main_data.hdf5").is_file() or (path / "data" / "metadata.json").is_file():
        return [("minari", where)]
    if (path / "meta" / "info.json").is_file():
        return [("lerobot", where)]
    inside = sorted(each for each in path.iterdir() if each.is_file() and _kind(each))
    if not inside:
        raise ValueError(_without_logs(path))
    return [file for each in inside for file in _files(each)]


def _kind(path: Path) -> str | None:
    """The format that a file's name says."""
    return next((kind for suffix, kind in KINDS.items() if path.name.lower().endswith(suffix)), None)


def _without_logs(path: Path) -> str:
    """What a folder holds instead of files that can be read, and what to do."""
    deeper = [each for each in path.iterdir() if each.is_dir() and any(map(_kind, each.iterdir()))]
    if deeper:
        return f"{path} holds its files in further folders, such as {deeper[0].name}; pass '{path}/*'"
    found = sorted({each.suffix or each.name for each in path.iterdir()})
    if not found:
        return f"{path} is an empty folder; check the path"
    return (
        f"{path} holds only {', '.join(found[:5])}, none of {', '.join(KINDS)}, and is no known data set; "
        f"{_OTHERWISE}"
    )


def _last_path(said: bytes, files: Sequence[tuple[str, str]]) -> str:
    """The file that the child was at."""
    begun = [line[8:] for line in said.decode(errors="replace").splitlines() if line.startswith("reading ")]
    return begun[-1] if begun else files[0][1]


def _reason(code: int, said: bytes, gigabytes: float) -> str:
    lines = said.decode(errors="replace").splitlines()
    told = next((line[7:] for line in reversed(lines) if line.startswith("error: ")), None)
    if told is not None:
        return told
    if code == -signal.SIGKILL:
        return f"the parser was killed; is memory short? Its own limit is max_gigabytes={gigabytes:g}"
    if code < 0:
        return f"the parser crashed (signal {-code}); the file is damaged"
    return f"the parser failed: {lines[-1] if lines else 'no word'}"
