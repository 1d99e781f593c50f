"""Gymnasium's conventions around a batch of episodes: what callers pass, as arrays, and infos with masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from wmgym.data.columns import bounded_numbers, real_numbers, state_rows
from wmgym.models.world import WorldModel
from wmgym.tasks import actions
from wmgym.tasks.layout import Core

_LENGTH = 0.5  # that a quaternion's may differ from 1, as where an env draws its start near another one
_SHOWN = 1e-3  # by which an observation may differ from what a state shows, of 1 or of itself


def one_of(name: str, given: Any, choices: Iterable[Any]) -> None:
    """Refuse what is not among the choices."""
    choices = tuple(choices)
    if given not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {given!r}")


def reset_options(given: Any) -> dict[str, Any]:
    """A copy of what was passed as options.

    Raises:
        ValueError: it is no mapping with names as keys.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"reset options are a dict such as {{'obs': ...}}, got {given!r:.80}")
    return dict(given)


def start_states(options: Mapping[str, Any], world: WorldModel, num_envs: int) -> np.ndarray:
    """The states ``(num_envs, state_dim)``, or cores ``(num_envs, core_dim)``, that reset options ask for.

    Raises:
        ValueError: an observation that hides part of the state; other options than "obs" or "state", values
            that are not finite, or another shape; states far from all that the world has learned from.
    """
    task = world.task
    if set(options) not in ({"obs"}, {"state"}):
        raise ValueError(f"reset options are {{'obs': ...}} or {{'state': ...}}, got {sorted(options)}")
    ((name, given),) = options.items()
    if name == "obs" and isinstance(given, Mapping):
        given = task.flat(given)
    array, layout = bounded_numbers(f"options[{name!r}]", given), task.core
    shape: tuple[int, ...] = task.observation_space.shape or ()
    if name == "state":
        shape = (layout.dim,) if array.shape[-1:] == (layout.dim,) else (layout.state_dim,)
    if array.shape == shape:
        array = np.broadcast_to(array, (num_envs, *shape))
    if array.shape != (num_envs, *shape):
        raise ValueError(f"options[{name!r}] must be of shape {shape} or {(num_envs, *shape)}")
    if name == "obs" and layout.hidden:
        unseen = ", ".join(layout.names[i] for i in layout.hidden[:5])
        more = f" and {len(layout.hidden) - 5} more" if len(layout.hidden) > 5 else ""
        raise ValueError(f"the observation hides {unseen}{more}; start from options={{'state': ...}}")
    flat = array.astype(np.float64).reshape(num_envs, -1)
    states = np.array(flat if name == "state" else layout.from_obs(flat), np.float32)
    if name == "obs":
        _refuse_impossible(flat, states, layout)
    _refuse_no_starts(states, world)
    return states


def start_bank(given: Any, world: WorldModel) -> np.ndarray:
    """The states ``(n, state_dim)`` float32 to draw starts from; None takes those that the world keeps.

    Raises:
        ValueError: another shape, values that are not finite, states far from all that the world knows.
    """
    bank = state_rows("starts", world.starts if given is None else given, world.task.core.state_dim)
    if given is not None:
        _refuse_no_starts(bank, world)
    return bank


def knows(state: np.ndarray, world: WorldModel) -> bool:
    """Whether an episode may be started in a state ``(state_dim,)``."""
    try:
        _refuse_no_starts(state[None], world)
    except ValueError:
        return False
    return True


def _refuse_no_starts(states: np.ndarray, world: WorldModel) -> None:
    """Refuse states ``(n, state_dim)`` with rotations that are none, or of which the world knows nothing."""
    layout = world.task.core
    for at in layout.geometry.quaternions:
        length = np.linalg.norm(states[:, at : at + 4], axis=1)
        if (abs(length - 1) > _LENGTH).any():
            raise ValueError(
                f"{layout.names[at]} to {layout.names[at + 3]} are a rotation of length "
                f"{length[abs(length - 1).argmax()]:.3g}; quaternions have length 1"
            )
    _refuse_far(states[:, : layout.dim], world)


def _refuse_impossible(obs: np.ndarray, states: np.ndarray, layout: Core) -> None:
    """Refuse observations of a robot in MuJoCo that no state of it shows: another one would stand there.

    Not of envs that read of a moment ago, whose first observations are of other moments than later ones.
    """
    if layout.layout is None or layout.geometry.read_ago:
        return
    said = np.asarray(layout.observe(states.astype(np.float64)))
    turned = np.abs(np.sin(said) - np.sin(obs)) + np.abs(np.cos(said) - np.cos(obs)) < _SHOWN
    off = np.where(turned, 0, np.abs(said - obs)) > _SHOWN * np.maximum(1, np.abs(obs))
    if off.any():
        row, at = np.argwhere(off)[0]
        raise ValueError(
            f"no state of the robot shows this observation: obs_{at} would be {said[row, at]:.4g}, not "
            f"{obs[row, at]:.4g}; take one of the env's, or start from options={{'state': ...}}"
        )


