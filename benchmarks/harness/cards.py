"""World cards: what a user should know of a shipped world, from its document and the results."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import numpy as np

import wmgym
from benchmarks.harness import verdict_tables
from benchmarks.harness.bred import BRED_SEEDS, BRED_SHARES
from benchmarks.harness.results import result_rows
from benchmarks.harness.tables import mean_gap, table, times_to_half_std
from benchmarks.harness.worlds import LARGE, TASKS, WITH_COPIES, policies, small_ships
from wmgym.io import artifacts
from wmgym.io.registered import SHIPPED, SMALL

USELESS = 0.5  # return gap, share of the pool's range
GATES = dict.fromkeys(LARGE, 0.03) | {"Humanoid-v5": 0.1, "HumanoidStandup-v5": 0.1}
"""Largest return gap of held-out policies, share of the pool's range, of a world that ships; else 0.02."""
COVERED, HORIZON = 0.87, 32
"""Smallest share of errors inside the 90 % bound after so many steps."""


def shipped() -> list[str]:
    """Tasks whose world comes with the package."""
    return [env_id for env_id in TASKS if artifacts.exists(SHIPPED / env_id, kind="world")]


def blocks(env_id: str) -> dict[str, Callable[[], str]]:
    """What the template of a card asks for."""
    world = wmgym.load(SHIPPED / env_id)
    origin, bounds = world.provenance, world.calibration
    assert bounds is not None
    count = len(policies(env_id, "calibration"))
    bred = len(BRED_SEEDS.get(env_id, ())) * len(BRED_SHARES)
    facts = [*fidelity(env_id), *gap(env_id), *coverage(env_id), *sanity(env_id)]
    facts += [
        *verdict_tables.of_shipped(env_id),
        ("steps until the median bound passes 0.5 std", f"{bounds.trust_horizon(0.5):,}"),
        ("size", f"{size(env_id) / 1e6:.1f} MB"),
        ("fitted with", ", ".join(f"{name} {version}" for name, version in origin.versions.items())),
    ]
    missed = missed_gate(env_id)
    return {
        "env_id": lambda: env_id,
        "short": lambda: f"{textwrap.fill(f'**This world falls short: {missed}.**', 118)}\n\n" * bool(missed),
        "steps": lambda: f"{origin.steps:,}",
        "copies": lambda: ", of parameter-noise copies of them" if env_id in WITH_COPIES else "",
        "bred": lambda: ", of policies while they were trained" if "begin" in origin.fit else "",
        "others": lambda: "1 other policy" if count == 1 else f"{count} other policies",
        "trained": lambda: f", on {bred} trained in the world itself" * bool(bred),
        "small": lambda: small_facts(env_id),
        "facts": lambda: table(["what", "value"], [[what, value] for what, value in facts]),
        "warnings": lambda: "\n".join(warnings(env_id)),
    }


def missed_gate(env_id: str) -> str:
    """What a world that ships should be and is not, in a few words; empty where it is."""
    found = []
    known = result_rows("return_gap", env=env_id, section="gap")
    if known and (gap := mean_gap(env_id)) > GATES.get(env_id, 0.02):
        found.append(_wide_gap(gap, env_id))
    rows = result_rows("coverage", env=env_id, section="bound", propagation="member", h=HORIZON)
    if rows and (share := rows[0]["disagreement_coverage"]) < COVERED:
        found.append(f"its 90 % bounds hold for {share:.0%} of errors after {HORIZON} steps (aim: 90%)")
    return "; ".join(found)


def _wide_gap(gap: float, env_id: str) -> str:
    return (
        f"imagined returns of policies that it was not fitted to differ from real ones by {gap:.1%} of"
        f" their range (aim: {GATES.get(env_id, 0.02):.0%})"
    )


def missed_gates(envs: list[str]) -> dict[str, str]:
    """What each of these worlds, or its smaller twin, should be and is not."""
    found = {env_id: missed_gate(env_id) for env_id in envs}
    for env_id in filter(small_ships, envs):
        (row,) = result_rows("distilled", env=env_id, world="twin")
        if row["gap"] > GATES.get(env_id, 0.02):
            found[f"{env_id}{SMALL}"] = _wide_gap(row["gap"], env_id)
    return {name: missed for name, missed in found.items() if missed}


