"""What is odd in the observation columns of transitions; each function gives one line about it, or None."""

from __future__ import annotations

import numpy as np

from wmgym.data.traits import with_traits
from wmgym.data.transitions import Transitions

LOOKED_AT = 100_000  # rows at most that a check looks at where it needs quantiles or formulas
_ONE_OF = 3  # columns that a one-hot has; two may be a flag and its opposite
_LEAP = 5  # times the steps beside it; no step of the MuJoCo tasks reaches twice that without a reset
_ENOUGH = 30  # rows in which recordings can be seen to take turns
_MOST_TURNS = 4
_APART = 0.3  # standard deviations from a row to the next of another recording
_ON = 0.25  # a change from row to row of one recording, as a share of that from one recording to another
_TURNS = {2 * np.pi: "2 pi", 360.0: "360", 2.0: "2"}  # full turns in radians, degrees and half turns


def constant(data: Transitions) -> str | None:
    """Columns that never change."""
    still = np.flatnonzero((data.obs == data.obs[0]).all(0))
    if not len(still):
        return None
    named = ", ".join(column_name(data, int(k)) for k in still[:5])
    verb = "changes" if len(still) == 1 else "change"
    return f"{named} never {verb} in these data; is the sensor connected?"


def repeats(data: Transitions) -> str | None:
    """Observations that stay the same from row to row."""
    share = float((data.next_obs == data.obs).all(1).mean())
    if share <= 0.2:
        return None
    return (
        f"the observation does not change in {share:.0%} of the steps; if the log is faster than the sensor, "
        "import it again with a larger dt"
    )


def digits(data: Transitions) -> str | None:
    """A column so far from zero that float32 keeps little of its changes."""
    rows = some_rows(data)
    step = np.abs(data.next_obs[rows] - data.obs[rows])
    usual = np.array([np.median(each[each > 0]) if (each > 0).any() else np.inf for each in step.T])
    middles = np.median(data.obs[rows], 0)  # of which no single reading tells anything
    lost = usual < 16 * np.spacing(np.abs(middles).astype(np.float32))
    if not lost.any():
        return None
    k = int(np.argmax(lost))
    middle = float(middles[k])
    return (
        f"{column_name(data, k)} is near {middle:.6g} and moves by {usual[k]:.2g} a step, of which float32 "
        f"keeps few digits; subtract {middle:.6g} from it"
    )


def wraps(data: Transitions) -> str | None:
    """A column that jumps by a full turn, and that a fit takes as an angle though it is not known as one."""
    if all(_turn(data, k) is None for k in range(data.obs.shape[1])):
        return None
    before, after = data.task.core.geometry, with_traits(data).task.core.geometry
    for k, low, high in after.wrapped:
        if k in before.angles or any(k == known for known, _, _ in before.wrapped):
            continue
        turn = next(turn for turn in _TURNS if np.isclose(turn, high - low))
        count = int((np.abs(data.next_obs[:, k] - data.obs[:, k]) > 0.8 * turn).sum())
        return (
            f"{column_name(data, k)} jumps by {_TURNS[turn]} in {count:,} rows: an angle that wraps; "
            "fit takes its differences the shorter way round"
        )
    return None


def traits(data: Transitions) -> str | None:
    """What a fit makes of single numbers, where the observation is all that is known of the state."""
    before, after = data.task.core.geometry, with_traits(data).task.core.geometry
    whole = set(after.whole) - set(before.whole)
    two = {k for k in whole if len(np.unique(np.concatenate([data.core[:, k], data.next_core[:, k]]))) == 2}
    found = {
        "never change within an episode and are kept": set(after.fixed) - set(before.fixed),
        "always equal another number and are kept so": {k for k, _ in after.copies}
        - {k for k, _ in before.copies},
        "follow exactly from a step and are not predicted": {rule.number for rule in after.rules}
        - {rule.number for rule in before.rules},
        "hold two whole numbers and are named from where a step led": {k for k in whole if k in two},
        "hold a few whole numbers and are rounded": {k for k in whole if k not in two},
    }
    always = set(np.flatnonzero((data.obs == data.obs[0]).all(0)).tolist())  # named elsewhere
    lines = []
    for what, numbers in found.items():
        if named := [column_name(data, k) for k in sorted(numbers - always)]:
            lines.append(f"{', '.join(named[:5])}{' and more' if len(named) > 5 else ''} {what}")
    return "; ".join(lines) or None


def one_hot(data: Transitions) -> str | None:
    """Neighbouring columns of which exactly one is 1 in every row."""
    rows = some_rows(data)
    every = np.concatenate([data.core[rows], data.next_core[rows]])
    binary = np.append(((every == 0) | (every == 1)).all(0), False)
    start = 0
    while start < len(binary):
        stop, total = start, np.zeros(len(every))
        while binary[stop] and (total + every[:, stop]).max() <= 1:
            total += every[:, stop]
            stop += 1
        if (total == 1).all() and (every[:, start:stop].max(0) > 0).sum() >= _ONE_OF:
            first, last = (data.task.core.names[k] for k in (start, stop - 1))
            return (
                f"{first} to {last} are a one-hot: exactly one is 1 in every row. A world names each by "
                "itself, so that imagined rows may have none or several; show what they stand for as numbers"
            )
        start = stop + 1 if not binary[stop] else start + 1
    return None


