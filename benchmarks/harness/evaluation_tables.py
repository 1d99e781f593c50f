"""Tables of ranking, of prediction-powered estimates, and of other families of envs."""

from __future__ import annotations

from benchmarks.harness.results import Row, result_rows
from benchmarks.harness.tables import short, table, tasks


def rankings() -> str:
    """One row a task: agreement over all policies, its interval, and the range without any one policy."""
    statistics = ("spearman", "kendall", "mmrv", "regret_at_1", "absolute_error", "bias")
    rows = []
    for env_id in tasks("ranking"):
        found = {
            r["statistic"]: r for r in result_rows("ranking", section="agreement", env=env_id, which="all")
        }
        cells = []
        for name in statistics:
            low, high = found[name]["interval"]
            least, most = found[name]["drop_one"]
            cells.append(f"{found[name]['value']:.3f} [{low:.3f}, {high:.3f}], {least:.3f} to {most:.3f}")
        one = found["spearman"]
        rows.append([short(env_id), f"{one['policies']} ({one['lineages']})", *cells])
    head = [
        "task",
        "policies (independent)",
        "Spearman",
        "Kendall",
        "MMRV",
        "regret@1",
        "absolute error",
        "bias",
    ]
    return table(head, rows) if rows else "Not measured yet."


def ranked_policies() -> str:
    """One row a policy whose imagined return is furthest off, three a task."""
    rows = []
    for env_id in tasks("ranking"):
        mine = [r for r in result_rows("ranking", section="policy", env=env_id) if "imagined" in r]
        worst = sorted(mine, key=lambda r: -abs(r["imagined"] - r["real"]))[:3]
        rows += [
            [short(env_id), r["policy"], "yes" if r["held_out"] else "no",
             f"{r['real']:,.0f} ± {r['real_std']:,.0f}", f"{r['imagined']:,.0f}",
             f"{r['failed']:.0%}", f"{r['failed_imagined']:.0%}"]
            for r in worst
        ]  # fmt: skip
    head = ["task", "policy", "held out", "real return, std of an episode", "imagined return",
            "real episodes that end early", "imagined ones"]  # fmt: skip
    return table(head, rows) if rows else "Not measured yet."


def powered() -> str:
    """One row a policy: correlation, coverage, variance."""
    rows = [
        [short(r["env"]), r["policy"], f"{r['correlation']:.2f}", f"{r['coverage']:.1%}",
         f"{r['coverage_of_t']:.1%}", f"{r['variance']:.2f}", f"{r['width']:.2f}",
         f"{r['best_possible_of_mujoco']:.2f}"]
        for env_id in tasks("prediction_powered")
        for r in result_rows("prediction_powered", section="interval", env=env_id)
    ]  # fmt: skip
    head = ["task", "policy", "correlation", "coverage", "coverage of the t interval", "variance", "width",
            "least variance with MuJoCo as the world"]  # fmt: skip
    return table(head, rows) if rows else "Not measured yet."


def families() -> str:
    """One row an env of another family: gap of its controller, divergence and odd rewards, over seeds."""
    found: dict[str, list[Row]] = {}
    for row in (row for row in result_rows("inputs") if "family" in row):
        found.setdefault(row["env"], []).append(row)
    rows = []
    for env, each in found.items():
        mean = {key: sum(row[key] for row in each) / len(each) for key in ("real", "imagined", "diverged")}
        gap = sum(abs(row["gap"]) for row in each) / len(each)
        odd = [row["odd_rewards"] for row in each if row["odd_rewards"] is not None]
        rows.append([env, f"{each[0]['steps']:,}", str(len(each)), f"{mean['real']:,.1f}",
                     f"{mean['imagined']:,.1f}", f"{gap:.1%}", f"{mean['diverged']:.1%}",
                     f"{max(odd):.1%}" if odd else "regressed"])  # fmt: skip
    head = ["env", "steps", "seeds", "real return", "imagined", "gap", "diverged", "odd rewards"]
    return table(head, rows)