def small_facts(env_id: str) -> str:
    """A paragraph on the smaller twin, where one ships."""
    if not small_ships(env_id):
        return ""
    teacher, twin = (result_rows("distilled", env=env_id, world=w)[0] for w in ("teacher", "twin"))
    said = (
        f"A smaller twin ships as `wmgym/{env_id}{SMALL}`: it steps 1,024 envs "
        f"{teacher['step_ms'] / twin['step_ms']:.1f} times as fast. Measured side by side, on other "
        f"episodes than above, its error after 32 steps is {twin['error']:.3f} std, this world's "
        f"{teacher['error']:.3f}, and its return gap {twin['gap']:.1%}, this world's {teacher['gap']:.1%}."
    )
    return f"\n{textwrap.fill(said, 118, break_on_hyphens=False)}\n"


def index_blocks(envs: list[str]) -> dict[str, Callable[[], str]]:
    """What the template of the page that lists the cards asks for."""
    rows = []
    for env_id in envs:
        one = result_rows("coverage", env=env_id, section="bound", propagation="member", h=32)
        rows.append(
            [f"[{env_id}]({env_id}.md)", f"{times_to_half_std(env_id)['world']:.2f} s",
             f"{one[0]['disagreement_coverage']:.0%}", f"{mean_gap(env_id):.1%}",
             f"{size(env_id) / 1e6:.1f} MB"]
        )  # fmt: skip
    head = ["world", "median time until the error passes 0.5 std", "coverage of the 90 % bound, 32 steps",
            "return gap", "size"]  # fmt: skip
    return {"list": lambda: table(head, rows), "names": lambda: "\n".join(envs)}


def size(env_id: str) -> int:
    """Bytes of a shipped world's own files; its card is not one of them."""
    return sum(file.stat().st_size for file in (SHIPPED / env_id).iterdir() if file.suffix != ".md")


def fidelity(env_id: str) -> list[tuple[str, str]]:
    """Open-loop errors by horizon."""
    found = []
    for row in result_rows("open_loop", env=env_id, section="error", model="world"):
        h = row["h"]
        (hold,) = result_rows("open_loop", env=env_id, section="error", model="constant state", h=h)
        value = f"{row['error']:.3f} std; {row['error'] / hold['error']:.0%}"
        found.append((f"error after {after(h)}; relative to the constant-state baseline", value))
    return found


def after(steps: int) -> str:
    """A number of steps in words."""
    return "1 step" if steps == 1 else f"{steps:,} steps"


def gap(env_id: str) -> list[tuple[str, str]]:
    """Return gaps of the held-out policies."""
    gaps = [r["gap"] for r in result_rows("return_gap", env=env_id, section="gap", propagation="member")]
    if not gaps:
        return []
    value = f"{np.mean(np.abs(gaps)):.1%} of the pool's return range, widest {max(gaps, key=abs):+.1%}"
    return [(f"return gap over whole episodes, mean absolute, {len(gaps)} policies", value)]


def coverage(env_id: str) -> list[tuple[str, str]]:
    """How often the bound holds, by horizon."""
    rows = result_rows("coverage", env=env_id, section="bound", propagation="member")
    return [
        (f"the 90 % bound holds after {after(r['h'])}", f"{r['disagreement_coverage']:.0%}") for r in rows
    ]


def sanity(env_id: str) -> list[tuple[str, str]]:
    """How many imagined states no real robot is in."""
    rows = result_rows("sanity", env=env_id)
    if not rows:
        return []
    worst = max(r["outside_outer_bounds"] for r in rows)
    what = "states outside twice the range of real ones in 120 s, worst policy"
    return [(what, f"{worst:.2%}")]


def warnings(env_id: str) -> list[str]:
    """When not to trust the world."""
    found = [
        "- In states that no such policy visits. With `trust=True`, `distrust` and `novelty` in the infos say"
        " so."
    ]
    gaps = result_rows("return_gap", env=env_id, section="gap", propagation="member")
    if gaps:
        worst = max(gaps, key=lambda r: abs(r["gap"]))
        if mean_gap(env_id) > USELESS:
            found.append("- Any return: the gap is so wide that imagined returns do not even rank policies.")
        earned = f"{worst['real']:,.0f} in MuJoCo and {worst['imagined']:,.0f} in this world"
        found.append(f"- Single returns. The widest gap: `{worst['policy']}` earns {earned}.")
    time = times_to_half_std(env_id)
    if time:
        found.append(
            f"- Single trajectories beyond {time['world']:.1f} s: half of them are more than 0.5 std off by"
            " then."
        )
    contact = result_rows("open_loop", env=env_id, section="contact")
    if contact and contact[0]["f1"] < 0.95:
        found.append(
            "- Moments of contact: whether a foot touches the ground one step ahead is predicted with an F1"
            f" of {contact[0]['f1']:.2f}."
        )
    return [*found, "- With other env keywords, masses or MuJoCo versions: fit a world of your own."]
