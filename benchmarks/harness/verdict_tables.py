"""Tables of the verdict and of exploitation, in Markdown from the result files."""

from __future__ import annotations

from benchmarks.harness.results import result_rows
from benchmarks.harness.tables import short, table

_KINDS = ("right", "wrong", "shipped")


def verdicts() -> str:
    """A row for each world that was judged: right ones, wrong ones, those that ship."""
    rows = sorted(result_rows("verdict"), key=lambda row: _KINDS.index(row["kind"]))
    head = ["world", "task", "verdict", "rules that failed", "rules without evidence", "Spearman",
            "mean absolute gap", "errors inside the bounds"]  # fmt: skip
    return table(head, [
        [row["world"], short(row["env"]), row["level"], ", ".join(row["failed"]) or "-",
         ", ".join(row["unknown"]) or "-", "-" if row["spearman"] is None else f"{row['spearman']:.2f}",
         f"{row['mean_gap']:.1%}", "-" if row["coverage"] is None else f"{row['coverage']:.0%}"]
        for row in rows
    ])  # fmt: skip


def exploitation() -> str:
    """A row for each policy that was trained in a shipped world."""
    rows = result_rows("exploitation", section="policy", trained=True)
    head = ["task", "algorithm", "imagined steps", "return in the world", "return in MuJoCo",
            "gap, share of the range [95 %]"]  # fmt: skip
    return table(head, [
        [short(row["env"]), row["policy"], f"{row['imagined_steps']:,}", f"{row['imagined']:,.0f}",
         f"{row['real']:,.0f}", f"{row['gap']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}]"]
        for row in rows
    ])  # fmt: skip


def of_shipped(env_id: str) -> list[tuple[str, str]]:
    """The verdict on a shipped world, for its card; none where it was not judged."""
    rows = result_rows("verdict", env=env_id, kind="shipped")
    return [(f"verdict over {row['policies']} policies",
             row["level"] + (f"; failed: {', '.join(row['failed'])}" if row["failed"] else "")
             + (f"; no evidence: {', '.join(row['unknown'])}" if row["unknown"] else ""))
            for row in rows]  # fmt: skip
