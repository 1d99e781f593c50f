"""Whether this machine has what wmgym needs, and what to do where it does not.

Whatever loads MuJoCo, torch or a GL driver runs in a child process with a time limit, so that neither a crash
nor a hang of theirs reaches the caller.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

Status = Literal["ok", "warn", "fail"]
_SECONDS = 60.0  # a child's time limit
_NEEDED_FOR = {"sb3": "training", "minari": "Minari data sets", "report": "HTML reports"}
"""Optional dependencies that users install; the others are the developers'."""

_GL_CURE = (
    "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri && export MUJOCO_GL=egl, "
    "or: apt-get install libosmesa6 && export MUJOCO_GL=osmesa"
)
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: what it is.
        status: "ok"; "warn" where something optional is missing or slow; "fail" where wmgym cannot work.
        detail: what was found, one line.
        cure: what to do, one line; empty where nothing needs to be done.
    """

    name: str
    status: Status
    detail: str
    cure: str = ""


Child: TypeAlias = Callable[[str, Mapping[str, str]], tuple[bool, str]]
"""Runs Python source under an environment; gives success and what it printed, or why it failed."""


def examine(environ: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
    """Look at everything; ``environ`` None takes this process's environment. Takes some seconds."""
    environ = dict(os.environ if environ is None else environ)
    return (
        *check_package(),
        check_stepping(environ),
        check_rendering(environ),
        check_threads(environ, usable_cores()),
        check_malloc(environ, platform.libc_ver()[0]),
        check_writable(Path.cwd()),
    )


def check_package() -> list[Finding]:
    """Python and the libraries against what the installed package asks for."""
    try:
        python = SpecifierSet(importlib.metadata.metadata("wmgym")["Requires-Python"])
        needed = importlib.metadata.requires("wmgym") or []
    except importlib.metadata.PackageNotFoundError:
        return [Finding("wmgym", "warn", "runs from a checkout, versions unchecked", "pip install -e .")]
    return [check_python(python, sys.version_info[:3]), *check_libraries(needed, installed_version)]


def installed_version(name: str) -> str | None:
    """The version of an installed library, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_python(supported: SpecifierSet, version: Sequence[int]) -> Finding:
    """Python's version."""
    found = ".".join(str(part) for part in version)
    if found in supported:
        return Finding("python", "ok", found)
    return Finding("python", "fail", f"{found}, supported is {supported}", f"install Python {supported}")


def check_libraries(needed: Iterable[str], version: Callable[[str], str | None]) -> list[Finding]:
    """Each library against requirements such as ``'a[b]>=1,<2; extra == "c"'``, developers' tools left out.

    A missing optional one is no failure.
    """
    wanted, found = [Requirement(line) for line in needed], dict[str, Finding]()
    for extra in ("", *_NEEDED_FOR):
        for each in wanted:
            name = each.name.lower()
            if name not in found and (each.marker is None or each.marker.evaluate({"extra": extra})):
                found[name] = _check_library(name, each.specifier, extra, version(name))
    return list(found.values())


def check_stepping(environ: Mapping[str, str], child: Child | None = None) -> Finding:
    """MuJoCo steps a Gymnasium env."""
    works, said = (child or run_child)(_STEP, environ)
    if works:
        return Finding("mujoco steps", "ok", said)
    return Finding("mujoco steps", "fail", said, "pip install --force-reinstall mujoco gymnasium")


def check_rendering(environ: Mapping[str, str], child: Child | None = None) -> Finding:
    """The first GL back end that renders: MUJOCO_GL's, a display's, EGL, OSMesa. Only videos need one."""
    chosen = environ.get("MUJOCO_GL", "") or ("glfw" if environ.get("DISPLAY") else "")
    tried: list[str] = []
    for backend in dict.fromkeys([*filter(None, [chosen]), "egl", "osmesa"]):
        works, said = (child or run_child)(_RENDER, {**environ, "MUJOCO_GL": backend})
        if works and backend == chosen:
            return Finding("rendering", "ok", f"{backend} works")
        if works:
            detail = "; ".join([f"{backend} works but is not chosen", *tried])
            return Finding("rendering", "warn", detail, f"export MUJOCO_GL={backend}")
        tried.append(f"{backend}: {said}")
    return Finding("rendering", "warn", "; ".join(tried), _GL_CURE)


