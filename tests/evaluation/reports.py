"""Gap reports made up by hand: a world that is right in everything but what a test changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from scipy import stats

from wmgym.calibration.open_loop_rows import OpenLoopRow
from wmgym.evaluation.agreement import Agreement, Statistic
from wmgym.evaluation.findings import Alternative, Counterfactual
from wmgym.evaluation.gap_report import GapReport, PolicyScore

NAMES = ("a", "b", "c", "d", "e", "f")
ROWS = tuple(
    OpenLoopRow(h, 100, 0.01 * h, 0.02 * h, 0.03 * h, 0.9, 0.1 * h, 0.001, 1.0) for h in (1, 2, 4, 8)
)
LOGGED, OTHER = (
    Alternative("logged", 20, 0.1, 0.9, None, None),
    Alternative("random", 20, 0.12, 0.9, 0.95, 0.2),
)


def report(
    names: Sequence[str] = NAMES,
    real: Sequence[float] = (100.0, 80.0, 60.0, 40.0, 25.0, 10.0),
    gaps: Sequence[float] = (0.0,) * 6,
    half: float = 0.02,
    trained: Mapping[str, float] | None = None,
    coverage: float | None = 0.9,
    scores: Mapping[str, Mapping[str, Any]] | None = None,
    lineages: int | None = None,
    **changes: Any,
) -> GapReport:
    """Policies beside the random one, which earns 0.

    Args:
        half: half the width of a gap's interval.
        trained: gaps of policies trained in the world; None is one without a gap.
        scores: other fields of a policy's score, by its name.
    """
    entries = [_score(*each, half, coverage) for each in zip(names, real, gaps, strict=False)]
    inside = {"trained": 0.0} if trained is None else trained
    entries += [replace(_score(n, 50.0, g, half, coverage), trained_in_world=True) for n, g in inside.items()]
    entries.append(_score("random", 0.0, 0.0, half, coverage))
    entries = [replace(entry, **(scores or {}).get(entry.name, {})) for entry in entries]
    shown = [entry for entry in entries if entry.name in names]
    made: dict[str, Any] = {
        "env_id": "Toy-v0", "episodes": 20, "seed": 0, "scores": tuple(entries),
        "real_steps": 1, "imagined_steps": 1, "level": 0.9, "open_loop": ROWS,
        "agreement": _agreement(shown, lineages) if len(shown) >= 3 else None,
        "counterfactual": Counterfactual(8, (LOGGED, OTHER)),
    }  # fmt: skip
    return GapReport(**{**made, **changes})


def _agreement(scores: Sequence[PolicyScore], lineages: int | None) -> Agreement:
    """Spearman's correlation in place of every statistic, for the bootstrap of all takes a second."""
    real, imagined = [entry.real_mean for entry in scores], [entry.imagined_mean for entry in scores]
    rank = float(stats.spearmanr(real, imagined).statistic) if len(set(imagined)) > 1 else 0.0
    same = Statistic(rank, (rank - 0.2, min(rank + 0.2, 1.0)), (rank, rank))
    count = len(scores)
    return Agreement(count, count if lineages is None else lineages, *[same] * 9)


def _score(name: str, real: float, gap: float, half: float, coverage: float | None) -> PolicyScore:
    imagined = real + 100 * gap
    return PolicyScore(
        name=name, real_mean=real, real_interval=(real - 1, real + 1),
        imagined_mean=imagined, imagined_interval=(imagined - 1, imagined + 1),
        gap=gap, gap_interval=(gap - half, gap + half), real_length=50.0, imagined_length=50.0,
        diverged=0.0, coverage=coverage, stale=False,
        real_returns=(real, real), imagined_returns=(imagined, imagined),
        failed=0.0, failed_imagined=0.0,
    )  # fmt: skip
