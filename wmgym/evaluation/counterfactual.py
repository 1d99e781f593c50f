"""Other actions than the logged ones, from real states, in the real env and beside it in the world."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from wmgym.calibration.open_loop import open_loop_steps, spread, stacked
from wmgym.data.branch import branch
from wmgym.data.policy import random_actions
from wmgym.data.steps import Episode, Recorder, columns, from_episodes
from wmgym.data.transitions import Transitions, concat
from wmgym.io.schema import STRICT
from wmgym.models.dynamics import Propagation
from wmgym.models.world import WorldModel
from wmgym.tasks.ground_truth import restore, snapshot

STEPS, NOISE = 8, 0.3
_REACH, _STARTS, _MOST_STARTS = 300, 4, 64
_LOGGED = "logged"


@dataclass(frozen=True)
class Alternative:
    """How well a world predicts what one kind of actions does, from the same real states.

    Attributes:
        actions: "logged" are those that the policy took; "random" are uniform; "another policy" took the
            others at the same step of its own episode; "noise" are the logged ones with Gaussian noise of
            0.3 of half the action range.
        branches: number of real states that they were taken from.
        error: median error of the state at the end of a branch, mean over core dimensions, in standard
            deviations of the real states.
        coverage: share of errors, at all steps, inside the world's error bounds; None without bounds.
        cosine: median cosine between the imagined and the real difference that these actions make against
            the logged ones, at the end of a branch; None for those themselves.
        difference_error: median of the error of that difference relative to its size; None likewise.
    """

    __pydantic_config__ = STRICT

    actions: str
    branches: int
    error: float
    coverage: float | None
    cosine: float | None
    difference_error: float | None


@dataclass(frozen=True)
class Counterfactual:
    """Whether a world knows what would have happened under other actions.

    Attributes:
        steps: length of a branch.
        alternatives: the logged actions first, then each kind of others; none where the test was skipped.
        skipped: why it was, in a line; empty where it was not.
    """

    __pydantic_config__ = STRICT

    steps: int
    alternatives: tuple[Alternative, ...]
    skipped: str = ""


def counterfactual(
    world: WorldModel,
    data: Mapping[str, Transitions],
    propagation: Propagation = "member",
    seed: int = 0,
) -> Counterfactual:
    """Take other actions from states of real episodes, in the real env and in the world.

    The real env is reset with the seed of an episode and given its actions up to a state; from there a
    MuJoCo env is branched, any other env is run again for every kind of actions.

    Args:
        world: the learned simulator.
        data: real episodes of each policy, as ``collect`` records them, with the seeds of their resets.
        propagation: see ``WorldModel.step``.
        seed: decides random actions and noise.
    """
    branches: dict[str, list[Transitions]] = {}
    rng = np.random.default_rng(seed)
    each = max(1, min(_STARTS, _MOST_STARTS // len(data)))
    with contextlib.closing(world.task.make()) as env:
        for name, own in data.items():
            others = [other for key, other in data.items() if key != name]
            rows = _rows(own, each)
            plans = [_plans(own, others, row, rng) for row in rows]
            try:
                for kinds in _outcomes(world, env, own, rows, plans):
                    for kind, outcome in kinds.items():
                        branches.setdefault(kind, []).append(outcome)
            except _NotRepeatedError as error:
                return Counterfactual(STEPS, (), str(error))
    scale = np.concatenate([own.core for own in data.values()]).std(0)
    scale = np.where(scale < 1e-8, 1.0, scale).astype(np.float32)
    ...
