"""How far imagined returns are from real ones, as values and as JSON."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wmgym.io import artifacts

RANDOM = "random"


@dataclass(frozen=True)
class PolicyScore:
    """One policy, real beside imagined; returns are undiscounted, per episode, from the same start states.

    Attributes:
        name: the policy.
        real_mean: mean return in the real env.
        real_interval: its 95 % bootstrap interval.
        imagined_mean: mean return in imagination.
        imagined_interval: its 95 % bootstrap interval.
        gap: imagined minus real mean, as a share of the best policy's real mean minus the random policy's.
        gap_interval: 95 % bootstrap interval of that, pairing episodes by start state.
        real_length: mean steps of a real episode.
        imagined_length: mean steps of an imagined one.
        diverged: share of imagined episodes that left the range of the data.
        coverage: share of errors inside the world's bounds when the real episodes' actions are replayed open
            loop; None where the world has no bounds.
        stale: that is too little to be chance, so the bounds no longer hold for this policy.
        real_returns: each real episode's return.
        imagined_returns: each imagined episode's return, in the same order.
    """

    name: str
    real_mean: float
    real_interval: tuple[float, float]
    imagined_mean: float
    imagined_interval: tuple[float, float]
    gap: float
    gap_interval: tuple[float, float]
    real_length: float
    imagined_length: float
    diverged: float
    coverage: float | None
    stale: bool
    real_returns: tuple[float, ...]
    imagined_returns: tuple[float, ...]

    @property
    def advice(self) -> str | None:
        """What to do about stale bounds."""
        if not self.stale:
            return None
        return (
            f"bounds are stale, they held for {self.coverage:.0%} of its errors; "
            "calibrate(world, new_episodes, update=True) adapts them"
        )


@dataclass(frozen=True)
class GapReport:
    """How far returns in imagination are from real ones.

    Attributes:
        env_id: the real env.
        episodes: episodes a policy, on either side.
        seed: decides start states and draws.
        scores: one entry a policy, best real mean first; the random policy is always among them.
        real_steps: real env steps this took.
        imagined_steps: imagined env steps this took.
    """

    env_id: str
    episodes: int
    seed: int
    scores: tuple[PolicyScore, ...]
    real_steps: int
    imagined_steps: int

    def __getitem__(self, name: str) -> PolicyScore:
        """The score of one policy."""
        for entry in self.scores:
            if entry.name == name:
                return entry
        raise KeyError(f"no policy {name!r}; scored were {[entry.name for entry in self.scores]}")

    def __str__(self) -> str:
        """One line a policy: real beside imagined."""
        lines = [f"{self.env_id}, {self.episodes} episodes a policy, mean return [95 % interval]"]
        for entry in self.scores:
            real, imagined = (
                f"{mean:,.1f} [{low:,.1f}, {high:,.1f}]"
                for mean, (low, high) in (
                    (entry.real_mean, entry.real_interval),
                    (entry.imagined_mean, entry.imagined_interval),
                )
            )
            lines.append(f"{entry.name}: real {real}, imagined {imagined}, gap {100 * entry.gap:+.1f} %")
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
        """Read what ``save`` wrote."""
        document = artifacts.read_json(path)
        try:
            entries: list[dict[str, Any]] = document.pop("scores")
            scores = tuple(PolicyScore(**_tuples(entry)) for entry in entries)
            return cls(scores=scores, **document)
        except (KeyError, TypeError, AttributeError) as error:
            raise artifacts.StoreError(
                f"{path}: not a gap report of this version of wmgym; score again"
            ) from error


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
