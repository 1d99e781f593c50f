"""How far imagined returns are from real ones, as values and as JSON."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from wmgym.calibration.open_loop_rows import OpenLoopRow
from wmgym.evaluation.agreement import Agreement
from wmgym.evaluation.findings import Counterfactual, Speed, Verdict
from wmgym.io import artifacts
from wmgym.io.schema import STRICT, Amount, Count, Interval, Share, from_json, refusing

RANDOM = "random"

LOUD_DIVERGENCE = 0.02
"""Share of imagined episodes that leave the range of the data, above which a report says so."""


@dataclass(frozen=True)
class PolicyScore:
    """One policy, real beside imagined; returns are undiscounted, per episode, from the same start states.

    Attributes:
        name: the policy.
        real_mean: mean return in the real env.
        real_interval: its 95 % bootstrap interval.
        imagined_mean: mean return in imagination.
        imagined_interval: its 95 % bootstrap interval.
        gap: imagined minus real mean return, divided by the report's ``scale``.
        gap_interval: its 95 % bootstrap interval, over episodes paired by start state.
        real_length: mean steps of a real episode.
        imagined_length: mean steps of an imagined one.
        diverged: share of imagined episodes that left the range of the data.
        coverage: share of errors inside the world's error bounds when the real episodes' actions are replayed
            open loop in the world; None where the world is not calibrated.
        stale: whether that share is too small to be chance, so that the bounds do not hold for this policy.
        real_returns: each real episode's return.
        imagined_returns: each imagined episode's return, in the same order.
        more_imagined_returns: returns of imagined episodes from further start states.
        estimate: prediction-powered estimate of the real mean return, from both; None in old reports.
        estimate_interval: its 95 % interval.
        failed: share of real episodes that ended before the time limit; None in old reports.
        failed_imagined: share of the imagined ones from the same start states.
        trained_in_world: whether it was trained in this world, so that it may exploit its errors: such
            policies are left out of the agreement.
        calibrated_on: whether episodes of it, other ones, made the error bounds: its coverage then says
            little of how they hold for others.
    """

    __pydantic_config__ = STRICT

    name: str
    real_mean: float
    real_interval: Interval
    imagined_mean: float
    imagined_interval: Interval
    gap: float
    gap_interval: Interval
    real_length: Amount
    imagined_length: Amount
    diverged: Share
    coverage: Share | None
    stale: bool
    real_returns: tuple[float, ...] = field(repr=False)
    imagined_returns: tuple[float, ...] = field(repr=False)
    more_imagined_returns: tuple[float, ...] = field(default=(), repr=False)
    estimate: float | None = None
    estimate_interval: Interval | None = None
    failed: Share | None = None
    failed_imagined: Share | None = None
    trained_in_world: bool = False
    calibrated_on: bool = False

    def check(self) -> None:
        """Refuse means that are not those of the returns, where these are kept.

        Raises:
            ValueError: they contradict each other.
        """
        for side in ("real", "imagined"):
            mean, returns = getattr(self, f"{side}_mean"), getattr(self, f"{side}_returns")
            if returns and not math.isclose(
                mean, math.fsum(returns) / len(returns), rel_tol=1e-6, abs_tol=1e-6
            ):
                raise ValueError(f"{side}_mean of {self.name!r} is not the mean of its returns")
        if self.stale and self.coverage is None:
            raise ValueError(f"{self.name!r} is stale without bounds")

    @property
    def notes(self) -> tuple[str, ...]:
        """What sets this policy apart from a stranger to the world, a few words each."""
        found = [
            (self.trained_in_world, "trained in this world"),
            (self.calibrated_on, "calibrated the bounds"),
        ]
        return tuple(note for applies, note in found if applies)

    @property
    def advice(self) -> str | None:
        """What to do where the error bounds do not hold for this policy; None where they do."""
        if not self.stale:
            return None
        return (
            f"only {self.coverage:.0%} of errors lie inside the error bounds, which are stale; "
            "calibrate(world, new_episodes, update=True) adapts them"
        )


@dataclass(frozen=True)
class Origin:
    """Where a report comes from.

    Attributes:
        world: fingerprint of the world that was judged.
        versions: of the libraries, by name.
        wall_s: seconds that scoring took.
        cpu_s: processor seconds that it took, all processes together.
        speed: steps per second of either side; None in old reports.
    """

    __pydantic_config__ = STRICT

    world: str
    versions: dict[str, str]
    wall_s: Amount
    cpu_s: Amount
    speed: Speed | None = None


@dataclass(frozen=True)
class GapReport:
    """How far returns in imagination are from real ones.

    Attributes:
        env_id: the real env.
        episodes: real episodes for each policy, and imagined ones from the same start states.
        seed: decided start states and everything random.
        scores: one entry for each policy, best real mean first; the random policy is always among them.
        real_steps: real env steps that this took.
        imagined_steps: imagined env steps that this took.
        max_episode_steps: steps after which episodes ended at the latest; None in old reports: the env's own.
        imagined_episodes: imagined episodes for each policy; None in old reports: as many as real ones.
        agreement: how well imagination ranks the policies; None where there are fewer than three beside the
            random one, and in old reports.
        level: probability with which each error bound is to hold; None where the world has no bounds, and in
            old reports.
        open_loop: errors and bounds by the number of steps when the real episodes' actions are replayed open
            loop in the world, mean over policies; empty where the world has no bounds, and in old reports.
        counterfactual: errors under other actions than the real episodes'; None in old reports.
        verdict: whether to believe the world; None in old reports.
        scale: the return scale, a gap of 1: the best policy's real mean return minus the random policy's, but
            no less than the standard deviation of returns within policies; None in old reports.
        origin: what was judged, with which libraries, at what cost; None in old reports.
    """

    __pydantic_config__ = STRICT

    env_id: str
    episodes: Count
    seed: Count
    scores: tuple[PolicyScore, ...]
    real_steps: Count
    imagined_steps: Count
    max_episode_steps: Count | None = None
    imagined_episodes: Count | None = None
    agreement: Agreement | None = None
    level: Share | None = None
    open_loop: tuple[OpenLoopRow, ...] = ()
    counterfactual: Counterfactual | None = None
    verdict: Verdict | None = None
    scale: Annotated[float, Field(gt=0)] | None = None
    origin: Origin | None = field(default=None, compare=False)

    def __getitem__(self, name: str) -> PolicyScore:
        """The score of one policy; ``KeyError`` where there is none of that name."""
        for entry in self.scores:
            if entry.name == name:
                return entry
        raise KeyError(f"no policy {name!r}; scored were {[entry.name for entry in self.scores]}")

    def __str__(self) -> str:
        """One line for each policy: real beside imagined."""
        gaps = "" if self.scale is None else f", gap in shares of the return scale, {self.scale:,.3g}"
        lines = [
            f"{env_name(self.env_id)}, {self.episodes} episodes per policy, mean return [95 % interval]{gaps}"
        ]
        for entry in self.scores:
            real = with_interval(entry.real_mean, entry.real_interval)
            imagined = with_interval(entry.imagined_mean, entry.imagined_interval)
            both = ""
            if entry.more_imagined_returns and entry.estimate is not None and entry.estimate_interval:
                both = f", estimate from both {with_interval(entry.estimate, entry.estimate_interval)}"
            lines.append(
                f"{entry.name}: real {real}, imagined {imagined}{both}, gap {100 * entry.gap:+.1f} %"
            )
        lines += [
            f"{entry.name}: {entry.diverged:.0%} of the imagined episodes left the range of the data and "
            "were cut, so their returns miss what came after; collect data with this policy and fit again"
            for entry in self.scores
            if entry.diverged > LOUD_DIVERGENCE
        ]
        lines += [f"{entry.name}: {advice}" for entry in self.scores if (advice := entry.advice)]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write as a JSON file."""
        return artifacts.write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GapReport:
        """Read what ``save`` wrote.

        Raises:
            StoreError: there is no report, or it contradicts itself.
        """
        document = artifacts.read_json(path)
        with refusing(os.fspath(path), "a gap report", "score again"):
            report = from_json(cls, document)
            for entry in report.scores:
                entry.check()
            return report


def with_interval(mean: float, interval: tuple[float, float]) -> str:
    """A mean and its interval as people read them."""
    return f"{mean:,.1f} [{interval[0]:,.1f}, {interval[1]:,.1f}]"


def env_name(env_id: str) -> str:
    """What reports call an env."""
    return env_id or "an env without an id"
