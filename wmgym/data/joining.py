"""Several collections of one robot as one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from wmgym.data.layouts import difference, laid_out, same_env
from wmgym.data.odd_columns import some_rows
from wmgym.data.transitions import Transitions, refuse_other
from wmgym.tasks.actions import seen
from wmgym.tasks.mjcf.layout import ModelLayout
from wmgym.tasks.task import Task


def shown_otherwise(data: Transitions) -> str | None:
    """Which observations the layout of the task does not explain, and what to do; None where it does."""
    off = _off(data)
    for what, part in off.items():
        if part.any():
            names = ", ".join(f"obs_{k}" for k in np.flatnonzero(part.any(0))[:5])
            return (
                f"{part.any(1).mean():.1%} of the rows {what} {names} otherwise than the data in which it "
                "was found how observations follow from the state; collect with all policies in one call, or "
                "apart, each by the env's id or factory and not by the task of other data, and join with "
                "wmgym.concat"
            )
    return None


def _off(data: Transitions) -> dict[str, np.ndarray]:
    """Which observations differ from what the layout makes of some steps: bools ``(rows, obs_dim)``.

    By what rows then do: they "show" another number than their state tells, "change" one that is to stay
    through an episode, or "have a next" one that no rule gives. They do where other data, in which this was
    found, told too little: in a single episode, say, what is left to a goal is a place but for a constant;
    and actions that never reached a limit do not show it.
    """
    core, rows = data.task.core, some_rows(data)
    # What an env reads late after a step it reads at a start as it is, and there it may show a quaternion
    # that it has drawn and that is not of unit length.
    rows = rows[~np.isin(rows, data.first)]
    if not isinstance(core.layout, ModelLayout) or not len(rows):
        return {}
    obs, before, after = data.obs[rows], data.core[rows], data.next_core[rows]
    allowed = 1e-4 * np.abs(obs).max(0) + 1e-5
    stays, follows = np.zeros(obs.shape, bool), np.zeros(obs.shape, bool)
    action = seen(data.task.action_space, data.action[rows])
    rules = {rule.number: rule for rule in core.geometry.rules}
    for i, k in enumerate(core.layout.kept, sum(core.layout.sizes)):
        if i in core.geometry.fixed:
            stays[:, k] = np.abs(after[:, i] - before[:, i]) > allowed[k]
        elif i in rules:
            follows[:, k] = np.abs(rules[i].of(before, after, action) - after[:, i]) > allowed[k]
    shows = np.abs(core.observe(data.state[rows]) - obs) > allowed
    return {"show": shows, "change": stays, "have a next": follows}


def _task_of_all(parts: Sequence[Transitions]) -> Task:
    """That of the first part whose layout all of them follow; where there is none, of the first one."""
    layouts = [part.task.core.layout for part in parts]
    if all(layout == layouts[0] for layout in layouts[1:]):
        return parts[0].task
    for part in parts:
        if not any(each.any() for other in parts for each in _off(laid_out(other, part.task)).values()):
            return part.task
    return parts[0].task


def concat(parts: Sequence[Transitions]) -> Transitions:
    """Join transitions of one task; episodes stay apart.

    Raises:
        TypeError: one part instead of several, or a part that is no ``Transitions``.
        ValueError: nothing to join, or parts from different envs or sources.
    """
    if isinstance(parts, Transitions):
        raise TypeError("concat takes several Transitions, such as [data, more]; got one alone")
    for part in parts:
        refuse_other("concat", part)
    if not parts:
        raise ValueError("concat needs at least one part")
    told = _task_of_all(parts)
    head, parts = laid_out(parts[0], told), [laid_out(part, told) for part in parts]
    for part in parts[1:]:
        if not same_env(part.task, head.task):
            raise ValueError(f"cannot join data of {difference(head.task, part.task)}")
        head = laid_out(head, part.task)  # of its symmetries those stay that all parts have
        if part.source != head.source or part.versions != head.versions:
            raise ValueError("cannot join real with imagined data, or data of different library versions")
        if (part.reward is None) != (head.reward is None):
            raise ValueError("cannot join data with and without reward; pass reward= to all parts")
    offsets = np.cumsum([0, *(part.num_episodes for part in parts[:-1])])
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in head.arrays()
    }
    joined["episode"] = np.concatenate([p.episode + k for p, k in zip(parts, offsets, strict=True)])
    whole = replace(
        head,
        **joined,
        episode_seed=tuple(seed for part in parts for seed in part.episode_seed),
        episode_policy=tuple(name for part in parts for name in part.episode_policy),
    )
    if (found := shown_otherwise(whole)) is not None:
        warnings.warn(found, stacklevel=2)
    return whole
