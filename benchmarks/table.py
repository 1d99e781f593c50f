"""Write the README's tables from ``benchmarks/results/*.json``, so that no number is typed by hand.

python benchmarks/table.py            # rewrite README.md between its markers
python benchmarks/table.py --check    # exit 1 where README.md is not what the results say
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

from common import RESULTS, ROOT

from wmgym import store

_BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    readme = ROOT / "README.md"
    text = readme.read_text()
    fresh = _BLOCK.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)
    if parser.parse_args().check:
        sys.exit(0 if fresh == text else "README.md is stale: run python benchmarks/table.py")
    readme.write_text(fresh)


def targets() -> str:
    result = store.read_json(RESULTS / "spine.json")
    rows = [
        [t["what"], t["target"], str(t["measured"]), "yes" if t["met"] else "**no**"]
        for t in result["targets"]
    ]
    machine = result["hardware"]
    note = f"\n{machine['cores']} CPU cores, {machine['cpu']}; `{result['command']}`.\n"
    return _table(["what", "target", "measured", "met"], rows) + note


def lines() -> str:
    result = store.read_json(RESULTS / "spine.json")
    rows = []
    for row in result["rows"]:
        if row["section"] == "run":
            real, imagined = (_mean(row, side) for side in ("real", "imagined"))
            sac = [r for r in result["rows"] if r["section"] == "sac" and _same(r, row)]
            rows.append(
                [row["env"], str(row["seed"]), f"{row['real_steps']:,.0f}", f"{row['imagined_steps']:,.0f}",
                 real, imagined, f"{100 * row['gap']:+.0f} %", f"{sac[0]['real_mean']:,.0f}" if sac else "",
                 f"{row['wall_s'] / 60:.1f} min"]
            )  # fmt: skip
    head = ["env", "seed", "real steps", "imagined steps", "real return", "imagined return", "gap",
            "SB3 SAC, same real steps", "wall time"]  # fmt: skip
    return _table(head, rows)


def speed() -> str:
    result = store.read_json(RESULTS / "spine.json")
    rows = [
        [row["env"], f"{row['imagined_steps_per_s']:,}", f"{row['mujoco_rollout_steps_per_s']:,}",
         f"{row['gymnasium_env_steps_per_s']:,}", f"{row['ratio']}x", str(row["break_even_num_envs"])]
        for row in result["rows"] if row["section"] == "throughput"
    ]  # fmt: skip
    head = ["env", "imagined steps/s, 1,024 envs", "`mujoco.rollout`, both cores", "one Gymnasium env",
            "ratio", "break-even number of envs"]  # fmt: skip
    return _table(head, rows)


def coverage() -> str:
    result = store.read_json(RESULTS / "spine.json")
    rows = [
        [row["mode"], str(row["seed"]), str(row["h"]), f"{100 * row['coverage']:.1f} %",
         f"{row['mean_half_width_in_std']:.2f}"]
        for row in result["rows"] if row["section"] == "coverage"
    ]  # fmt: skip
    return _table(
        ["mode", "seed", "steps ahead", "coverage of the 90 % bound", "half-width / data std"], rows
    )


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return (one["env"], one["seed"]) == (other["env"], other["seed"])


def _mean(row: dict[str, Any], side: str) -> str:
    low, high = row[f"{side}_interval"]
    return f"{row[f'{side}_mean']:,.0f} [{low:,.0f}, {high:,.0f}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


TABLES = {"targets": targets, "lines": lines, "speed": speed, "coverage": coverage}

if __name__ == "__main__":
    main()
