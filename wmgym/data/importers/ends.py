"""Where the steps of a table lead when it has no next_obs: the rows that only say how an episode ended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LEAP = 5  # times the usual change that most columns exceed where a row is of another episode


@dataclass(frozen=True)
class Ends:
    """What flags say of rows ``(n,)``.

    Attributes:
        ended: bool, the step from this row ended the episode, and the next row is where it led.
        begins: bool, the row does not follow the one before it.
        unknown: number of steps that ended an episode at an observation that was not recorded.
    """

    ended: np.ndarray
    begins: np.ndarray
    unknown: int


def ends_of(
    terminated: np.ndarray,
    truncated: np.ndarray,
    begins: np.ndarray,
    acted: np.ndarray,
    idle: np.ndarray,
    obs: np.ndarray,
    named: bool,
) -> Ends:
    """Tell rows with a step from those that follow an episode's last step and show where it led.

    Such a row is the last one of an episode that a column tells apart, or of a file that is one episode: one
    that no flag ends before its last two rows. It is also a row without an action after a flagged one. Its
    own flag repeats that of the step before it or stands for it: the observation is terminal.

    Args:
        terminated: ``(n,)`` bool, as flagged.
        truncated: likewise.
        begins: ``(n,)`` bool, where an episode column or the file begins one.
        acted: ``(n,)`` bool, the action is there.
        idle: ``(n,)`` bool, all numbers of the action are 0.
        obs: ``(n, obs_dim)``.
        named: a column tells episodes apart.
    """
    flagged = terminated | truncated
    last = np.append(begins[1:], True)
    whole = named or not flagged[:-2].any()
    # After the last action a logger writes none, or zeros where it never does otherwise.
    done = ~acted | (last & (not (idle & ~last).any()) & idle)
    after = np.append(False, flagged[:-1]) & ~begins  # its step before is flagged
    shown = after & (~acted | (last & whole & (named or _goes_on(obs))))
    alone = flagged & done & ~begins & ~after & (~acted | (last & whole))
    shown |= alone
    ended = np.append((terminated[1:] & alone[1:]) | (terminated[:-1] & shown[1:]), False)
    told = terminated & ~shown
    cut = np.append(False, flagged[:-1] & ~shown[1:]) | np.append(False, shown[:-1])
    return Ends(ended, begins | cut, int((told & ~ended).sum()))


def _goes_on(obs: np.ndarray) -> bool:
    """Whether the last row can follow the one before it, as the first of another episode would not."""
    change = np.abs(np.diff(obs, axis=0))
    if len(change) < 2:
        return True
    usual = np.nanmax(np.where(np.isfinite(change[:-1]), change[:-1], 0.0), 0)
    moving = usual > 0
    return bool((change[-1][moving] > _LEAP * usual[moving]).sum() <= 0.5 * moving.sum())
