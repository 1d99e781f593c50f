"""What the system refuses, what other writers do, and what no file of ours holds."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import wmgym
from tools.attacks import forge
from wmgym.io import artifacts, files, locks
from wmgym.io.artifacts import (
    StoreError,
    check_place,
    read_directory,
    read_json,
    write_directory,
    write_json,
)


def test_without_locks_no_file_of_another_writer_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two containers on a network file system: a fresh file may be about to be renamed, or named."""

    def refuses(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, "no locks")

    monkeypatch.setattr(files.fcntl, "flock", refuses)
    fresh = [".tmp-0123456789abcdef", "arrays.0123456789abcdef.safetensors"]
    stale = [".tmp-fedcba9876543210", "document.0123456789abcdef.json"]
    for name in (*fresh, *stale):
        (tmp_path / name).write_bytes(b"")
    for name in stale:
        os.utime(tmp_path / name, (0, time.time() - 2 * 3_600))
    write_directory(tmp_path, kind="data", arrays={}, document={})
    assert set(fresh) <= {path.name for path in tmp_path.iterdir()}
    assert not set(stale) & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("given", [None, 3, b"x", ["a"]])
def test_what_is_no_path_is_one_line(given: Any) -> None:
    for call in (
        lambda: write_directory(given, kind="data", arrays={}, document={}),
        lambda: read_directory(given, kind="data"),
        lambda: write_json(given, {}),
        lambda: read_json(given),
        lambda: check_place(given),
        lambda: wmgym.load(given),
        lambda: wmgym.ImaginedEnv(given),
        lambda: wmgym.load_policy(given),
        lambda: wmgym.Transitions.load(given),
    ):
        with pytest.raises(StoreError, match=r"(a path is|a world is named by) .*got (None|3|b'x'|\['a'\])"):
            call()


def test_an_empty_path_is_not_the_current_directory() -> None:
    for call in (lambda: write_json("", {}), lambda: check_place(""), lambda: wmgym.load_policy("")):
        with pytest.raises(StoreError, match=r"^a path is empty; name a file or a directory"):
            call()


def test_one_process_at_a_time_and_a_killed_one_is_none(tmp_path: Path) -> None:
    out, (read, write) = tmp_path / "new" / "out", os.pipe()
    child = os.fork()
    if child == 0:
        with locks.alone(out, "test"):
            os.write(write, b"1")
            time.sleep(60)
        os._exit(0)
    try:
        os.read(read, 1)
        with (
            pytest.raises(StoreError, match=r"^another test is at work in .*out; wait for it"),
            locks.alone(out, "test"),
        ):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with locks.alone(out, "test"), pytest.raises(StoreError, match="at work"), locks.alone(out, "test"):
        pass
    with pytest.raises(StoreError, match="cannot be written"), locks.alone(out / ".lock", "test"):
        pass


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "x" * 300, "\0"], ids=["long", "long below", "NUL"])
def test_a_name_that_no_file_can_have_is_one_line(name: str, tmp_path: Path) -> None:
    for call in (
        lambda: write_directory(tmp_path / name, kind="data", arrays={}, document={}),
        lambda: read_directory(tmp_path / name, kind="data"),
        lambda: write_json(tmp_path / name, {}),
        lambda: read_json(tmp_path / name),
        lambda: check_place(tmp_path / name),
        lambda: wmgym.load(tmp_path / name),
        lambda: wmgym.load(name),
        lambda: wmgym.load_policy(tmp_path / name),
        lambda: wmgym.Transitions.load(tmp_path / name),
    ):
        with pytest.raises(StoreError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_full_disk_is_known_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match=r"cannot be written \(No space left"):
        check_place(tmp_path / "out")


def test_a_sparse_file_is_refused_by_its_size(tmp_path: Path) -> None:
    write_directory(tmp_path, kind="data", arrays={"a": np.zeros(3)}, document={})
    for path in tmp_path.iterdir():
        kept = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(1 << 40)
        with pytest.raises(StoreError, match="bytes"):
            read_directory(tmp_path, kind="data")
        path.write_bytes(kept)


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"a": NaN}', b"\xff", b"[" * 100_000])
def test_a_document_that_is_hashed_and_no_json_is_one_line_with_its_name(text: bytes, tmp_path: Path) -> None:
    forge.write(tmp_path, "data", safetensors.numpy.save({}), text)
    with pytest.raises(StoreError, match="JSON") as caught:
        read_directory(tmp_path, kind="data")
    assert str(tmp_path) in str(caught.value)


def test_a_digest_is_of_every_byte(tmp_path: Path) -> None:
    write_directory(tmp_path / "a", kind="data", arrays={"a": np.zeros(3)}, document={})
    first = artifacts.digest(tmp_path / "a")
    write_directory(tmp_path / "a", kind="data", arrays={"a": np.ones(3)}, document={})
    assert artifacts.digest(tmp_path / "a") != first
    next((tmp_path / "a").glob("arrays.*")).write_bytes(b"x")
    with pytest.raises(StoreError):
        artifacts.digest(tmp_path / "a")
