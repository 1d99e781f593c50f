"""Gap reports made up by hand: a world that is right but for what a test names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wmgym.evaluation.gap_report import GapReport, PolicyScore

NAMES = ("a", "b", "c", "d", "e", "f")


def report(
    names: Sequence[str] = NAMES,
    real: Sequence[float] = (100.0, 80.0, 60.0, 40.0, 20.0, 10.0),
    gaps: Sequence[float] = (0.0,) * 6,
    half: float = 0.02,
    episodes: int = 20,
    coverage: float | None = 0.9,
    stale: Sequence[str] = (),
    **changes: Any,
) -> GapReport:
    """Policies beside the random one, which earns 0; ``half`` is half the width of a gap's interval."""
    scores = [
        _score(name, mean, gap, half, coverage, name in stale)
        for name, mean, gap in zip((*names, "random"), (*real, 0.0), (*gaps, 0.0), strict=False)
    ]
    made: dict[str, Any] = {
        "env_id": "Toy-v0", "episodes": episodes, "seed": 0, "scores": tuple(scores),
        "real_steps": 1, "imagined_steps": 1,
    }  # fmt: skip
    return GapReport(**{**made, **changes})


def _score(
    name: str, real: float, gap: float, half: float, coverage: float | None, stale: bool
) -> PolicyScore:
    imagined = real + 100 * gap
    return PolicyScore(
        name=name, real_mean=real, real_interval=(real - 1, real + 1),
        imagined_mean=imagined, imagined_interval=(imagined - 1, imagined + 1),
        gap=gap, gap_interval=(gap - half, gap + half), real_length=50.0, imagined_length=50.0,
        diverged=0.0, coverage=coverage, stale=stale,
        real_returns=(real, real), imagined_returns=(imagined, imagined),
    )  # fmt: skip
