"""The reality gap as values: how a simulator differs from a robot, in states, in returns, and where first."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from wmgym.evaluation.agreement import Agreement
from wmgym.io import artifacts
from wmgym.io.schema import STRICT, Amount, Count, Interval, Share, from_json, refusing, to_json


@dataclass(frozen=True)
class StepGap:
    """Open-loop errors after a number of steps under the robot's own commands, in std of its states.

    Attributes:
        steps: since a real state.
        error: median over windows, mean over dimensions.
        error_90: 90 % quantile of it.
        constant_state: median error of keeping the first state.
        coverage: share of errors inside the simulator's bounds; None without bounds.
    """

    __pydantic_config__ = STRICT

    steps: Count
    error: Amount
    error_90: Amount
    constant_state: Amount
    coverage: Share | None


@dataclass(frozen=True)
class DimensionGap:
    """One dimension of the state: median errors after one step and after the last, in its std."""

    __pydantic_config__ = STRICT

    name: str
    one_step: Amount
    open_loop: Amount


@dataclass(frozen=True)
class ContactGap:
    """Steps that begin in one state of contact: which parts push, their number, and their errors in std."""

    __pydantic_config__ = STRICT

    contact: str
    windows: Count
    one_step: Amount
    open_loop: Amount


@dataclass(frozen=True)
class ReturnGap:
    """One policy on the robot and in the simulator, from the same start states.

    Attributes:
        policy: its name.
        real_mean: mean return on the robot.
        real_interval: its 95 % bootstrap interval.
        simulated_mean: mean return in the simulator.
        simulated_interval: likewise.
        gap: simulated minus real mean, as a share of the range of real means.
    """

    __pydantic_config__ = STRICT

    policy: str
    real_mean: float
    real_interval: Interval
    simulated_mean: float
    simulated_interval: Interval
    gap: float


@dataclass(frozen=True)
class Parting:
    """Where a simulator and the robot part first, in one window.

    Attributes:
        policy: that drove the robot.
        episode: its index in the data.
        start: step of the episode from which the simulator ran open loop.
        steps: after which the error of one dimension first exceeded the threshold.
        dimension: its name.
        error: of that dimension there, in its std.
        contact: which parts pushed at that moment; empty where nothing did, or where nobody knows.
        nearest: distance of the nearest real transition of the simulator's fit, in units of its usual
            distance, so that 3 is far from all data; None where it keeps none.
    """

    __pydantic_config__ = STRICT

    policy: str
    episode: Count
    start: Count
    steps: Count
    dimension: str
    error: Amount
    contact: str
    nearest: Amount | None


@dataclass(frozen=True)
class Diagnosis:
    """Where and when simulator and robot part, over all windows.

    Attributes:
        threshold: error of a dimension, in its std, that counts as parting.
        parted: share of windows that part within the horizon.
        steps: median number of steps until they do, of those.
        seconds: the same in seconds.
        dimensions: the dimensions that part first, most frequent first, with their share.
        contacts: likewise what pushed at that moment.
        worst: windows that part soonest.
    """

    __pydantic_config__ = STRICT

    threshold: Amount
    parted: Share
    steps: Amount | None
    seconds: Amount | None
    dimensions: tuple[tuple[str, float], ...]
    contacts: tuple[tuple[str, float], ...]
    worst: tuple[Parting, ...]

    def __post_init__(self) -> None:
        """Refuse a time of parting that is half there."""
        if (self.steps is None) != (self.seconds is None):
            raise ValueError("steps and seconds are there or are None together")

    def __str__(self) -> str:
        """A sentence, then the windows that part soonest."""
        if self.steps is None:
            return f"They do not part: no dimension is {self.threshold:g} std off within the horizon."
        unit = "step" if self.steps == 1 else "steps"
        lines = [
            f"{self.parted:.0%} of windows part ({self.threshold:g} std), after {self.steps:g} {unit} "
            f"({self.seconds:.2f} s) in the median; first in "
            + ", ".join(f"{name} {share:.0%}" for name, share in self.dimensions[:3])
            + ("; while " + ", ".join(f"{c} {s:.0%}" for c, s in self.contacts[:3]) if self.contacts else "")
        ]
        for each in self.worst[:3]:
            near = "" if each.nearest is None else f", nearest real data {each.nearest:.1f}x as far as usual"
            where = f", {each.contact}" if each.contact else ""
            lines.append(
                f"  {each.policy}, episode {each.episode}, from step {each.start}: {each.dimension} is "
                f"{each.error:.2f} std off after {each.steps}{where}{near}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class RealityGap:
    """How a simulator differs from a robot.

    Attributes:
        reality: what the robot is.
        simulator: what the simulator is.
        transitions: of the robot that were replayed.
        windows: stretches of them, each replayed open loop.
        horizon: steps of a window.
        seed: decided everything random.
        by_steps: errors after 1, 2, 4, ... steps.
        dimensions: largest open-loop error first.
        contacts: by what pushes at a window's start, most frequent first; empty where nobody knows.
        returns: best real mean first; empty where no policy was run.
        agreement: how well the simulator ranks the policies; None for fewer than three.
        diagnosis: where the two part.
        real_steps: steps of the robot that this took; none where a log was given.
    """

    __pydantic_config__ = STRICT

    reality: str
    simulator: str
    transitions: Count
    windows: Count
    horizon: Count
    seed: Count
    by_steps: Annotated[tuple[StepGap, ...], Field(min_length=1)]
    dimensions: tuple[DimensionGap, ...]
    contacts: tuple[ContactGap, ...]
    returns: tuple[ReturnGap, ...]
    agreement: Agreement | None
    diagnosis: Diagnosis
    real_steps: Count

    @property
    def one_step(self) -> float:
        """Median error after one step, in standard deviations of the robot's states."""
        return self.by_steps[0].error

    @property
    def open_loop(self) -> float:
        """Median error after the last step, in standard deviations of the robot's states."""
        return self.by_steps[-1].error

    @property
    def return_gap(self) -> float | None:
        """Mean over policies of the absolute gap of returns, as a share of their range."""
        own = [abs(each.gap) for each in self.returns]
        return sum(own) / len(own) if own else None

    def __str__(self) -> str:
        """The gap in a few lines."""
        lines = [
            f"{self.simulator} against {self.reality}: after 1 step {self.one_step:.4f} std off, after "
            f"{self.by_steps[-1].steps} steps {self.open_loop:.3f} ({self.windows} windows)"
        ]
        lines.append(
            "by dimension: " + ", ".join(f"{each.name} {each.open_loop:.3f}" for each in self.dimensions[:5])
        )
        if self.contacts:
            lines.append(
                "by contact: "
                + ", ".join(f"{each.contact} {each.one_step:.4f} ({each.windows})" for each in self.contacts)
            )
        for row in self.returns:
            lines.append(
                f"{row.policy}: real {row.real_mean:,.1f}, simulated {row.simulated_mean:,.1f}, "
                f"gap {row.gap:+.1%}"
            )
        if self.return_gap is not None:
            rank = "" if self.agreement is None else f", rank correlation {self.agreement.spearman.value:.2f}"
            lines.append(f"return gap {self.return_gap:.1%}{rank}")
        return "\n".join([*lines, str(self.diagnosis)])

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        found: dict[str, Any] = to_json(self)
        return found

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write as a JSON file."""
        return artifacts.write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RealityGap:
        """Read what ``save`` wrote.

        Raises:
            StoreError: it is no such file.
        """
        values = artifacts.read_json(path)
        with refusing(os.fspath(path), "a reality gap", "measure it again"):
            return from_json(cls, values)
