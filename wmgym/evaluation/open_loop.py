"""Judge a world by recorded episodes alone, where there is no env to score policies against."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wmgym.calibration import online
from wmgym.calibration.open_loop_rows import OpenLoopRow
from wmgym.data.layouts import laid_out
from wmgym.data.transitions import Transitions, refuse_other
from wmgym.evaluation.findings import Reason
from wmgym.evaluation.verdict import judge_bounds, judge_prediction, judge_rewards
from wmgym.io import artifacts
from wmgym.io.arguments import seed_number
from wmgym.io.schema import STRICT
from wmgym.models.dynamics import Propagation
from wmgym.models.saving import load
from wmgym.models.world import WorldModel


@dataclass(frozen=True)
class OpenLoopReport:
    """What a world makes of the actions of recorded episodes, against what was recorded.

    It says whether the world predicts what it was not fitted to, under the actions of these episodes. It does
    not say whether the world ranks other policies correctly.

    Attributes:
        episodes: recorded episodes that were compared.
        steps: transitions in them.
        level: probability with which each error bound is to hold.
        coverage: share of errors inside the bounds; every episode weighs the same.
        stale: whether that share is too small to be chance.
        open_loop: errors and bounds after 1, 2, 4, ... steps and after the last.
        reasons: what each rule says: failed ones first, then those that nothing is known of.
    """

    __pydantic_config__ = STRICT

    episodes: int
    steps: int
    level: float
    coverage: float
    stale: bool
    open_loop: tuple[OpenLoopRow, ...]
    reasons: tuple[Reason, ...]

    @property
    def passed(self) -> bool:
        """Whether every rule that the data can say something about is passed."""
        return all(reason.passed is not False for reason in self.reasons)

    def __str__(self) -> str:
        """The verdict, its reasons, and a line for each number of steps."""
        marks = {False: "-", None: "?", True: "+"}
        verdict = "predicts these episodes" if self.passed else "does not predict these episodes"
        lines = [f"{verdict} ({self.episodes} recorded, {self.steps:,} steps)"]
        lines += [f"{marks[each.passed]} {each.text}" for each in self.reasons]
        for row in self.open_loop:
            lines.append(
                f"after {row.steps:>4} steps: error {row.error:.3f} std, bound {row.bound:.3f}, inside "
                f"{row.coverage:.0%}, constant state {row.constant_state:.3f}"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {**asdict(self), "passed": self.passed}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write as a JSON file."""
        return artifacts.write_json(path, self.to_dict())


def score_open_loop(
    world: WorldModel | str | os.PathLike[str],
    data: Transitions,
    seed: int = 0,
    *,
    propagation: Propagation = "member",
) -> OpenLoopReport:
    """Judge a calibrated world by recorded episodes that ``fit`` and ``calibrate`` did not see; takes no env.

    Args:
        world: the world, or the directory of a saved one.
        data: recorded episodes.
        seed: decides the draws of propagation "sample".
        propagation: see ``WorldModel.step``.

    Raises:
        TypeError: ``data`` is a path or something else that is no ``Transitions``.
        ValueError: the world has no bounds, ``fit`` or ``calibrate`` saw some of the episodes, or the seed is
            no whole number.
    """
    refuse_other("score_open_loop", data)
    seed = seed_number(seed)
    world = world if isinstance(world, WorldModel) else load(world)
    if world.calibration is None:
        raise ValueError("this world has no error bounds; calibrate it first")
    data = laid_out(data, world.task)
    if data.core.shape[1] != world.task.core.dim:
        raise ValueError(f"the world has {world.task.core.dim} dimensions, the data {data.core.shape[1]}")
    seen = {*world.provenance.fingerprints, *world.calibration.fingerprints}
    new = set(data.fingerprints())
    known = seen & new
    if known and not (data.countable and known < new):
        raise ValueError(
            f"{len(known)} of these episodes were used by fit or calibrate; judge by others, such as the "
            "third part of data.split((0.6, 0.2, 0.2))"
        )
    found = online.check(world, data, propagation, seed)
    judged = {
        "prediction": judge_prediction(found.by_steps),
        "rewards": judge_rewards(found.by_steps),
        "error bounds": judge_bounds([found.coverage], found.level, ["these episodes"] * found.stale),
    }
    order = (False, None, True)
    reasons = sorted(
        (Reason(name, *said) for name, said in judged.items()), key=lambda r: order.index(r.passed)
    )
    return OpenLoopReport(
        found.episodes, len(data), found.level, found.coverage, found.stale, found.by_steps, tuple(reasons)
    )