def _refuse_far(core: np.ndarray, world: WorldModel) -> None:
    """Refuse cores that are farther outside of the limits of divergence than these are apart.

    Bounds are made of real episodes and say nothing of such states, whatever they look like.
    """
    low, high = (side[: core.shape[1]].astype(np.float64) for side in (world.low, world.high))
    with np.errstate(invalid="ignore"):  # of sides without a limit
        span = np.nan_to_num(high - low, nan=np.inf)
    far = (core < low - span) | (core > high + span)
    if far.any():
        row, at = np.argwhere(far)[0]
        raise ValueError(
            f"{world.core_names[at]} = {core[row, at]:g} is far from all that this world has learned from, "
            f"which goes from {low[at]:g} to {high[at]:g} with its margin; start nearer, or fit to data of it"
        )


def reset_mask(given: Any, num_envs: int) -> np.ndarray:
    """Episodes to start ``(num_envs,)`` bool: those asked for, or all where nothing is given."""
    if given is None:
        return np.ones(num_envs, bool)
    mask = real_numbers("options['reset_mask']", given)
    if mask.shape != (num_envs,) or mask.dtype != bool or not mask.any():
        raise ValueError(f"options['reset_mask'] must be bool, of shape ({num_envs},), and true somewhere")
    return mask


def joint_seed(seeds: int | Sequence[int | None] | None, num_envs: int) -> int | None:
    """One seed made of one for each env, since all share a generator."""
    if seeds is None or isinstance(seeds, int | np.integer):
        return None if seeds is None else int(seeds)
    if len(seeds) != num_envs:
        raise ValueError(f"seed has {len(seeds)} entries for {num_envs} envs; pass an int")
    given = [seed for seed in seeds if seed is not None]
    return int(np.random.SeedSequence(given).generate_state(1, np.uint64)[0]) if given else None


def action_tensor(given: Any, space: spaces.Space[Any], num_envs: int, device: torch.device) -> torch.Tensor:
    """Actions ``(num_envs, *action_shape)`` float32, or int64 where they are whole numbers; no alias."""
    array, need = real_numbers("actions", given), (num_envs, *(space.shape or ()))
    if array.shape != need:
        raise ValueError(
            f"Action dimension mismatch: actions have shape {array.shape}, need (num_envs, ...) = {need}"
        )
    if actions.whole(space):
        # Files hold whole numbers as floats, agents do not, but for MultiBinary in Stable-Baselines3.
        if array.dtype.kind not in "iu" and not isinstance(space, spaces.MultiBinary):
            raise ValueError(f"actions must be whole numbers of an integer type, got {array.dtype}")
        actions.stored(space, array)  # refuses what is outside
        return torch.as_tensor(array.astype(np.int64), device=device)
    return torch.from_numpy(bounded_numbers("actions", array).astype(np.float32)).to(device)


def named(infos: dict[str, Any]) -> list[tuple[str, np.ndarray]]:
    """Entries of infos without their masks."""
    return [(key, value) for key, value in infos.items() if not key.startswith("_")]


def masked(infos: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Infos with a mask ``(num_envs,)`` for each key."""
    return {**infos, **{f"_{key}": mask.copy() for key in infos}}


def row_of(obs: Any, i: Any) -> Any:
    """One env's observation out of a batch, be it of a Dict."""
    return {key: row_of(part, i) for key, part in obs.items()} if isinstance(obs, Mapping) else obs[i]


def final_infos(obs: Any, infos: dict[str, Any], ended: np.ndarray) -> dict[str, Any]:
    """What the last step's infos add about the episodes of a mask ``(num_envs,)`` that have ended.

    "final_obs" is an object array of their last observations, ``obs`` ``(ended, *obs_shape)``, or
    None; "final_info" is the infos, zero for the other envs; each has its mask.
    """
    last, rows = np.full(len(ended), None, dtype=object), np.flatnonzero(ended)
    each = obs if isinstance(obs, np.ndarray) else (row_of(obs, k) for k in range(len(rows)))
    for i, row in zip(rows.tolist(), each, strict=True):
        last[i] = row
    info = {key: np.zeros_like(value) for key, value in named(infos)}
    for key, value in info.items():
        value[rows] = infos[key][rows]
    return masked({"final_obs": last, "final_info": masked(info, ended)}, ended)
