"""Every benchmark is listed, stands alone, uses public names, and is shown as it was measured."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import found, listing, question
from benchmarks.harness import pages, plots
from benchmarks.harness.results import KEYS, RESULTS, Units, by_unit, read, target, write
from benchmarks.harness.runner import announcement, minutes, parse

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [*found().values(), *(ROOT / "tools").glob("*.py")]
HARNESS = sorted((ROOT / "benchmarks" / "harness").glob("*.py"))
FILES = sorted(path for path in RESULTS.glob("*.json") if path.stem in found())  # attack.json is of tools


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(name: str) -> Any:
    return importlib.import_module(".".join(found()[name].relative_to(ROOT).with_suffix("").parts))


def test_every_benchmark_is_listed_with_a_question() -> None:
    said = listing()
    for name, file in found().items():
        assert f"  {name} " in said
        assert 20 < len(question(file)) <= 110
    folders = ("fidelity", "trust", "speed", "training")
    in_folders = {file.stem for d in folders for file in (ROOT / "benchmarks" / d).iterdir()}
    assert in_folders - {"__init__", "__pycache__"} < set(found())


def test_the_command_line_lists_and_refuses() -> None:
    command = [sys.executable, "-m", "benchmarks"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "open_loop" in listed.stdout
    refused = subprocess.run([*command, "speed"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "throughput" in refused.stderr


@pytest.mark.parametrize("file", SCRIPTS, ids=named)
def test_no_script_imports_another(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.split(".")[0] in ("benchmarks", "tools"):
                shared = ("benchmarks.harness", "tools.attacks")
                assert name.startswith(shared), f"{named(file)} imports {name}"


@pytest.mark.parametrize("file", [*SCRIPTS, *HARNESS], ids=named)
def test_no_private_names_and_no_patches(file: Path) -> None:
    """``_x`` of anything but ``self`` belongs to another module."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        private = isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr[1] != "_"
        if private and node.attr != "_get_obs":  # Gymnasium's, which has no public way to ask
            assert isinstance(node.value, ast.Name), ast.unparse(node)
            assert node.value.id in ("self", "cls"), f"{named(file)}: {ast.unparse(node)}"
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            assert not [name for name in names if name.startswith("_")], f"{named(file)}: {ast.unparse(node)}"
            assert node.module != "unittest.mock", f"{named(file)} patches"


@pytest.mark.parametrize("file", [*SCRIPTS, *HARNESS, ROOT / "benchmarks" / "__main__.py"], ids=named)
def test_a_file_is_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 350


@pytest.mark.parametrize("name", found())
def test_it_says_what_a_full_run_takes(name: str) -> None:
    module = module_of(name)
    benchmark = module.BENCHMARK
    need = ["--base", "."] if name == "compare" else []
    args = parse(name, module.__doc__, benchmark, [*need, "--env", benchmark.envs[0], "--quick"])
    said = announcement(name, benchmark, args)
    assert f"`python -m benchmarks {name} --env" in said
    assert benchmark.collects in said
    if (RESULTS / f"{name}.json").exists():
        assert " minute" in said
    with pytest.raises(SystemExit):
        parse(name, module.__doc__, benchmark, [*need, "--quick", "--fit"])


def test_minutes_count_the_fit() -> None:
    """Ant's unit in open_loop took under a minute, for its world was fitted before; the fit took 16."""
    (unit,) = [u for u in read(RESULTS / "open_loop.json")["units"] if u["unit"] == "Ant-v5"]
    assert unit["wall_s"] < 60
    assert minutes("open_loop", ["Ant-v5"], fits=True) > 15
    assert minutes("open_loop", ["Ant-v5"], fits=False) == 1


@pytest.mark.parametrize("file", FILES, ids=named)
def test_a_result_has_the_schema_and_each_row_once(file: Path) -> None:
    document = read(file)
    assert tuple(document) == KEYS
    units = [unit["unit"] for unit in document["units"]]
    assert len(set(units)) == len(units)
    for unit in document["units"]:
        assert {"unit", "commit", "wall_s", "cpu_s"} <= set(unit)
        assert "rows" not in unit
    assert {row["unit"] for row in document["rows"]} == set(units)
    rows = [json.dumps(row, sort_keys=True) for row in document["rows"]]
    assert len(set(rows)) == len(rows)
    for goal in document["targets"]:
        assert set(goal) == {"what", "target", "measured", "met"}
        assert not goal["what"].startswith("the same"), "a target is read alone"
    whats = [goal["what"] for goal in document["targets"]]
    assert len(set(whats)) == len(whats)


def test_targets_of_results_are_what_the_goals_say() -> None:
    for name in found():
        path = RESULTS / f"{name}.json"
        if path.exists():
            document = read(path)
            fresh = module_of(name).BENCHMARK.goals(document["rows"])
            assert json.loads(json.dumps(fresh)) == document["targets"], name


def test_units_resume_and_join_what_is_committed(tmp_path: Path) -> None:
    path, calls = tmp_path / "result.json", []

    def work(value: int) -> list[dict[str, int]]:
        calls.append(value)
        return [{"value": value}, {"value": -value}]

    def goals(rows: list[dict[str, int]]) -> list[dict[str, object]]:
        return [target("rows", "none set", len(rows), True)]

    units = Units("toy", tmp_path / "units", {"worlds": "shipped"})
    units.do("one", lambda: work(1))
    first = units.write(path, "command", goals, (0,))
    again = Units("toy", tmp_path / "units", {"worlds": "shipped"})
    again.do("one", lambda: work(1))
    assert calls == [1]
    other = Units("toy", tmp_path / "elsewhere", {})
    other.do("two", lambda: work(2))
    joined = other.write(path, "command", goals, (0,))
    assert [u["unit"] for u in joined["units"]] == ["one", "two"]
    assert joined["units"][0] == first["units"][0]
    assert [row["value"] for row in joined["rows"]] == [1, -1, 2, -2]
    assert read(path) == joined
    assert by_unit(joined)["one"]["rows"] == [{"value": 1}, {"value": -1}]
    alone = other.write(path, "command", goals, (0,), keep=False)
    assert [u["unit"] for u in alone["units"]] == ["two"]


def test_a_number_that_json_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "result.json", {"rows": [{"value": float("nan")}]})
    assert not (tmp_path / "result.json").exists()


@pytest.fixture(scope="module")
def made() -> dict[Path, str]:
    """Every page, as the results say."""
    return pages.pages()


def test_pages_are_what_the_results_say(made: dict[Path, str]) -> None:
    stale = [str(p) for p, text in made.items() if not p.exists() or p.read_text() != text]
    assert not stale, "run python -m benchmarks pages"


def test_every_picture_of_the_pages_is_there() -> None:
    folder = ROOT / "docs" / "benchmarks" / "images"
    names = {*plots.GRIDS, *plots.LEARNING, "ablation"}
    assert {file.stem for file in folder.iterdir()} == names
    for name in names:
        assert (folder / f"{name}.svg").stat().st_size < 500_000


def test_all_eleven_worlds_have_a_card(made: dict[Path, str]) -> None:
    cards = [p for p in made if p.parent == ROOT / "docs" / "worlds" and p.name != "index.md"]
    assert len(cards) == 11
