"""Write the README's tables from ``benchmarks/results/*.json``, so that no number is typed by hand.

python benchmarks/table.py            # rewrite README.md between its markers
python benchmarks/table.py --check    # exit 1 where README.md is not what the results say
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from typing import Any

from common import RESULTS, ROOT, Row, break_even, result_rows

from wmgym.io import artifacts

PROMISED = (
    "known", "open_loop", "return_gap", "sanity", "calibration", "novelty", "fit_worlds", "throughput",
    "soak",
)  # fmt: skip
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
    result = artifacts.read_json(RESULTS / "spine.json")
    rows = [
        [t["what"], t["target"], str(t["measured"]), "yes" if t["met"] else "**no**"]
        for t in result["targets"]
    ]
    machine = result["hardware"]
    note = f"\n{machine['cores']} CPU cores, {machine['cpu']}; `{result['command']}`.\n"
    return _table(["what", "target", "measured", "met"], rows) + note


def lines() -> str:
    result = artifacts.read_json(RESULTS / "spine.json")
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
    result = artifacts.read_json(RESULTS / "spine.json")
    rows = [
        [row["env"], f"{row['imagined_steps_per_s']:,}", f"{row['mujoco_rollout_steps_per_s']:,}",
         f"{row['gymnasium_env_steps_per_s']:,}", f"{row['ratio']}x", str(row["break_even_num_envs"])]
        for row in result["rows"] if row["section"] == "throughput"
    ]  # fmt: skip
    head = ["env", "imagined steps/s, 1,024 envs", "`mujoco.rollout`, both cores", "one Gymnasium env",
            "ratio", "break-even number of envs"]  # fmt: skip
    return _table(head, rows)


def coverage() -> str:
    result = artifacts.read_json(RESULTS / "spine.json")
    rows = [
        [row["propagation"], str(row["seed"]), str(row["h"]), f"{100 * row['coverage']:.1f} %",
         f"{row['mean_half_width_in_std']:.2f}"]
        for row in result["rows"] if row["section"] == "coverage"
    ]  # fmt: skip
    return _table(
        ["propagation", "seed", "steps ahead", "coverage of the 90 % bound", "half-width / data std"], rows
    )


def promises() -> str:
    """Targets of every fidelity and trust benchmark beside what was measured."""
    rows = []
    for script in PROMISED:
        path = RESULTS / f"{script}.json"
        for t in artifacts.read_json(path)["targets"] if path.exists() else []:
            met = "" if t["target"] == "none set" else "yes" if t["met"] else "**no**"
            rows.append([t["what"], t["target"], _said(t["measured"]), met, f"`{script}.py`"])
    return _table(["what", "target", "measured", "met", "benchmark"], rows)


def fidelity() -> str:
    """One row an env: open-loop error as a share of holding the state, and the rest of a world's worth."""
    result, rows = artifacts.read_json(RESULTS / "open_loop.json")["rows"], []
    gaps, ceiling = result_rows("return_gap"), "MuJoCo, start off by 1e-3 std"
    for env_id in dict.fromkeys(r["env"] for r in result):
        mine = [r for r in result if r["env"] == env_id]
        error = {(r["model"], r["h"]): r["error"] for r in mine if r["section"] == "error"}
        time = {r["model"]: r["median_s"] for r in mine if r.get("threshold") == 0.5}
        f1 = [f"{r['f1']:.2f}" for r in mine if r["section"] == "contact"]
        gap = [
            abs(r["gap"])
            for r in gaps
            if (r["env"], r.get("propagation")) == (env_id, "member") and "gap" in r
        ]
        shares = [
            " / ".join(
                f"{error[model, h] / error['hold-last', h]:.2f}" if (model, h) in error else "-"
                for model in ("world", ceiling)
            )
            for h in (1, 8, 32, 128, 368)
        ]
        rows.append(
            [env_id, *shares, f"{time['world']:.2f} s / {time[ceiling]:.2f} s", *(f1 or [""]),
             f"{sum(gap) / len(gap):.1%}" if gap else ""]
        )  # fmt: skip
    head = ["env", *(f"h = {h}" for h in (1, 8, 32, 128, 368)), "time to 0.5 std", "contact F1", "return gap"]
    return _table(head, rows)


def engines() -> str:
    """Steps a second of every engine at its best number of envs, both sides on the same cores in one run."""
    result, rows = result_rows("throughput", device="cpu"), []
    for env_id in dict.fromkeys(r["env"] for r in result):
        best: dict[tuple[str, bool], Row] = {}
        for row in (r for r in result if r["env"] == env_id):
            key = row["engine"], row["precision"] == "bfloat16"
            if key not in best or best[key]["steps_per_s"] < row["steps_per_s"]:
                best[key] = row
        mine = [best.get(key) for key in _ENGINES]
        rows.append(
            [env_id, *("" if r is None else f"{r['steps_per_s']:,.0f}" for r in mine),
             f"{best['ImaginedVectorEnv', False]['robot_years_per_day']:,.0f}",
             str(break_even(result, env_id) or "never")]
        )  # fmt: skip
    names = [f"`{name}`{' in bfloat16' if half else ''}" for name, half in _ENGINES]
    return _table(["env", *names, "robot-years a day", "break-even number of envs"], rows)


_ENGINES = (
    ("Gymnasium env", False), ("SyncVectorEnv", False), ("AsyncVectorEnv", False), ("EnvPool", False),
    ("mujoco.rollout", False), ("network", False), ("WorldModel.step", False), ("ImaginedVectorEnv", False),
    ("ImaginedVectorEnv", True), ("ImaginedVecEnv", False),
)  # fmt: skip


def ablation() -> str:
    """Of the changes measured on three tasks or more, the five that move the error at h = 32 furthest."""
    rows = result_rows("ablation")
    envs = [*dict.fromkeys(r["env"] for r in rows)]
    error = {(r["change"], r["env"]): r["h=32"] for r in rows}
    ratio: dict[str, dict[str, float]] = {}
    for change, env_id in error:
        ratio.setdefault(change, {})[env_id] = error[change, env_id] / error["base", env_id]
    several = {change: found for change, found in ratio.items() if len(found) > 2}
    ranked = sorted(
        several, key=lambda change: -abs(sum(map(math.log, ratio[change].values())) / len(ratio[change]))
    )
    return _table(
        ["change", *(f"{e}, error after 32 steps" for e in envs)],
        [[c, *(f"x{ratio[c][e]:.2f}" if e in ratio[c] else "" for e in envs)] for c in ranked[:5]],
    )


def _said(measured: Any) -> str:
    if isinstance(measured, dict):
        return ", ".join(f"{str(key).removesuffix('-v5')} {_said(value)}" for key, value in measured.items())
    if isinstance(measured, list):
        return " / ".join(map(_said, measured))
    return f"{measured:.3g}" if isinstance(measured, float) else str(measured)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return (one["env"], one["seed"]) == (other["env"], other["seed"])


def _mean(row: dict[str, Any], side: str) -> str:
    low, high = row[f"{side}_interval"]
    return f"{row[f'{side}_mean']:,.0f} [{low:,.0f}, {high:,.0f}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


TABLES = {
    "targets": targets, "lines": lines, "speed": speed, "coverage": coverage, "fidelity": fidelity,
    "promises": promises, "engines": engines, "ablation": ablation,
}  # fmt: skip

if __name__ == "__main__":
    main()
