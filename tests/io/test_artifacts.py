"""Artifacts through crashes and damage; run as a script, this file is the child that crash tests kill."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wmgym.io import files
from wmgym.io.artifacts import (
    StoreError,
    check_place,
    exists,
    read_directory,
    read_json,
    write_directory,
    write_json,
)

ROOT = Path(__file__).resolve().parents[2]
ARRAYS: dict[str, np.ndarray] = {
    "float32": np.array([[1.5, -0.0], [np.nan, np.inf]], np.float32),
    "int8": np.arange(3, dtype=np.int8),
}
DOCUMENT = {"name": "é", "numbers": [1, 2.5, None, True]}


def save(path: Path, value: int = 1) -> Path:
    return write_directory(path, kind="world", arrays={"a": np.full(4, value)}, document={"value": value})


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def assert_refused(action: Callable[[], object], match: str | None = None) -> None:
    """Expect a StoreError whose message is one line."""
    with pytest.raises(StoreError, match=match) as caught:
        action()
    assert "\n" not in str(caught.value)


# Round trips


@pytest.mark.parametrize("dtype", list("?bhiqBHIQefdF"))
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (5,), (2, 3, 4)])
def test_arrays_come_back_bit_for_bit(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    write_directory(tmp_path / "x", kind="world", arrays={"a": array}, document={})
    read = read_directory(tmp_path / "x", kind="world")[0]["a"]
    assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert read.flags.writeable
    assert read.flags.owndata


def test_nan_and_document_come_back(tmp_path: Path) -> None:
    assert (
        write_directory(str(tmp_path / "x"), kind="world", arrays=ARRAYS, document=DOCUMENT) == tmp_path / "x"
    )
    arrays, document = read_directory(str(tmp_path / "x"), kind="world")
    assert {name: array.tobytes() for name, array in arrays.items()} == {
        name: array.tobytes() for name, array in ARRAYS.items()
    }
    assert document == DOCUMENT


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(10)[::-3],
        np.arange(4, dtype=">f4"),
        np.broadcast_to(np.float32(2), (2, 2)),
    ],
)
def test_any_memory_layout_keeps_its_values(tmp_path: Path, array: np.ndarray) -> None:
    write_directory(tmp_path / "x", kind="world", arrays={"a": array}, document={})
    np.testing.assert_array_equal(read_directory(tmp_path / "x", kind="world")[0]["a"], array)


def test_no_arrays_and_an_empty_document_are_an_artifact(tmp_path: Path) -> None:
    write_directory(tmp_path / "x", kind="world", arrays={}, document={})
    assert read_directory(tmp_path / "x", kind="world") == ({}, {})


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    backwards = dict(reversed(ARRAYS.items()))
    write_directory(tmp_path / "x", kind="world", arrays=ARRAYS, document={"b": 1, "a": 2})
    write_directory(tmp_path / "y", kind="world", arrays=backwards, document={"a": 2, "b": 1})
    assert files_of(tmp_path / "x") == files_of(tmp_path / "y")


def test_overwriting_leaves_three_files_and_the_new_content(tmp_path: Path) -> None:
    for value in (1, 2, 2, 1):
        save(tmp_path / "x", value)
        assert len(files_of(tmp_path / "x")) == 3
        assert read_directory(tmp_path / "x", kind="world")[1] == {"value": value}


def test_exists_tells_a_complete_artifact_of_that_kind(tmp_path: Path) -> None:
    assert not exists(tmp_path / "x", kind="world")
    save(tmp_path / "x")
    assert exists(tmp_path / "x", kind="world")
    assert not exists(tmp_path / "x", kind="data")
    assert not exists(tmp_path / "x" / "manifest.json", kind="world")
    (tmp_path / "x" / "manifest.json").write_text("{}")
    assert not exists(tmp_path / "x", kind="world")


# Damage


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "x", kind="world", arrays=ARRAYS, document=DOCUMENT)


def damaged_versions(name: str, payload: bytes) -> Iterator[bytes]:
    """Yield the payload with each single byte changed, and with bytes lost and added."""
    for index, byte in enumerate(payload):
        substitutes = {byte ^ 1 << index % 8}
        if name == "manifest.json":
            substitutes |= {byte ^ 0x20, *b' 0"'} - {byte}
        for substitute in substitutes:
            yield payload[:index] + bytes([substitute]) + payload[index + 1 :]
    yield from (b"", payload[1:], payload[:-1], payload[: len(payload) // 2])
    for extra in (b"\n", b" ", b"\0", b"}"):
        yield payload + extra
        yield extra + payload


@pytest.mark.parametrize("prefix", ["manifest", "arrays", "document"])
def test_every_changed_byte_is_refused(artifact: Path, prefix: str) -> None:
    (file,) = artifact.glob(f"{prefix}*")
    intact = file.read_bytes()
    for damaged in damaged_versions(file.name, intact):
        file.write_bytes(damaged)
        assert_refused(lambda: read_directory(artifact, kind="world"))
    file.write_bytes(intact)
    read_directory(artifact, kind="world")


@pytest.mark.parametrize("prefix", ["manifest", "arrays", "document"])
def test_a_missing_file_is_refused(artifact: Path, prefix: str) -> None:
    (file,) = artifact.glob(f"{prefix}*")
    file.unlink()
    assert_refused(lambda: read_directory(artifact, kind="world"), "no wmgym artifact|is missing")


@pytest.mark.parametrize("prefix", ["manifest", "arrays", "document"])
def test_a_named_pipe_is_refused_and_not_waited_for(artifact: Path, prefix: str) -> None:
    (file,) = artifact.glob(f"{prefix}*")
    file.unlink()
    os.mkfifo(file)
    assert_refused(lambda: read_directory(artifact, kind="world"), "not a regular file")


def with_key(manifest: dict[str, Any]) -> None:
    manifest["extra"] = 1


def with_nested_key(manifest: dict[str, Any]) -> None:
    manifest["files"]["arrays"]["mode"] = 0o644


def without_key(manifest: dict[str, Any]) -> None:
    del manifest["files"]["document"]["size"]


def with_true_for_one(manifest: dict[str, Any]) -> None:
    manifest["version"] = True


def with_number_as_text(manifest: dict[str, Any]) -> None:
    manifest["files"]["arrays"]["size"] = str(manifest["files"]["arrays"]["size"])


def with_swapped_files(manifest: dict[str, Any]) -> None:
    files = manifest["files"]
    files["arrays"], files["document"] = files["document"], files["arrays"]


@pytest.mark.parametrize(
    "change",
    [
        with_key,
        with_nested_key,
        without_key,
        with_true_for_one,
        with_number_as_text,
        with_swapped_files,
    ],
)
def test_a_manifest_of_another_shape_is_refused(
    artifact: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    manifest = read_json(artifact / "manifest.json")
    change(manifest)
    write_json(artifact / "manifest.json", manifest)
    assert_refused(lambda: read_directory(artifact, kind="world"))


@pytest.mark.parametrize("name", ["../document.json", "./document.json", "document.json"])
def test_a_payload_of_another_name_is_refused(artifact: Path, name: str) -> None:
    manifest = read_json(artifact / "manifest.json")
    (artifact / manifest["files"]["document"]["name"]).rename(artifact / name)
    manifest["files"]["document"]["name"] = name
    write_json(artifact / "manifest.json", manifest)
    assert_refused(lambda: read_directory(artifact, kind="world"), "no file of document is named")


def test_a_manifest_in_another_form_is_refused(artifact: Path) -> None:
    manifest = read_json(artifact / "manifest.json")
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(lambda: read_directory(artifact, kind="world"), "canonical")


def test_a_manifest_that_is_no_json_is_called_damaged(artifact: Path) -> None:
    for text in ("[1]", "", "{"):
        (artifact / "manifest.json").write_text(text)
        assert_refused(lambda: read_directory(artifact, kind="world"), "manifest.json is damaged .*delete it")


def test_another_version_is_not_called_damaged(artifact: Path) -> None:
    write_json(artifact / "manifest.json", read_json(artifact / "manifest.json") | {"version": 2})
    assert_refused(lambda: read_directory(artifact, kind="world"), "another wmgym version")


def test_verified_bytes_that_are_no_safetensors_are_refused(artifact: Path) -> None:
    manifest = read_json(artifact / "manifest.json")
    payload = b"\x80\x04N."  # a pickle
    digest = hashlib.sha256(payload).hexdigest()
    name = f"arrays.{digest[:16]}.safetensors"
    manifest["files"]["arrays"] = {"name": name, "sha256": digest, "size": len(payload)}
    (artifact / name).write_bytes(payload)
    write_json(artifact / "manifest.json", manifest)
    assert_refused(lambda: read_directory(artifact, kind="world"), "no safetensors")


def test_another_kind_is_refused_for_reading_and_writing(tmp_path: Path) -> None:
    save(tmp_path / "x")
    before = files_of(tmp_path / "x")
    assert_refused(lambda: read_directory(tmp_path / "x", kind="data"), "'world', not a 'data'")
    assert_refused(
        lambda: write_directory(tmp_path / "x", kind="data", arrays={}, document={}), "'world', not a 'data'"
    )
    assert files_of(tmp_path / "x") == before


# Places and arguments that cannot be written


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert_refused(lambda: save(tmp_path), "is not empty and holds no wmgym artifact; choose another --out")
    assert files_of(tmp_path) == {"thesis.txt": b"precious"}


def test_a_foreign_manifest_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a browser extension"}')
    assert_refused(lambda: save(tmp_path), "damaged or foreign manifest.json; choose another --out")
    assert files_of(tmp_path) == {"manifest.json": b'{"name": "a browser extension"}'}


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    assert_refused(lambda: save(tmp_path / "file"), "File exists\\); choose another --out")
    assert_refused(lambda: save(tmp_path / "file" / "x" / "y"), "File exists")
    assert_refused(lambda: write_json(tmp_path / "file" / "x.json", {}), "File exists")
    assert_refused(lambda: write_json(tmp_path, {}), "cannot be written")
    assert_refused(lambda: read_directory(tmp_path / "file", kind="world"), "no wmgym artifact")
    assert files_of(tmp_path) == {"file": b"precious"}


def test_a_place_is_checked_before_any_work(tmp_path: Path) -> None:
    save(tmp_path / "world")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("precious")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("precious")
    for place in ("world", "empty", "new", "new/and/deep"):
        check_place(tmp_path / place, kind="world")
        check_place(str(tmp_path / place))
    check_place(tmp_path / "foreign")  # other files may go anywhere
    for place in ("file", "file/x", "file/x/y"):
        for kind in ("world", None):
            check = functools.partial(check_place, tmp_path / place, kind=kind)
            assert_refused(check, "no writable directory")
    check_place(tmp_path, names=("file", "other"))
    for name, why in {
        "empty": "is a directory",
        "": "is a directory",
        "..": "is a",
        "x" * 300: "too long",
    }.items():
        assert_refused(lambda name=name: check_place(tmp_path, names=("file", name)), f"{why}.* --out")
    assert_refused(lambda: check_place(tmp_path / "foreign", kind="world"), "no wmgym artifact.* --out")
    assert_refused(lambda: check_place(tmp_path / "world", kind="data"), "'world', not a 'data'.* --out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "foreign", "world"]


def test_a_full_disk_keeps_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "x", 1)
    before = files_of(tmp_path / "x")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert_refused(lambda: save(tmp_path / "x", 2), "No space left on device")
    assert files_of(tmp_path / "x") == before


@pytest.mark.parametrize("dtype", [object, "U3", "S3", np.complex128, "M8[s]", "V4"])
def test_arrays_that_are_not_plain_numbers_are_refused(tmp_path: Path, dtype: Any) -> None:
    array = np.zeros(2, dtype)
    assert_refused(
        lambda: write_directory(tmp_path / "x", kind="world", arrays={"a": array}, document={}), "dtype"
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("kind", "name"),
    [("World", "a"), ("", "a"), ("a/b", "a"), ("world", "__metadata__"), ("world", "\ud800")],
)
def test_impossible_names_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    assert_refused(
        lambda: write_directory(tmp_path / "x", kind=kind, arrays={name: np.zeros(1)}, document={})
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "document",
    [{"a": float("nan")}, {"a": [float("-inf")]}, {"a": np.float32(1)}, {"a": {1, 2}}, [1]],
)
def test_a_document_that_is_no_json_is_refused(tmp_path: Path, document: Any) -> None:
    assert_refused(
        lambda: write_directory(tmp_path / "x", kind="world", arrays={}, document=document), "JSON"
    )
    assert_refused(lambda: write_json(tmp_path / "x.json", document), "JSON")
    assert list(tmp_path.iterdir()) == []


# Single JSON files


def test_json_is_written_in_one_form(tmp_path: Path) -> None:
    path = write_json(tmp_path / "new" / "x.json", {"b": (1, 2.5), "a": "é"})
    assert path.read_text() == '{\n  "a": "\\u00e9",\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    assert read_json(str(path)) == {"a": "é", "b": [1, 2.5]}
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}',
        '{"a": -Infinity}',
        "[1]",
        "",
        '{"a": ',
        "\ufeff{}",
        '{"a": ' + "[" * 100_000,
        '{"a": ' + "1" * 5000 + "}",
    ],
    ids=lambda text: text[:16],
)
def test_loose_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert_refused(lambda: read_json(tmp_path / "x.json"), r"x.json is not a JSON object \(.+\); correct it")


def test_json_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'{"a": "\xff"}')
    assert_refused(lambda: read_json(tmp_path / "x.json"), "unicode")
    assert_refused(lambda: read_json(tmp_path / "y.json"), "y.json is missing")
    assert_refused(lambda: read_json(tmp_path), "not a regular file")


def test_a_system_without_file_locks_reads_and_writes(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "import gymnasium, numpy, wmgym\n"
        "from wmgym.io.artifacts import read_directory, write_directory\n"
        "write_directory(sys.argv[1], kind='world', arrays={'a': numpy.ones(2)}, document={'b': 1})\n"
        "assert read_directory(sys.argv[1], kind='world')[1] == {'b': 1}\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=True)
    assert len(files_of(tmp_path / "x")) == 3


# Leftovers


LEFT_OVER = ".tmp-0123456789abcdef"


def test_leftovers_are_swept_and_foreign_files_kept(tmp_path: Path) -> None:
    save(tmp_path / "x", 1)
    swept = {LEFT_OVER, "arrays.0123456789abcdef.safetensors", "document.0123456789abcdef.json"}
    kept = {".tmp-notes", "notes.txt", "arrays.safetensors", "document.1.json"}
    for name in swept | kept:
        (tmp_path / "x" / name).write_text("left over")
    save(tmp_path / "x", 2)
    names = set(files_of(tmp_path / "x"))
    assert names >= kept
    assert not names & swept
    assert len(names) == 3 + len(kept)
    assert read_directory(tmp_path / "x", kind="world")[1] == {"value": 2}


def test_a_first_save_may_follow_one_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / LEFT_OVER).write_text("left over")
    (tmp_path / "arrays.0123456789abcdef.safetensors").write_text("left over")
    save(tmp_path)
    assert len(files_of(tmp_path)) == 3


def test_write_json_sweeps_leftovers_too(tmp_path: Path) -> None:
    (tmp_path / LEFT_OVER).write_text("left over")
    write_json(tmp_path / "x.json", {})
    assert list(files_of(tmp_path)) == ["x.json"]


def test_writers_of_one_directory_wait_for_each_other(tmp_path: Path) -> None:
    """Else one could sweep what another is about to rename."""
    with files.writing(tmp_path) as replace, forked(lambda: write_json(tmp_path / "b.json", {})):
        time.sleep(0.2)
        assert files_of(tmp_path) == {}
        replace("a.json", b"{}")
    write_json(tmp_path / "b.json", {})
    assert list(files_of(tmp_path)) == ["a.json", "b.json"]


# Crashes and concurrency: the functions up to `main` run in child processes, which must stay light


def save_version(path: Path, version: int, rows: int = 1024) -> None:
    arrays = {f"layer{i}": np.full((rows, 64), version, np.float32) for i in range(4)}  # 1 MB in all
    write_directory(path, kind="world", arrays=arrays, document={"version": version})


def read_version(path: Path) -> int:
    arrays, document = read_directory(path, kind="world")
    version = document["version"]
    assert isinstance(version, int)
    assert len(arrays) == 4
    assert all((array == version).all() for array in arrays.values()), "mixture of versions"
    return version


def save_for_ever(path: Path, version: int, rows: int) -> None:
    while True:
        version += 1
        save_version(path, version, rows)


@contextlib.contextmanager
def forked(action: Callable[[], object]) -> Iterator[int]:
    """Run an action in a child process; kill and reap it at the end of the block."""
    process_id = os.fork()
    if process_id == 0:
        with contextlib.suppress(BaseException):
            action()
            os._exit(0)
        os._exit(1)
    try:
        yield process_id
    finally:
        os.kill(process_id, signal.SIGKILL)
        os.waitpid(process_id, 0)


def kill_at_random_moments(path: Path) -> None:
    moments = random.Random(0)
    start = time.monotonic()
    save_version(path, 1)
    duration = time.monotonic() - start
    version = 1
    for _ in range(20):
        before = version
        with forked(functools.partial(save_for_ever, path, before, rows=1024)):
            while version == before:  # its first save may take long on a busy machine
                version = read_version(path)
            time.sleep(moments.uniform(0.0, 2.0) * duration)
        after = read_version(path)
        assert after >= version
        version = after
    save_version(path, version)
    assert len(files_of(path)) == 3, "leftovers not swept"


def save_and_die(path: Path, version: int, step: int) -> None:
    """Save, but SIGKILL this process right before its `step`-th file operation."""
    remaining = step

    def count(event: str, args: tuple[object, ...]) -> None:
        nonlocal remaining
        if event in ("open", "os.rename", "os.remove", "os.listdir", "os.mkdir", "fcntl.flock"):
            remaining -= 1
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    save_version(path, version, rows=1)


def kill_before_every_step(path: Path) -> None:
    for before in (0, 1):  # 0: there is no old version yet
        outcomes = []
        for step in range(1, 100):
            target = path / f"{before}-{step}"
            if before:
                save_version(target, before, rows=1)
            process_id = os.fork()
            if process_id == 0:
                save_and_die(target, 2, step)
                os._exit(0)
            _, status = os.waitpid(process_id, 0)
            outcomes.append(read_version(target) if exists(target, kind="world") else 0)
            save_version(target, 3, rows=1)
            assert read_version(target) == 3
            assert len(files_of(target)) == 3, "leftovers not swept"
            if status == 0:
                break
        assert outcomes == sorted(outcomes), "an old version came back"
        assert set(outcomes) == {before, 2}
        assert len(outcomes) > 10


def read_while_others_write(path: Path) -> None:
    save_version(path, 1, rows=1)
    seen: set[int] = set()
    end = time.monotonic() + 1.5
    with forked(lambda: save_for_ever(path, 1, rows=1)), forked(lambda: save_for_ever(path, 10**6, rows=1)):
        while time.monotonic() < end or len(seen) < 10 or not min(seen) < 10**6 < max(seen):
            seen.add(read_version(path))
    save_version(path, 1, rows=1)
    assert read_version(path) == 1
    assert len(files_of(path)) == 3, "leftovers not swept"


SCENARIOS = (kill_at_random_moments, kill_before_every_step, read_while_others_write)


def main() -> None:
    name, path = sys.argv[1:]
    {scenario.__name__: scenario for scenario in SCENARIOS}[name](Path(path))
    assert "torch" not in sys.modules, "wmgym.io.artifacts must stay light"


@pytest.mark.parametrize("scenario", [scenario.__name__ for scenario in SCENARIOS])
def test_in_a_child_process(tmp_path: Path, scenario: str) -> None:
    command = [sys.executable, __file__, scenario, str(tmp_path / "x")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    finished = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr


if __name__ == "__main__":
    main()
