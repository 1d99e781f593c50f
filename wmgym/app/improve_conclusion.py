"""What a policy bred in a world says of it, and what came of all rounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wmgym.io.schema import Amount, Count, Record

CUT = 0.1
"""Share of imagined episodes that left the data, above which the others' returns settle nothing."""

_SHORT = 0.1  # by which bounds may hold less often than promised before that is said


class Bred(Record):
    """A policy that was trained in a world, and what that world said of it.

    Attributes:
        policy: its name.
        real: mean return of its real episodes, none of which any fit had seen.
        imagined: mean return of imagined ones from the same start states.
        gap: imagined minus real, as a share of what the best policy so far really earned above random
            actions; of the largest return where none did.
        diverged: share of imagined episodes that left the range of the data.
        coverage: share of the real episodes' errors inside the world's bounds; None where it had none.
        episodes: real episodes behind this.
        real_steps: of these.
        above_random: whether they earned clearly more than random actions did; a policy that does not asks
            nothing of a world.
        learned: whether they went into the next fit; those of the last round never do.
    """

    policy: str
    real: float
    imagined: float
    gap: float
    diverged: Amount
    coverage: Amount | None
    episodes: Count
    real_steps: Count
    above_random: bool
    learned: bool


def conclusion(
    last: Bred, random: np.ndarray, max_gap: float, refits: Sequence[bool], level: float | None
) -> str:
    """What came of all rounds, and what to do next, in a line.

    Args:
        last: the policy of the last round.
        random: real returns of random actions, one an episode.
        max_gap: what was aimed at.
        refits: whether each refit changed the weights.
        level: of the world's bounds, if it has any.
    """
    said = list[str]()
    by = f"in {last.episodes} real episode{'s' * (last.episodes > 1)}"
    if not last.above_random and last.real <= random.mean():
        said.append(
            f"{last.policy} earned {last.real:,.1f} {by}, no more than random actions do in {len(random)} "
            f"({random.mean():,.1f}), which asks nothing of the world: train policies for more imagined steps"
        )
    elif not last.above_random:
        said.append(
            f"{last.policy} earned {last.real:,.1f} {by}, not clearly more than random actions do in "
            f"{len(random)} ({random.mean():,.1f}): take more real steps, or train policies for more "
            "imagined ones"
        )
    elif last.diverged > CUT:
        said.append(
            f"{last.diverged:.0%} of the imagined episodes of {last.policy} left the range of the data and "
            f"were cut, so that its gap of {last.gap:+.1%} misses what came after: improve the new world "
            "further, with all real episodes as its data"
        )
    elif abs(last.gap) <= max_gap:
        said.append(f"the world is right about {last.policy} within {max_gap:.1%} of the range, {by}")
    else:
        said.append(
            f"the gap of {last.policy} is {last.gap:+.1%} after all rounds, not within {max_gap:.1%}: "
            "improve the new world further, with all real episodes as its data, or fit a larger one"
        )
    if unchanged := [str(index) for index, changed in enumerate(refits) if not changed]:
        said.append(
            f"the refit after round {', '.join(unchanged)} kept the weights it began with, since nothing "
            "lowered the error on held-out episodes"
        )
    if level is not None and last.coverage is not None and last.coverage < level - _SHORT:
        said.append(
            f"bounds held for {last.coverage:.0%} of its errors, not {level:.0%}: calibrate(world, its new "
            "episodes, update=True) widens them"
        )
    if not refits:
        said.append("no refit was made, so the world is the one that was given")
    return "; ".join(said)
