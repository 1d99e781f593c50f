"""Runs of a damped pendulum under a held torque, as a robot's logger would write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

HEADER = "t,q1,dq1,u,reward"
PERIOD = 0.02


def swing(x: np.ndarray, u: float, seconds: float) -> np.ndarray:
    """The state after some time, by Euler's method in small steps."""
    for _ in range(20):
        x = x + seconds / 20 * np.array([x[1], -4 * np.sin(x[0]) - 0.3 * x[1] + 5 * u])
    return x


def run(seed: int, rows: int = 120, jitter: float = 0.0) -> np.ndarray:
    """Rows of time, angle, speed, torque and reward; ``jitter`` is a share of the control period."""
    rng = np.random.default_rng(seed)
    x, t, u, found = rng.normal(size=2), 0.0, 0.0, []
    for i in range(rows):
        u = rng.uniform(-1, 1) if i % 5 == 0 else u
        found.append((t, *x, u, -float(x[0] ** 2)))
        period = PERIOD * (1 + rng.uniform(-jitter, jitter))
        x, t = swing(x, u, period), t + period
    return np.array(found)


def write_csv(path: Path, rows: np.ndarray | Sequence[Sequence[object]], header: str = HEADER) -> Path:
    """A CSV file."""
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path