def jumps(data: Transitions) -> str | None:
    """A step far beyond what all but a few rows show."""
    if len(data) < 200 or wraps(data):
        return None
    change = np.abs(data.next_obs - data.obs)
    usual, rare = np.quantile(change[some_rows(data)], (0.5, 0.995), axis=0)
    far = change > 20 * np.maximum(rare, 1e-12) + 100 * usual
    if not far.any():
        return None
    row, k = (int(at) for at in np.argwhere(far)[0])
    return (
        f"{column_name(data, k)} jumps by {change[row, k]:.3g} in row {row}, where all but 0.5 % of the rows "
        f"stay below {rare[k]:.3g}, and there are {far.any(1).sum():,} such rows; was the robot moved or "
        "reset there, or is a reading wrong?"
    )


def resets(data: Transitions) -> str | None:
    """Rows in which most columns leap at once, as where the robot was reset within an episode.

    Beside the row before and the one after, so that a robot that moves fast and then rests has none, and in
    more than half of the columns, so that contacts, which change velocities alone, have none.
    """
    if len(data) < 200:
        return None
    rows, inside = some_rows(data), np.diff(data.episode) == 0
    far, clear = np.zeros((2, len(data)), np.int64)  # number of columns that leap, by either measure
    moving = 0
    for k in range(data.obs.shape[1]):
        change = _change(data, k)
        usual = np.median(change[rows])
        if usual > 0:
            beside = np.full(len(change), usual)
            np.maximum(beside[1:], change[:-1] * inside, out=beside[1:])
            np.maximum(beside[:-1], change[1:] * inside, out=beside[:-1])
            far += change > _LEAP * beside
            clear += change > 2 * _LEAP * beside
            moving += 1
    if not (clear > moving // 2).any():
        return None
    found = np.flatnonzero(far > moving // 2)
    last = np.append(~inside, True)[found].sum()
    late, times = last > len(found) / 2, "row" if len(found) == 1 else "rows"
    return (
        f"the observation leaps in at least {len(found):,} {times}, first in row {found[0]}, by over {_LEAP} "
        "times what most of it does in the rows beside; was the robot reset or moved "
        f"{'in the last rows of episodes' if late else 'within an episode'}? Then "
        f"{'mark their ends a row earlier' if late else 'name the column where episodes end, or mark it'}"
    )


def taking_turns(obs: np.ndarray) -> int | None:
    """How many recordings' rows take turns in observations ``(n, k)``; None where they follow each other."""
    moving = obs.astype(np.float64)[:, np.ptp(obs, 0) > 0]
    if len(obs) < _ENOUGH or not moving.shape[1]:
        return None
    usual = [
        float(np.median(np.median(np.abs(moving[k:] - moving[:-k]), 0) / moving.std(0)))
        for k in range(1, _MOST_TURNS + 1)
    ]
    for k in range(2, _MOST_TURNS + 1):
        before = min(usual[: k - 1])
        if before > _APART and usual[k - 1] < _ON * before:
            return k
    return None


def turns(data: Transitions) -> str | None:
    """Rows of several recordings that take turns, where no next_obs and no clock contradicts it."""
    count = taking_turns(data.obs[: LOOKED_AT // 10])
    if count is None:
        return None
    return (
        f"each observation goes on from the one {count} rows before, not from the last: rows of {count} "
        "recordings take turns; number them in an episode column, and sort the rows by it"
    )


def some_rows(data: Transitions, most: int = LOOKED_AT) -> np.ndarray:
    """Rows spread evenly over the data."""
    return np.linspace(0, len(data) - 1, min(len(data), most)).astype(np.int64)


def column_name(data: Transitions, k: int) -> str:
    """The name of an observation's number."""
    names = data.task.core.names
    return names[k] if len(names) == data.obs.shape[1] else f"obs_{k}"


def _turn(data: Transitions, k: int) -> float | None:
    """The full turn that the range of a column has, if it may be an angle that wraps."""
    span = np.ptp(data.obs[:, k])
    return next((turn for turn in _TURNS if 0.9 * turn < span <= 1.001 * turn), None)


def _change(data: Transitions, k: int) -> np.ndarray:
    """How far a column moves in each step ``(n,)``, of what may be an angle the shorter way round."""
    change: np.ndarray = np.abs(data.next_obs[:, k] - data.obs[:, k])
    turn = _turn(data, k)
    return change if turn is None else np.minimum(change, np.abs(turn - change))
