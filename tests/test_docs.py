"""The docs say what is there: every public name has a place in the API reference, every code block runs."""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import wmgym
from wmgym.io import deprecation
from wmgym.tasks import registry

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    if "_build" not in page.relative_to(ROOT).parts
)
FENCE = re.compile(r"(?:<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<kind>[^\n`]*)\n(?P<text>.*?)^```$", re.M | re.S)
"""A fenced block and, on the line above, a comment: ``not run: why``, ``slow``, or ``file: name``."""
LONG = ("cli.md", "export.md", "own_logs.md", "past_one_machine.md", "plan.md", "quickstart.md")
"""Long pages, of commands or of what the README's code does as well; ``.ci/run`` runs them as printed."""

_SHORTER = (
    (r"\bmax_updates=[\d_]+", "max_updates=30"),
    (r"(\.collect\(.*)\bepisodes=\d+", r"\1episodes=2, max_episode_steps=100"),
)

SHOWN = {"text", "json"}  # blocks that only show what a command prints or a file holds


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    note: str

    @property
    def runs(self) -> bool:
        return not self.note.startswith("not run: ")


def blocks(page: Path) -> Iterator[Block]:
    for found in FENCE.finditer(page.read_text()):
        kind = found["kind"].strip()
        if not kind.startswith("{") and kind not in SHOWN:
            yield Block(kind, found["text"], found["note"] or "")


def shorter(code: str) -> str:
    """The same calls on fewer updates and episodes, which decide how good a world is and not what runs."""
    for found, instead in _SHORTER:
        code = re.sub(found, instead, code)
    return code


def examples() -> list[object]:
    """Pages with blocks that run, as parameters: shorter and without slow blocks, and all as printed."""
    found: list[object] = []
    for page in PAGES:
        running = [block for block in blocks(page) if block.runs]
        if page.name == "README.md" or not running:  # its own test reads what the README prints
            continue
        name, slow = str(page.relative_to(ROOT)), {block.note == "slow" for block in running}
        if page.name not in LONG and False in slow:
            found.append(pytest.param(page, False, id=name))
        if page.name in LONG or True in slow or any(shorter(block.text) != block.text for block in running):
            found.append(pytest.param(page, True, id=f"{name} as printed", marks=pytest.mark.slow))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_of_a_kind_that_runs_or_says_that_it_does_not(page: Path) -> None:
    for block in blocks(page):
        a_file = block.kind == "yaml" and block.note.startswith("file: ")
        assert a_file or block.kind in {"python", "bash"}, (
            f"name the language of a block, or show it as text:\n{block.text}"
        )
        assert max(map(len, block.text.splitlines())) <= 88, "a reader would have to scroll sideways"
        known = block.note in {"", "slow"} or block.note.startswith("file: ")
        assert known or not block.runs, f"what does the comment {block.note!r} mean?"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("page", "printed"), examples())
def test_every_block_runs(page: Path, printed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's blocks run in order: Python ones share names, all share a working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for folder in ("policies", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.setattr(registry, "TABLE", dict(registry.TABLE))  # a page may add a task
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if not block.runs or (block.note == "slow" and not printed):
            continue
        if block.note.startswith("file: "):
            (tmp_path / block.note.removeprefix("file: ")).write_text(block.text)
        elif block.kind == "python":
            exec(compile(block.text if printed else shorter(block.text), page.name, "exec"), names)
        else:
            command = ["bash", "-euo", "pipefail", "-c", block.text]
            done = subprocess.run(
                command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{block.text}\n{done.stdout[-2_000:]}\n{done.stderr[-2_000:]}"


def documented() -> set[str]:
    """Names that the API pages describe by hand."""
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    return set(re.findall(r"^\.\. auto(?:function|class|exception):: (\S+)$", text, re.M))


def test_every_public_name_has_a_place_in_the_api_reference() -> None:
    public = {f"wmgym.{name}" for name in wmgym.__all__ if name not in ("plan", "sb3")}
    public |= {f"wmgym.plan.{name}" for name in wmgym.plan.__all__}
    public |= {f"wmgym.sb3.{name}" for name in wmgym.sb3.__all__ if name not in wmgym.__all__}
    assert public - documented() == set()


def test_every_public_name_says_what_it_does() -> None:
    for name in documented():
        assert (pkgutil.resolve_name(name).__doc__ or "").strip(), name


def test_the_migration_page_knows_every_old_module() -> None:
    page = (DOCS / "develop" / "migration.md").read_text()
    rows = dict(re.findall(r"^\| `wmgym\.([\w.]+)` \| (.+) \|$", page, re.M))
    homes = deprecation.OLD_MODULES.items()
    assert rows == {old: ", ".join(f"`wmgym.{new}`" for new in there.split()) for old, there in homes}
