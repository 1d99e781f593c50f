"""Tests of wmgym.doctor; a made-up child stands for machines that are not at hand."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from wmgym.app import doctor


def child_where(works: set[str], seen: list[str] | None = None) -> doctor.Child:
    """A machine on which these GL back ends render."""

    def run(source: str, environ: Mapping[str, str]) -> tuple[bool, str]:
        backend = environ["MUJOCO_GL"]
        if seen is not None:
            seen.append(backend)
        return (True, "renders") if backend in works else (False, "no library")

    return run


def saying(works: bool, text: str) -> doctor.Child:
    return lambda source, environ: (works, text)


@pytest.mark.parametrize(
    ("line", "version", "admitted"),
    [
        ("mujoco>=3.11,<3.12", "3.11.0", True),
        ("mujoco>=3.11,<3.12", "3.11.9.post1", True),
        ("mujoco>=3.11,<3.12", "3.12.0", False),
        ("mujoco>=3.11,<3.12", "3.12rc1", False),
        ("mujoco<3.12,>=3.11", "3.9.1", False),
        ("torch>=2.8,<3", "2.13.0+cpu", True),
        ("torch (>=2.8,<3)", "2.7.9", False),
        ("a~=1.4.2", "1.4.9", True),
        ("a~=1.4.2", "1.5", False),
        ("a==1.0", "1", True),
        ("a!=1.0", "1.0", False),
        ("a", "0.0.1", True),
    ],
)
def test_versions_are_compared_as_numbers(line: str, version: str, admitted: bool) -> None:
    (found,) = doctor.check_libraries([line], lambda name: version)
    assert found.status == ("ok" if admitted else "fail")


def test_extras_and_markers_are_read() -> None:
    lines = ['Minari[hdf5]<0.6,>=0.5.4; extra == "minari"', 'pytest; extra == "dev"']
    (found,) = doctor.check_libraries(lines, lambda name: "0.7")
    assert (found.name, found.status, found.detail) == ("minari", "warn", "0.7, supported is <0.6,>=0.5.4")
    both = doctor.check_libraries(['imageio>2; extra == "report"', "imageio>1"], lambda name: None)
    assert [(each.status, each.cure) for each in both] == [("fail", "pip install 'imageio>1'")]
    with pytest.raises(ValueError, match="Expected"):
        doctor.check_libraries(["a b"], lambda name: None)


def test_the_packages_own_requirements_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor.check_package()
    names = [each.name for each in found]
    assert names[0] == "python"
    assert {"mujoco", "gymnasium", "torch", "stable-baselines3"} <= set(names)
    assert not {"pytest", "wmgym"} & set(names)
    assert len(set(names)) == len(names)
    assert {each.status for each in found if each.name != "minari"} == {"ok"}

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", missing)  # a checkout on PYTHONPATH
    assert [(each.name, each.status) for each in doctor.check_package()] == [("wmgym", "warn")]


def test_libraries_missing_or_unsupported() -> None:
    needed = ["mujoco<3.12", 'minari; extra == "minari"']
    right, optional = doctor.check_libraries(needed, {"mujoco": "3.11.0"}.get)
    assert (right.status, optional.status) == ("ok", "warn")
    assert optional.cure == "pip install 'wmgym[minari]'"
    assert optional.detail == "not installed, which Minari data sets needs"
    wrong = doctor.check_libraries(needed, {"mujoco": "4.0", "minari": "0.5"}.get)[0]
    assert (wrong.status, wrong.cure) == ("fail", "pip install 'mujoco<3.12'")
    assert doctor.check_libraries(needed, lambda name: None)[0].status == "fail"


def test_old_python_fails() -> None:
    assert doctor.check_python(SpecifierSet(">=3.11"), (3, 11, 2)).status == "ok"
    assert doctor.check_python(SpecifierSet(">=3.11"), (3, 10, 9)).status == "fail"


@pytest.mark.parametrize(
    ("environ", "works", "tried", "status", "cure"),
    [
        ({"MUJOCO_GL": "egl"}, {"egl"}, ["egl"], "ok", ""),
        ({"MUJOCO_GL": "osmesa"}, {"osmesa", "egl"}, ["osmesa"], "ok", ""),
        ({"MUJOCO_GL": "osmesa"}, {"egl"}, ["osmesa", "egl"], "warn", "export MUJOCO_GL=egl"),
        ({}, {"egl", "osmesa"}, ["egl"], "warn", "export MUJOCO_GL=egl"),
        ({}, {"osmesa"}, ["egl", "osmesa"], "warn", "export MUJOCO_GL=osmesa"),
        ({"DISPLAY": ":0"}, {"glfw"}, ["glfw"], "ok", ""),
    ],
)
def test_rendering_names_the_back_end(
    environ: dict[str, str], works: set[str], tried: list[str], status: str, cure: str
) -> None:
    seen: list[str] = []
    found = doctor.check_rendering(environ, child_where(works, seen))
    assert (seen, found.status, found.cure) == (tried, status, cure)


def test_no_back_end_is_a_warning_with_the_packages_to_install() -> None:
    found = doctor.check_rendering({}, child_where(set()))
    assert found.status == "warn"
    for word in ("libegl1 libegl-mesa0 libgl1-mesa-dri", "MUJOCO_GL=egl", "libosmesa6", "MUJOCO_GL=osmesa"):
        assert word in found.cure
    assert "egl: no library" in found.detail


def test_more_torch_threads_than_cores_is_a_warning() -> None:
    assert doctor.check_threads({}, 2, saying(True, "2")).status == "ok"
    many = doctor.check_threads({}, 2, saying(True, "16"))
    assert (many.status, many.cure) == ("warn", "export OMP_NUM_THREADS=2")
    assert doctor.check_threads({}, 2, saying(False, "ImportError: torch")).status == "fail"
    assert doctor.usable_cores() >= 1


@pytest.mark.parametrize(
    ("environ", "libc", "status"),
    [
        ({}, "glibc", "warn"),
        ({"MALLOC_TRIM_THRESHOLD_": "1"}, "glibc", "warn"),
        ({"MALLOC_TRIM_THRESHOLD_": "1", "MALLOC_MMAP_THRESHOLD_": "1"}, "glibc", "ok"),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1:glibc.malloc.mmap_threshold=1"}, "glibc", "ok"),
        ({"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}, "glibc", "ok"),
        ({}, "", "ok"),
    ],
)
def test_malloc_hint(environ: dict[str, str], libc: str, status: str) -> None:
    found = doctor.check_malloc(environ, libc)
    assert found.status == status
    assert ("MALLOC_MMAP_THRESHOLD_=" in found.cure) == (status == "warn")


def test_current_folder(tmp_path: Path) -> None:
    assert doctor.check_writable(tmp_path).status == "ok"
    assert doctor.check_writable(tmp_path / "gone").status == "fail"


@pytest.mark.parametrize(
    ("source", "works", "said"),
    [
        ("print('noise'); print('answer')", True, "answer"),
        ("raise ValueError('a\\nb')", False, "ValueError: a b"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", False, "killed by signal 11"),
        ("import time; time.sleep(60)", False, "no answer in 1 s"),
    ],
)
def test_a_child_can_fail_in_any_way(source: str, works: bool, said: str) -> None:
    assert doctor.run_child(source, os.environ, seconds=1.0) == (works, said)


def test_this_machine_steps_without_loading_mujoco_here() -> None:
    source = (
        "import os, sys; from wmgym.app import doctor\n"
        "print(doctor.check_stepping(os.environ).status, bool({'torch', 'mujoco'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "ok False\n"
