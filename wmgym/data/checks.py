"""What contradicts itself in transitions, which is refused, and what is odd, which is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces

from wmgym.data.joining import shown_otherwise
from wmgym.data.kinematics import joint_limits, joint_velocities, quaternions
from wmgym.data.lags import out_of_step
from wmgym.data.odd_columns import (
    LOOKED_AT,
    column_name,
    constant,
    digits,
    jumps,
    one_hot,
    repeats,
    resets,
    some_rows,
    traits,
    turns,
    wraps,
)
from wmgym.data.odd_values import LOOKS
from wmgym.data.repeats import repeated
from wmgym.data.series import Series, series
from wmgym.data.transitions import Transitions, refuse_other
from wmgym.data.velocities import without_velocities
from wmgym.tasks import actions


@dataclass(frozen=True)
class Finding:
    """Something that a fit should not meet unnoticed.

    Attributes:
        about: what was looked at, in a word or two.
        text: one line: what was found, where, and what to do.
    """

    about: str
    text: str


def refuse_torn(data: Transitions) -> None:
    """Refuse transitions whose ``next_obs`` contradicts the rows that follow.

    Raises:
        ValueError: inside an episode ``next_obs`` is not the next row's ``obs``, or where episodes end it is
            the first observation of the next one.
    """
    if len(data) < 2:
        return
    after, first = data.next_obs[:-1], data.obs[1:]
    inside = np.diff(data.episode) == 0
    differ = after != first
    if (inside & differ.any(1)).any():  # perhaps by rounding alone
        off = np.abs(after - first) > 1e-4 * data.obs.std(0) + 1e-5 * np.abs(first)
        torn = inside & off.any(1)
        if torn.any():
            raise ValueError(
                f"next_obs of row {int(np.argmax(torn))} is not the obs of the next row of its episode, "
                f"and so it is in {torn.sum() / inside.sum():.1%} of the rows inside episodes; are rows in "
                "order of time, and does episode change where the robot was reset?"
            )
    ends = ~inside
    carried = ends & ~differ.any(1) & (after != data.obs[:-1]).any(1)
    if carried.sum() > 0.5 * ends.sum():
        raise ValueError(
            f"next_obs of row {int(np.argmax(carried))}, where an episode ends, is the first obs of the next "
            "episode; store the last observation before the reset or leave these rows out, or give rows one "
            "episode where the robot was not reset"
        )


def check(data: Transitions) -> tuple[Finding, ...]:
    """Look for what is odd in transitions: what a log may be wrong in without contradicting itself.

    Actions and observations outside their spaces; columns that no longer follow from a robot's state; joints
    far outside their limits, orientations that are no unit quaternions, positions that do not move as their
    velocities say; rewards and terminations that the task's formulas do not give; rewards and columns that
    never change; no termination, or terminations that look like a time limit; one-step jumps, resets within
    an episode, angles that wrap, numbers that stand still or count, values that repeat from row to row or
    lose their digits in float32; single actions and rewards far from the others, and values that stand for
    missing readings; rows of several recordings that take turns; positions without velocities; actions that
    are a row out of step with what they do; an episode that is there twice; too few episodes.
    """
    refuse_other("check", data)
    return tuple(Finding(about, text) for about, look in _LOOKS.items() if (text := look(data)))


def _actions(data: Transitions) -> str | None:
    """Actions that the env cannot have taken."""
    space = data.task.action_space
    if not isinstance(space, spaces.Box):
        return None
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    slack = 1e-4 * (high - low)  # rounding
    outside = ((data.action < low - slack) | (data.action > high + slack)).any(1)
    if not outside.any():
        return None
    return (
        f"{outside.mean():.1%} of the actions are outside action_space (up to "
        f"{np.abs(data.action).max():.4g} in size) and count as clipped to it; are they in its units?"
    )


def _observations(data: Transitions) -> str | None:
    low, high = (side.reshape(-1) for side in _ends(data.task.observation_space))
    slack = 1e-5 * np.maximum(np.abs(low), np.abs(high))
    slack[~np.isfinite(slack)] = 0
    outside = (data.obs < low - slack) | (data.obs > high + slack)
    if not outside.any():
        return None
    names = [column_name(data, int(k)) for k in np.flatnonzero(outside.any(0))]
    return (
        f"{outside.any(1).mean():.1%} of the observations are outside observation_space, in "
        f"{', '.join(names[:5])}; are they in its units?"
    )


def _terminations(data: Transitions) -> str | None:
    if data.task.terminated is None:
        lengths = data.lengths[data.terminated[data.first + data.lengths - 1]]
        limit = data.task.max_episode_steps if data.task.env_id else None  # a log's is its longest episode
        if not len(lengths) and limit is not None and (data.lengths >= limit).all():
            return None  # a robot that cannot fail, as far as its episodes tell
        if not len(lengths):
            return (
                "no episode terminates: imagined ones will only meet the time limit; if the robot can "
                "fail, pass a terminated_fn or record how episodes end"
            )
        if len(lengths) >= 5 and len(set(lengths.tolist())) == 1:
            return (
                f"all {len(lengths)} terminated episodes have {lengths[0]} steps; is that a time limit? "
                "Then they are truncated, not terminated"
            )
        return None
    rows = np.union1d(some_rows(data), np.flatnonzero(data.terminated)[:LOOKED_AT])
    told = _formula(data, data.task.terminated, rows).astype(bool)
    wrong = told != data.terminated[rows]
    return wrong.any() and (
        f"the task's rule disagrees with terminated in {wrong.sum():,} of {len(rows):,} rows, first in "
        f"row {rows[np.argmax(wrong)]}; imagined episodes follow the rule"
    )


def odd_rewards(data: Transitions) -> str | None:
    """What is odd about the rewards of data, or nothing."""
    if data.reward is None:
        return None
    if data.task.reward is None:
        return data.reward.std() == 0 and f"the reward is {data.reward[0]:g} in every row"
    rows = some_rows(data)
    off = np.abs(_formula(data, data.task.reward, rows) - data.reward[rows])
    wrong = off > 1e-3 * (data.reward.std() + np.abs(data.reward[rows])) + 1e-6
    return wrong.mean() > 0.01 and (
        f"the task's formula gives another reward in {wrong.mean():.1%} of the rows, off by up to "
        f"{off.max():.3g}, first in row {rows[np.argmax(wrong)]}; imagined rewards follow the formula"
    )


def _velocities(data: Transitions) -> str | None:
    found = [column_name(data, k) for k in without_velocities(data)]
    if not found:
        return None
    named = ", ".join(found[:5]) + (" and more" if len(found) > 5 else "")
    return (
        f"{named} {'go' if len(found) > 1 else 'goes'} on as in the step before, which the row itself does "
        "not tell: positions without velocities; add these to obs, as measured or as differences from the "
        "row before"
    )


def _lag(data: Transitions) -> str | None:
    found = out_of_step(data)
    if found is None or without_velocities(data):  # which the actions of before are seen in
        return None
    return (
        f"observations answer to the action of the row {found}, not to that of their own row; shift the "
        "action columns, unless it is the robot that acts late"
    )


def _twice(data: Transitions) -> str | None:
    found = None if data.countable else repeated(series(data))
    if found is None:
        return None
    episode, of = data.episode[[found.row, found.of]]
    if found.count == found.length:
        part = "a part of " if found.count < data.lengths[of] else ""
        what = f"episode {episode} repeats {part}episode {of}"
    else:
        before = f"of episode {of}" if of != episode else "before"
        what = f"{found.count} of the {found.length} steps of episode {episode} repeat those {before}"
    return f"{what}: held out, it would be no new data; drop one"


def _few(data: Transitions) -> str | None:
    if data.num_episodes >= 5:
        return None
    there = "is only 1 episode" if data.num_episodes == 1 else f"are only {data.num_episodes} episodes"
    return (
        f"there {there}: error bounds come from some that the fit does not see, and twenty short ones are "
        "better than two long ones"
    )


def _formula(data: Transitions, function: Callable[..., Any], rows: np.ndarray) -> np.ndarray:
    """What a reward or termination of the task gives; the caller's own take tensors."""
    arrays = data.state[rows], data.action[rows], data.next_state[rows], data.unobserved[rows]
    arrays = arrays[0], arrays[1] + actions.first(data.task.action_space), *arrays[2:]
    if data.task.from_table:
        return np.asarray(function(*arrays))
    import torch

    with torch.no_grad():
        return np.asarray(function(*map(torch.tensor, arrays)))


def _ends(space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    return space.low.astype(np.float64), space.high.astype(np.float64)


_Look: TypeAlias = Callable[[Transitions], Any]


def _of_values(look: Callable[[Series], str | None]) -> _Look:
    return lambda data: look(series(data))


_LOOKS: dict[str, _Look] = {
    "action space": _actions,
    "observation space": _observations,
    "exact columns": shown_otherwise,
    "joint limits": joint_limits,
    "quaternions": quaternions,
    "joint velocities": joint_velocities,
    "terminations": _terminations,
    "rewards": odd_rewards,
    "constant columns": constant,
    "repeated rows": repeats,
    "float32 digits": digits,
    "wrapped angles": wraps,
    "numbers of the state": traits,
    "one-hot columns": one_hot,
    "jumps": jumps,
    **{about: _of_values(look) for about, look in LOOKS.items()},
    "resets": resets,
    "turns": turns,
    "velocities": _velocities,
    "action timing": _lag,
    "repeated episodes": _twice,
    "number of episodes": _few,
}
