"""List the benchmarks, run one, or write the pages that show their results.

python -m benchmarks                                       # what there is
python -m benchmarks open_loop --env Hopper-v5 --quick     # a small sample on the shipped world
python -m benchmarks open_loop --help                      # what else it can do
python -m benchmarks pages [--check]                       # README's table, docs/benchmarks, docs/worlds
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent
PAGES = "pages"


def found() -> dict[str, Path]:
    """Every benchmark by name."""
    files = [
        HOME / "end_to_end.py",
        *(f for d in ("fidelity", "trust", "speed", "training") for f in (HOME / d).glob("*.py")),
    ]
    return {file.stem: file for file in sorted(files) if not file.stem.startswith("_")}


def question(file: Path) -> str:
    """The first line of a benchmark's description."""
    return (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()[0]


def listing() -> str:
    """One line a benchmark, by folder."""
    lines, last = [(__doc__ or "").strip(), ""], None
    for name, file in sorted(found().items(), key=lambda item: (item[1].parent != HOME, item[1])):
        if file.parent != last and file.parent != HOME:
            lines += ["", f"{file.parent.name}:"]
        last = file.parent
        lines.append(f"  {name:<20} {question(file)}")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run one command line; the exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(listing())
        return 0
    name, *rest = argv
    if name == PAGES:
        from benchmarks.harness import pages

        return pages.main(rest)
    if name not in found():
        print(
            f"no benchmark is called {name!r}; there are {', '.join(found())}, and {PAGES}", file=sys.stderr
        )
        return 2
    from benchmarks.harness import runner

    dotted = ".".join(found()[name].relative_to(HOME.parent).with_suffix("").parts)
    module = importlib.import_module(dotted)
    runner.main(name, module.__doc__ or "", module.BENCHMARK, rest)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
