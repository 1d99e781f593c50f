"""Attack wmgym: changed artefacts, hostile zips, edited run folders, kills and hostile envs.

    python -m tools.attack                    # about 5 minutes; exit status 1 where anything went wrong
    python -m tools.attack --full             # all of it, about an hour
    python -m tools.attack --only artifacts   # one attack
    python -m tools.attack --full --write     # keep the table: benchmarks/results/attack.json and the page

The same seed tries the same things. What is accepted though changed is listed beside each attack, with why.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness.results import RESULTS, ROOT, Row, commit, hardware, read, target, write
from benchmarks.harness.tables import table
from tools.attacks.harness import WRONG, Attack, watch
from wmgym.io.provenance import library_versions

ATTACKS = {
    # attempts in the suite, by default and in full
    "artifacts": (40, 2_000, 12_000),
    "zips": (15, 250, 1_500),
    "runs": (2, 20, 300),
    "kills": (3, 42, 350),
}
"""Modules of ``tools.attacks``, and how many attempts each makes in a test, by default, and in full."""

PAGE = ROOT / "docs" / "develop" / "attack.md"


def attack(name: str) -> Attack:
    """What a module's ``attempts`` is."""
    found: Attack = importlib.import_module(f"tools.attacks.{name}").attempts
    return found


def measured(name: str, seed: int, count: int, show: bool = True) -> list[Row]:
    """A row for each kind of attempt that an attack makes, findings beside it."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        tried, findings = watch(attack(name), seed, Path(folder) / name, count)
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir(exist_ok=True)
    for finding in findings if show else ():
        print(f"{finding.wrong}: {finding.kind}: {finding.name}: {finding.detail}", flush=True)
    seconds = round(time.perf_counter() - began, 1)
    return [
        {"unit": name, "kind": kind, "tried": number, "wall_s": seconds}
        | {word: sum(f.kind == kind and f.wrong == word for f in findings) for word in WRONG}
        for kind, number in tried.items()
    ]


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was found."""
    found = []
    for name in ATTACKS:
        own = [row for row in rows if row["unit"] == name]
        if own:
            wrong = sum(row[word] for row in own for word in WRONG)
            found.append(
                target(f"{name}: {sum(row['tried'] for row in own):,} attempts", "0 wrong", wrong, not wrong)
            )
    return found


def shown(rows: list[Row]) -> str:
    """A Markdown table: what was tried and what went wrong."""
    body = [[row["kind"], f"{row['tried']:,}", *(str(row[word]) for word in WRONG)] for row in rows]
    return table(["what", "tried", *WRONG], body)


def main(argv: list[str] | None = None) -> int:
    """Run one command line; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="try everything")
    parser.add_argument("--only", choices=ATTACKS, action="append", help="one attack; repeat for several")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="attempts, in place of the attack's own number")
    parser.add_argument("--write", action="store_true", help="keep the rows in the result file and the page")
    given = parser.parse_args(argv)
    rows: list[Row] = []
    for name in given.only or ATTACKS:
        count = given.count or ATTACKS[name][2 if given.full else 1]
        rows += measured(name, given.seed, count)
    print(shown(rows))
    if given.write:
        keep(rows, given.seed)
    return int(any(row[word] for row in rows for word in WRONG))


def keep(rows: list[Row], seed: int) -> None:
    """Write the rows over those of the same attacks, and the page."""
    path, units = RESULTS / "attack.json", {row["unit"] for row in rows}
    old = read(path)["rows"] if path.exists() else []
    every = [row for row in old if row["unit"] not in units] + [{"commit": commit(), **row} for row in rows]
    every.sort(key=lambda row: list(ATTACKS).index(row["unit"]))
    document = {
        "command": "python -m tools.attack --full --write", "commit": commit(),
        "versions": library_versions(),
        "hardware": hardware(), "seeds": [seed], "rows": every, "targets": goals(every),
    }  # fmt: skip
    write(path, document)
    PAGE.write_text(page(every))


def page(rows: list[Row]) -> str:
    """The page with the table in place of the one that it holds."""
    begin, end = "<!-- table -->\n", "<!-- end -->"
    head, _, rest = PAGE.read_text().partition(begin)
    return f"{head}{begin}{shown(rows)}\n{end}{rest.partition(end)[2]}"


if __name__ == "__main__":
    sys.exit(main())
