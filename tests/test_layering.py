"""Imports inside wmgym go one way, heavy ones stay where they belong, and nothing unpickles."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wmgym

PACKAGE = Path(wmgym.__file__).resolve().parent
RANK = {
    "io": 0, "tasks": 1, "data": 2, "models": 3, "calibration": 4, "envs": 4, "agents": 5, "evaluation": 5,
    "app": 6, "plan": 7, "sb3": 7, "__main__": 7, "__init__": 8,
}  # fmt: skip
"""Place of every package on the street: it imports from lower ones and from itself."""

LIGHT = (
    "io.artifacts", "io.progress", "tasks.task", "tasks.schema", "data.transitions", "data.rollout_worker",
    "data.collect", "data.policy", "data.pool",
)  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def unit(file: Path) -> str:
    """The package that a file belongs to."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


@functools.cache
def imports(file: Path) -> tuple[str, ...]:
    """Every dotted name that a file imports, wherever in it."""
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(), file.name)):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            assert node.module is not None
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(found)


def own_imports(file: Path) -> set[str]:
    """The packages of wmgym that a file imports; a re-exported name stands for its home."""
    found = set()
    for name in imports(file):
        parts = name.split(".")
        if parts[0] != "wmgym":
            continue
        if len(parts) == 1:
            found.add("__init__")
        elif parts[1] in RANK:
            found.add(parts[1])
        elif parts[1] != "__version__":
            found.add(wmgym._HOME[parts[1]].split(".")[0])
    return found


def module(file: Path) -> str:
    """The dotted name of a file."""
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(each) for each in FILES}


def module_imports(file: Path) -> set[str]:
    """The modules of wmgym that a file imports, wherever in it."""
    return {
        name if name in MODULES else name.rpartition(".")[0]
        for name in imports(file)
        if name.startswith("wmgym.")
    }


def foreign_imports(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)}


def imported_by(statement: str) -> set[str]:
    """Modules loaded in a fresh interpreter after a statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_the_top_has_at_most_eleven_names() -> None:
    """Nine packages, and two modules that give the public names of the agents' packages a short address."""
    top = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert len({name for name in top if not name.startswith("__")}) <= 11


def test_files_stay_short() -> None:
    lines = {str(file.relative_to(PACKAGE)): len(file.read_text().splitlines()) for file in FILES}
    assert max(lines.values()) <= 350
    assert len([name for name in lines if lines[name] > 300]) <= 3, lines


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down(file: Path) -> None:
    here = unit(file)
    assert here in RANK, f"give {here} a rank"
    for other in own_imports(file) - {here}:
        assert RANK[other] < RANK[here], f"{here} imports {other}"


def test_no_import_circle() -> None:
    arrows = {module(file): module_imports(file) for file in FILES}
    done: set[str] = set()
    while left := {name for name in arrows if name not in done}:
        ready = {name for name in left if arrows[name] - {name} <= done}
        assert ready, f"these import each other: {sorted(left)}"
        done |= ready


def test_the_ranks_tell_packages_apart() -> None:
    assert own_imports(PACKAGE / "data" / "transitions.py") == {"data", "io", "tasks"}
    assert "models" in own_imports(PACKAGE / "envs" / "vector_env.py")
    assert "agents" in own_imports(PACKAGE / "app" / "run.py")  # inside a function


@pytest.mark.parametrize(
    ("library", "homes"),
    [("mujoco", {"tasks"}), ("stable_baselines3", {"agents"}), ("sb3_contrib", {"agents"})],
)
def test_a_library_is_imported_in_its_one_place(library: str, homes: set[str]) -> None:
    assert {unit(file) for file in FILES if library in foreign_imports(file)} <= homes


def test_ray_is_imported_in_one_module_alone() -> None:
    """It can unpickle, which nothing may but what does units of work on it."""
    assert [file.name for file in FILES if "ray" in foreign_imports(file)] == ["ray_cluster.py"]
    users = {file.name for file in FILES if "wmgym.data.ray_cluster" in module_imports(file)}
    assert users == {"executors.py", "ray_executor.py"}


def test_light_modules_load_neither_torch_nor_mujoco() -> None:
    loaded = imported_by("import wmgym, " + ", ".join(f"wmgym.{name}" for name in LIGHT))
    assert {f"wmgym.{name}" for name in LIGHT} <= loaded
    assert not loaded & {"torch", "mujoco", "stable_baselines3", "matplotlib"}


def test_importing_wmgym_loads_little_and_fast() -> None:
    loaded = imported_by("import wmgym")
    assert not loaded & {
        "torch",
        "mujoco",
        "stable_baselines3",
        "scipy",
        "pydantic",
        "rich",
        "wmgym.tasks.task",
    }
    # Beyond NumPy, whose time is its own, and in processor time, for the machine may be busy otherwise.
    code = "import time, numpy; t = time.process_time(); import wmgym; print(time.process_time() - t)"
    best = float("inf")
    for _ in range(5):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        if (best := min(best, float(run.stdout))) < 0.3:
            break
    assert best < 0.3, f"import wmgym takes {best:.2f} s"


def test_every_public_name_is_there_and_has_one_home() -> None:
    assert set(wmgym.__all__) == {*wmgym._HOME, "plan", "sb3"}
    for name in wmgym.__all__:
        value = getattr(wmgym, name)
        assert name in ("plan", "sb3") or value.__module__.startswith(f"wmgym.{wmgym._HOME[name]}")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        wmgym.nonsense  # noqa: B018


def calls(tree: ast.AST) -> Iterator[str]:
    """Names of the functions called; reading tensors alone is another thing than unpickling."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            safe = any(
                word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords
            )
            yield ast.unparse(node.func) + safe * " of tensors"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nothing_unpickles_or_evaluates(file: Path) -> None:
    unpicklers = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "copyreg"}
    assert not foreign_imports(file) & unpicklers
    tree = ast.parse(file.read_text())
    refused = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "torch.jit.load"}
    refused |= {"torch.hub.load", "np.load", "np.save", "np.fromfile", "os.system", "os.popen"}
    assert not set(calls(tree)) & refused
    words = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert not words & {"allow_pickle", "shell"}
