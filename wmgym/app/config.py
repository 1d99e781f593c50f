"""Budgets of a run: what it collects, how it scores, and its rounds where it has any."""

from __future__ import annotations

from dataclasses import dataclass

from wmgym.io.schema import STRICT


@dataclass(frozen=True)
class Round:
    """Budgets of one round: collect, fit to all data so far, train.

    Attributes:
        real_steps: real env steps, random ones in the first round, by the policy so far in later ones.
        fit_updates: gradient steps of the fit at most; every round fits a fresh world.
        imagined_steps: imagined env steps; the agent continues from the round before.
    """

    __pydantic_config__ = STRICT

    real_steps: int
    fit_updates: int
    imagined_steps: int

    def __post_init__(self) -> None:
        """Refuse a round without work."""
        if min(self.real_steps, self.fit_updates, self.imagined_steps) < 1:
            raise ValueError(f"a round needs at least 1 of each of its budgets, got {self}")


@dataclass(frozen=True)
class CollectConfig:
    """How a run takes steps in the real env.

    Attributes:
        max_episode_steps: end real episodes after this many steps, so that few steps hold several episodes;
            None takes the env's time limit. DynaSAC cuts those that it learns from by settings of its own.
        calibration_steps: real steps at the end that only calibrate: by the final policy, and where DynaSAC
            has trained by every other one of those that it kept on the way as well.
    """

    __pydantic_config__ = STRICT

    max_episode_steps: int | None = 125
    calibration_steps: int = 1_000

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to calibrate on."""
        limit = self.max_episode_steps
        if self.calibration_steps < 1 or (limit is not None and limit < 1):
            raise ValueError("calibration_steps and max_episode_steps must be at least 1")


@dataclass(frozen=True)
class EvaluateConfig:
    """How a run scores its policies: the final one and those kept on the way, ten at most.

    Attributes:
        episodes: real episodes of each, and as many imagined ones; a verdict takes 10.
    """

    __pydantic_config__ = STRICT

    episodes: int = 10

    def __post_init__(self) -> None:
        """Refuse what gives no interval."""
        if self.episodes < 2:
            raise ValueError(f"an interval needs at least 2 episodes, got {self.episodes}")
