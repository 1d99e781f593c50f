"""Everything that is written from the results: benchmark pages, world cards, the README's table.

python -m benchmarks pages            # write them
python -m benchmarks pages --check    # exit 1 where one is not what the results say
"""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import (
    cards,
    evaluation_tables,
    executor_tables,
    gradients,
    learning_tables,
    reality_tables,
    speed_tables,
    tables,
    verdict_tables,
)
from benchmarks.harness.results import ROOT
from wmgym.models.saving import MISSED_GATES, SHIPPED

TEMPLATES = Path(__file__).parent / "templates"
DOCS, README = ROOT / "docs", ROOT / "README.md"
WITH_TABLES = {README: ("headline",), DOCS / "guide" / "past_one_machine.md": ("executor_overheads",)}
"""Pages that people write, and the marked tables in them that are filled in."""
PAGES = (
    "index", "fidelity", "reality_gap", "gradients", "trust", "ranking", "prediction_powered", "speed",
    "executors", "training", "sample_efficiency", "ablation",
)  # fmt: skip
BLOCKS: dict[str, Callable[..., str]] = {
    made.__name__: made
    for made in (
        tables.headline, tables.targets, tables.counts, tables.machine, tables.open_loop, tables.return_gaps,
        tables.coverage, tables.signals, tables.demo, tables.training, tables.planning,
        speed_tables.engines, speed_tables.one_env, speed_tables.ways, speed_tables.on_gpu,
        tables.offline, tables.ablation, tables.inputs, tables.robots,
        evaluation_tables.rankings, evaluation_tables.ranked_policies, evaluation_tables.powered,
        evaluation_tables.families, executor_tables.executor_overheads,
        learning_tables.return_targets, learning_tables.other_targets, learning_tables.aggregates,
        learning_tables.race, learning_tables.by_minutes, learning_tables.all_seeds, learning_tables.chosen,
        learning_tables.recipes,
        gradients.return_gradients, gradients.gradients_by_contact, gradients.core_gradients,
        gradients.gradient_lengths, gradients.member_gradients, gradients.gradient_checks,
        gradients.gradient_trust,
        verdict_tables.verdicts, verdict_tables.exploitation,
        reality_tables.reality_errors, reality_tables.reality_returns, reality_tables.reality_coverage,
        reality_tables.reality_cost, reality_tables.detection_by_shift, reality_tables.fallback_gaps,
        reality_tables.hybrid_speed, reality_tables.retrained_scores,
    )
}  # fmt: skip
"""What a template may ask for, by name; words after the name are arguments."""
_MARKED = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(argv: list[str]) -> int:
    """Write or check; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks pages",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is stale")
    if parser.parse_args(argv).check:
        stale = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what the results say: run python -m benchmarks pages")
        return int(bool(stale))
    from benchmarks.harness import plots

    plots.draw_all(DOCS / "benchmarks" / "images")
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


def pages() -> dict[Path, str]:
    """Every page as it should be, by its file."""
    found = {DOCS / "benchmarks" / f"{name}.md": filled(name, BLOCKS) for name in PAGES}
    every = {env_id: filled("card", cards.blocks(env_id)) for env_id in cards.shipped()}
    for env_id, text in every.items():
        found[DOCS / "worlds" / f"{env_id}.md"] = found[SHIPPED / env_id / "README.md"] = text
    found[DOCS / "worlds" / "index.md"] = filled("worlds", cards.index_blocks(list(every)))
    found[MISSED_GATES] = json.dumps(cards.missed_gates(list(every)), indent=1) + "\n"
    for path, names in WITH_TABLES.items():
        found[path] = _MARKED.sub(functools.partial(_marked, names), path.read_text())
    return found


def _marked(names: tuple[str, ...], at: re.Match[str]) -> str:
    return f"{at[1]}{BLOCKS[at[2]]()}\n{at[3]}" if at[2] in names else at[0]


def filled(template: str, blocks: dict[str, Callable[..., str]]) -> str:
    """A template with every ``{{name argument ...}}`` replaced by what the block of that name gives."""

    def made(at: re.Match[str]) -> str:
        name, *arguments = at[1].split()
        return blocks[name](*arguments)

    text = (TEMPLATES / f"{template}.md").read_text()
    return re.sub(r"\{\{([^{}]+)\}\}", made, text)