def check_threads(environ: Mapping[str, str], cores: int, child: Child | None = None) -> Finding:
    """Torch loads, and its threads are no more than the cores this process may use."""
    works, said = (child or run_child)(_THREADS, environ)
    if not works:
        return Finding("threads", "fail", said, "pip install --force-reinstall torch")
    detail = f"{cores} usable cores, {said} torch threads"
    if int(said) > cores:
        return Finding(
            "threads", "warn", f"{detail}: they wait for each other", f"export OMP_NUM_THREADS={cores}"
        )
    return Finding("threads", "ok", detail)


def check_malloc(environ: Mapping[str, str], libc: str) -> Finding:
    """Glibc hands large tensors back to the kernel at once unless told not to, which slows CPU training."""
    other = [name for name in ("jemalloc", "tcmalloc", "mimalloc") if name in environ.get("LD_PRELOAD", "")]
    if libc != "glibc" or other:
        return Finding("malloc", "ok", other[0] if other else f"{libc or 'not glibc'}")
    missing = [
        name
        for name in _MALLOC
        if name not in environ
        and f"glibc.malloc.{name[7:-1].lower()}=" not in environ.get("GLIBC_TUNABLES", "")
    ]
    if not missing:
        return Finding("malloc", "ok", "glibc keeps large blocks")
    cure = "export " + " ".join(f"{name}={_MALLOC[name]}" for name in missing)
    return Finding("malloc", "warn", "glibc returns large blocks at once: slower in long CPU training", cure)


def check_writable(folder: Path) -> Finding:
    """The current folder takes files."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Finding("current folder", "ok", f"{folder} is writable")
    except OSError as error:
        return Finding("current folder", "fail", f"{folder}: {error.strerror}", "cd to a folder of your own")


def usable_cores() -> int:
    """Cores this process may use: its CPU affinity, cut by the container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        return cores


def run_child(source: str, environ: Mapping[str, str], seconds: float = _SECONDS) -> tuple[bool, str]:
    """Run Python source in a child; give success and the last line it printed, or why it failed."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _WRAPPER, source],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer in {seconds:.0f} s"
    except OSError as error:
        return False, f"cannot start Python ({error.strerror})"
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    if done.returncode < 0:
        return False, f"killed by signal {-done.returncode}"
    return done.returncode == 0, lines[-1] if lines else f"exit status {done.returncode}"


# Exits at once, since tearing a GL context down may crash or fill stderr.
_WRAPPER = """
import os, sys
try:
    exec(sys.argv[1])
    status = 0
except BaseException as error:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    print(reason if len(reason) <= 160 else reason[:157] + "...")
    status = 1
sys.stdout.flush()
os._exit(status)
"""
_STEP = """
import gymnasium, mujoco, numpy
env = gymnasium.make("HalfCheetah-v5")
env.reset(seed=0)
rows = [env.step(env.action_space.sample())[0] for _ in range(20)]
assert numpy.isfinite(rows).all(), "the observation is not finite"
print(f"mujoco {mujoco.__version__}: 20 steps of HalfCheetah-v5")
"""
_RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom size='.3'/></worldbody></mujoco>"
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 48, 64)
renderer.update_scene(data)
assert renderer.render().std() > 0, "the picture is blank"
print("renders")
"""
_THREADS = """
import torch
print(torch.get_num_threads())
"""


def _check_library(name: str, supported: SpecifierSet, extra: str, version: str | None) -> Finding:
    weight: Status = "warn" if extra else "fail"
    if version is None:
        detail = f"not installed{f', which {_NEEDED_FOR[extra]} needs' if extra else ''}"
        return Finding(
            name, weight, detail, f"pip install '{f'wmgym[{extra}]' if extra else f'{name}{supported}'}'"
        )
    if not supported.contains(version, prereleases=True):
        detail = f"{version}, supported is {supported}"
        return Finding(name, weight, detail, f"pip install '{name}{supported}'")
    return Finding(name, "ok", f"{version} ({supported or 'any version'})")
