"""The task of a log: from what the caller says, what the file says of itself, and the range of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatten_space

from wmgym.data.importers.actions import space_of
from wmgym.data.importers.rows import NO_IMAGES
from wmgym.data.importers.runs import Run
from wmgym.tasks.actions import ActionSpace
from wmgym.tasks.described import describe_task
from wmgym.tasks.goals import boxes_alone, refuse_images
from wmgym.tasks.layout import shown_alone
from wmgym.tasks.registry import TABLE, lookup
from wmgym.tasks.spec import UserRewardFn
from wmgym.tasks.task import Task


def log_task(
    runs: Sequence[Run],
    *,
    facts: Mapping[str, Any],
    names: Sequence[str],
    dt: float,
    discrete: bool,
    observation_space: spaces.Box | None,
    action_space: ActionSpace | None,
    reward_fn: UserRewardFn | None,
    terminated_fn: UserRewardFn | None,
    max_episode_steps: int | None,
) -> Task:
    """Describe the robot that made these runs.

    A data set that names one of the tasks known in code has its layout, its reward and its termination, as
    far as the data hold what these need; the env is not made.

    Args:
        runs: at least one.
        facts: what the first file says of itself.
        names: of the observation's numbers.
        dt: seconds a step.
        discrete: the action numbers kinds of action.
        observation_space: the caller's, or None.
        action_space: the caller's, or the one that the file says, or None.
        reward_fn: likewise.
        terminated_fn: likewise.
        max_episode_steps: likewise.

    Raises:
        ValueError: an action that never changes, observations that are images or have no numbers, or a space
            of another size than the data.
    """
    if not runs:
        raise ValueError("no two consecutive rows are left; is the time column right, or max_gap too short?")
    observed, acted = runs[0].obs.shape[1], runs[0].action.shape[1]
    if not observed:
        raise ValueError("the observation has no numbers, and a world needs a state; name others with obs=")
    if observation_space is None:
        observation_space = said_observation_space(facts)
    if observation_space is None:
        observation_space = spaces.Box(-np.inf, np.inf, (observed,), np.float32)
    if action_space is None:
        action_space = space_of(runs, discrete)
    for what, space, found in (("observation", observation_space, observed), ("action", action_space, acted)):
        size = 1 if isinstance(space, spaces.Discrete) else int(np.prod(space.shape))
        if size != found:
            raise ValueError(f"{what}_space has {size} numbers, the data {found}; name the columns of one")
    limit = max_episode_steps or facts.get("max_episode_steps")
    if facts.get("env_id") in TABLE and reward_fn is None and terminated_fn is None:
        known = _known_task(facts, runs[0], observation_space, action_space, limit)
        if known is not None:
            return known
    return describe_task(
        observation_space,
        action_space,
        dt=dt,
        max_episode_steps=limit or max(len(run.action) for run in runs),
        names=names,
        reward_fn=reward_fn,
        terminated_fn=terminated_fn,
    )


def said_action_space(facts: Mapping[str, Any]) -> ActionSpace | None:
    """The action space that a file says, if actions may have it."""
    said = _space(facts.get("action_space"))
    return None if said is None or isinstance(said, spaces.Dict) else said


def said_observation_space(facts: Mapping[str, Any]) -> spaces.Box | None:
    """The observation space that a file says, Dicts of Boxes as one Box; images are refused."""
    said = _space(facts.get("observation_space"))
    if isinstance(said, spaces.Discrete):
        raise ValueError(f"observations are {said} by the file, labels and no state; store numbers instead")
    if said is None or not boxes_alone(said):
        return None
    refuse_images(said, NO_IMAGES)
    flat = flatten_space(said) if isinstance(said, spaces.Dict) else said
    assert isinstance(flat, spaces.Box)
    return flat


def _known_task(
    facts: Mapping[str, Any],
    run: Run,
    observation_space: spaces.Box,
    action_space: ActionSpace,
    limit: int | None,
) -> Task | None:
    """The task known in code, its reward learned where data lack what it takes; None if they do not fit."""
    known = lookup(facts["env_id"], facts.get("env_kwargs", {}))
    if known is None:
        return None
    paid = run.unobserved is not None and run.unobserved.shape[1] == known.core.unobserved_dim
    core = known.core if paid else shown_alone(known.core)
    if core is None or core.observe(np.zeros((1, core.state_dim))).shape[1] != run.obs.shape[1]:
        return None
    return Task(
        env_id=facts["env_id"],
        env_kwargs=dict(facts.get("env_kwargs", {})),
        observation_space=observation_space,
        action_space=action_space,
        dt=known.dt,
        max_episode_steps=limit,
        core=core,
        reward=known.reward if paid else None,
        terminated=known.terminated,
        from_table=True,
    )


def _space(said: Mapping[str, Any] | None) -> Any:
    """A space as Minari writes it; None for those that are neither actions' nor observations'."""
    kind = None if said is None else said.get("type")
    if said is None or kind is None:
        return None
    if kind == "Discrete":
        return spaces.Discrete(int(said["n"]), start=int(said.get("start", 0)))
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(said["nvec"], start=said.get("start"))
    if kind == "MultiBinary":
        return spaces.MultiBinary(said["n"])
    if kind == "Dict":
        parts = {name: _space(part) for name, part in said["subspaces"].items()}
        return None if not parts or None in parts.values() else spaces.Dict(parts)
    if kind != "Box" or np.dtype(said["dtype"]).kind not in "fiu":
        return None
    shape = tuple(said["shape"])
    low, high = (np.broadcast_to(np.array(said[end], said["dtype"]), shape) for end in ("low", "high"))
    return spaces.Box(low.copy(), high.copy(), dtype=np.dtype(said["dtype"]).type)
