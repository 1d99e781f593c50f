"""The page of a reality gap, as one self-contained HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wmgym.data.collect import collect
from wmgym.data.pool import as_policies
from wmgym.evaluation.reality import RealityGap
from wmgym.evaluation.report.page import charts, render
from wmgym.evaluation.sides import sides
from wmgym.io import files

_TOLD = 500  # steps that tell how the observation shows the state


def write_gap(
    gap: RealityGap,
    path: str | os.PathLike[str],
    *,
    reality: Any = None,
    simulator: Any = None,
    policies: Any = None,
    made_by: Mapping[str, str] | None = None,
) -> Path:
    """Write a reality gap as one HTML file that needs no network, no server and no script.

    Args:
        gap: what ``wmgym.gap`` returned.
        path: the file to write.
        reality: the robot that was measured; with the simulator and the policies a video shows it and the
            simulator under the same commands, driven by the policy with the largest gap.
        simulator: as ``gap`` took it.
        policies: likewise.
        made_by: further provenance by name, such as the command.

    Raises:
        ImportError: jinja2 or matplotlib is missing.
        StoreError: the file cannot be written.
    """
    figures = charts()
    page = render(
        "gap.html.j2",
        gap=gap,
        said=str(gap.diagnosis).splitlines(),
        charts={
            "steps": figures.gap_by_steps(gap.by_steps),
            "dimensions": figures.gap_by_dimension(gap.dimensions),
        },
        video=_video(gap, reality, simulator, policies),
        made_by=made_by or {},
    )
    return files.write_bytes(path, page.encode())


def _video(gap: RealityGap, reality: Any, simulator: Any, policies: Any) -> dict[str, Any] | None:
    named = as_policies(policies, split=None) if policies is not None else {}
    rows = [row for row in gap.returns if row.policy in named]
    if reality is None or simulator is None or not rows:
        return None
    from wmgym.evaluation.report.video import DrawingError, record

    both = sides(reality, simulator)
    if both.robot.robot is not None:  # the layout was the measurement's own
        both = both.settled(collect(both.robot, episodes=1, max_episode_steps=_TOLD).task)
    worst = max(rows, key=lambda row: abs(row.gap)).policy
    try:
        made = record(both.filmed(), named[worst], gap.seed, 5.0)
    except DrawingError:  # the numbers stand without it
        return None
    return {"made": made, "label": f"{worst}: the robot, and the simulator under the same commands"}
