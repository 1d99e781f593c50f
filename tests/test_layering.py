"""Imports inside wmgym go one way, heavy ones stay where they belong, and nothing unpickles."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wmgym

PACKAGE = Path(wmgym.__file__).resolve().parent
RANK = {
    "files": 0, "progress": 0, "rules": 0, "tasks": 0,
    "store": 1, "task": 1,
    "records": 2,
    "data": 3, "ledger": 3,
    "groundtruth": 4, "policy": 4,
    "streams": 2, "arrays": 3, "chart": 4, "collecting": 5, "dynamics": 5,
    "symmetry": 5, "calibration": 5.5, "support": 5.5, "world": 6,
    "optimising": 6,
    "archive": 7, "replaying": 7, "drift": 7.3, "calibrating": 7.5, "fitting": 7,
    "vector_env": 8,
    "env": 9,
    "sb3": 10, "scoring": 10,
    "recipes": 11,
    "pipeline": 12,
    "__init__": 13,
    "console": 14, "doctor": 14, "report": 14,
    "cli": 15,
    "__main__": 16,
}  # fmt: skip
"""Layer of every module and subpackage: it imports from lower ones, and a subpackage from itself."""

UPWARD = {("world", "archive")}  # WorldModel.save, inside the function
LIGHT = ("files", "store", "task", "tasks", "records", "data", "streams", "collecting", "policy", "progress")
FILES = sorted(PACKAGE.rglob("*.py"))


def unit(file: Path) -> str:
    """The module or subpackage that a file belongs to."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(file: Path) -> Iterator[str]:
    """Every dotted name that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(), file.name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(file: Path) -> set[str]:
    """The units of wmgym that a file imports; a re-exported name stands for its home."""
    found = set()
    for name in imports(file):
        parts = name.split(".")
        if parts[0] != "wmgym":
            continue
        if len(parts) == 1:
            found.add("__init__")
        elif (PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").exists():
            found.add(parts[1])
        elif parts[1] != "__version__":
            found.add(wmgym._HOME.get(parts[1], "__init__"))
    return found


def foreign_imports(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)}


def imported_by(statement: str) -> set[str]:
    """Modules loaded in a fresh interpreter after a statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down(file: Path) -> None:
    here = unit(file)
    assert here in RANK, f"give {here} a rank"
    for other in own_imports(file) - {here}:
        assert (here, other) in UPWARD or RANK[other] < RANK[here], f"{here} imports {other}"


def test_the_ranks_tell_layers_apart() -> None:
    assert own_imports(PACKAGE / "data.py") == {"store", "records", "task"}
    assert "world" in own_imports(PACKAGE / "env.py")
    assert "sb3" in own_imports(PACKAGE / "pipeline.py")  # inside a function


@pytest.mark.parametrize(
    ("library", "homes"),
    [("mujoco", {"groundtruth"}), ("stable_baselines3", {"sb3"}), ("sb3_contrib", {"sb3"})],
)
def test_a_library_is_imported_in_its_one_place(library: str, homes: set[str]) -> None:
    assert {unit(file) for file in FILES if library in foreign_imports(file)} <= homes


def test_light_modules_do_not_import_torch() -> None:
    for file in FILES:
        assert unit(file) not in LIGHT or "torch" not in foreign_imports(file), file


def test_light_modules_load_neither_torch_nor_mujoco() -> None:
    loaded = imported_by("import wmgym, " + ", ".join(f"wmgym.{name}" for name in LIGHT))
    assert {f"wmgym.{name}" for name in LIGHT} <= loaded
    assert not loaded & {"torch", "mujoco", "stable_baselines3", "matplotlib"}


def test_importing_wmgym_loads_little_and_fast() -> None:
    loaded = imported_by("import wmgym")
    assert not loaded & {"torch", "mujoco", "stable_baselines3", "scipy", "pydantic", "rich", "wmgym.task"}
    # Beyond NumPy, whose time is its own, and in processor time, for the machine may be busy otherwise.
    code = "import time, numpy; t = time.process_time(); import wmgym; print(time.process_time() - t)"
    best = float("inf")
    for _ in range(5):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        best = min(best, float(run.stdout))
    assert best < 0.3, f"import wmgym takes {best:.2f} s"


def test_every_public_name_is_there_and_has_one_home() -> None:
    assert set(wmgym.__all__) == {*wmgym._HOME, "drift", "groundtruth", "sb3"}
    for name in wmgym.__all__:
        value = getattr(wmgym, name)
        assert name in ("drift", "groundtruth", "sb3") or value.__module__.startswith(
            f"wmgym.{wmgym._HOME[name]}"
        )
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
