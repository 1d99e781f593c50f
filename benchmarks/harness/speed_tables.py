"""Tables of the page about speed."""

from __future__ import annotations

from benchmarks.harness.metrics import break_even
from benchmarks.harness.results import Row, result_rows
from benchmarks.harness.tables import short, table, tasks

ENGINES = (
    ("Gymnasium env", False), ("SyncVectorEnv", False), ("AsyncVectorEnv", False), ("EnvPool", False),
    ("mujoco.rollout", False), ("network", False), ("WorldModel.step", False), ("ImaginedVectorEnv", False),
    ("ImaginedVectorEnv", True), ("ImaginedVecEnv", False),
)  # fmt: skip


def engines() -> str:
    """Steps per second of every engine at its best number of envs, on the same cores in one run."""
    result, rows = result_rows("throughput"), []
    for env_id in tasks("throughput"):
        best: dict[tuple[str, bool], Row] = {}
        for row in (r for r in result if r["env"] == env_id):
            key = row["engine"], row["precision"] == "bfloat16"
            if key not in best or best[key]["steps_per_s"] < row["steps_per_s"]:
                best[key] = row
        mine = [best.get(key) for key in ENGINES]
        rows.append(
            [short(env_id), *("" if r is None else f"{r['steps_per_s']:,.0f}" for r in mine),
             f"{best['ImaginedVectorEnv', False]['robot_years_per_day']:,.0f}",
             str(break_even(result, env_id) or "never")]
        )  # fmt: skip
    names = [f"`{name}`{' in bfloat16' if half else ''}" for name, half in ENGINES]
    return table(["task", *names, "robot-years a day", "break-even number of envs"], rows)


def one_env() -> str:
    """A row a task: a step, a PPO and a first step of a single env of either side."""
    head = [
        "task",
        "real step, us",
        "imagined step, us",
        "imagined / real",
        "PPO, imagined / real",
        "first step, s",
    ]
    found = {s: {r["env"]: r for r in result_rows("one_env", section=s)} for s in ("step", "ppo", "start")}
    rows = [
        [short(e), f"{r['real_us']:.0f}", f"{r['imagined_us']:.0f}", f"{r['ratio']:.2f}",
         f"{found['ppo'][e]['ratio']:.2f}" if e in found["ppo"] else "",
         f"{found['start'][e]['seconds']:.2f}" if e in found["start"] else ""]
        for e, r in found["step"].items()
    ]  # fmt: skip
    return table(head, rows) if rows else "Not measured yet."


def on_gpu() -> str:
    """A row a task: steps per second on the device at a small and at the best number of envs."""
    every = result_rows("gpu")
    few = min((r["num_envs"] for r in every if r["precision"] != "float64"), default=0)

    def best(env_id: str, engine: str, precision: str = "float32", num_envs: int | None = None) -> str:
        mine = [
            r["steps_per_s"] for r in every
            if (r["env"], r["engine"], r["precision"]) == (env_id, engine, precision)
            and num_envs in (None, r["num_envs"])
        ]  # fmt: skip
        return f"{max(mine) / 1e6:,.2f}"

    rows = [
        [short(e), best(e, "mujoco.rollout", "float64"), best(e, "ImaginedVectorEnv"),
         best(e, "to_torch, launched one by one", num_envs=few), best(e, "to_torch", num_envs=few),
         best(e, "to_torch"), best(e, "to_torch with a policy"),
         best(e, "to_torch with a policy", "bfloat16")]
        for e in dict.fromkeys(r["env"] for r in every)
    ]  # fmt: skip
    head = [
        "task", "`mujoco.rollout`, all cores", "`ImaginedVectorEnv`",
        f"`to_torch`, {few:,} envs, launched one by one", f"`to_torch`, {few:,} envs", "`to_torch`",
        "with a policy", "with a policy, bfloat16",
    ]  # fmt: skip
    cards = ", ".join(sorted({r["device"] for r in every}))
    return f"{table(head, rows)}\n\nThe GPU was one {cards}." if rows else "Not measured yet."


def ways() -> str:
    """A row a way to step, on one thread."""
    every = result_rows("one_env", section="ways")
    envs = list(dict.fromkeys(r["env"] for r in every))
    us = {(r["way"], r["env"]): r for r in every}
    rows = [
        [way, *(f"{us[way, e]['us']:.0f}" for e in envs), f"{max(us[way, e]['ready_s'] for e in envs):.2f}"]
        for way in dict.fromkeys(r["way"] for r in every)
    ]
    head = ["one step by", *(f"{short(e)}, us" for e in envs), "ready after, s"]
    return table(head, rows) if rows else "Not measured yet."
