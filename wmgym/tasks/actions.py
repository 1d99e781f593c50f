"""Action spaces: how actions are given, stored, and seen by a network."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces

ActionSpace: TypeAlias = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
"""The spaces that actions may have.

Actions of a Box are stored flat ``(n, action_dim)`` in float32; those of the others, which are whole numbers,
as int64 counted from 0, ``(n,)`` of a Discrete and ``(n, parts)`` of the rest.
"""

MOST_CHOICES = 2**16
"""A network sees whole-number actions as one-hots, so that no more choices than this are of use."""


def refuse_space(space: spaces.Space[Any]) -> ActionSpace:
    """The space, if actions may have it.

    Raises:
        ValueError: another one, a Box without bounds, or more than ``MOST_CHOICES`` choices; the message says
            what to do.
    """
    if isinstance(space, spaces.Box):
        if not space.shape:
            raise ValueError(
                "an action that is a single number needs an axis: make it Box(low, high, (1,)), and take "
                "action[0] in step"
            )
        if not space.is_bounded():
            raise ValueError(
                "action space must be bounded; give the env finite limits, such as its actuators have: "
                f"self.action_space = gymnasium.spaces.Box(-1.0, 1.0, {space.shape}), and scale in step"
            )
        return space
    multi = isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)) and len(space.shape) == 1
    if isinstance(space, spaces.Discrete) or multi:
        if width(space) > MOST_CHOICES:
            raise ValueError(
                f"actions may have {MOST_CHOICES:,} choices, got {width(space):,} of {plain(space)}; wrap "
                "the env in a gymnasium.ActionWrapper whose actions are a Box"
            )
        return space  # type: ignore[return-value]
    raise ValueError(
        f"action space must be Box, Discrete, MultiDiscrete or MultiBinary of one axis, got "
        f"{plain(space)}; wrap the env in a gymnasium.ActionWrapper"
    )


def refuse_fixed(space: spaces.Space[Any], name: str) -> None:
    """Refuse an action that has a single value for an algorithm that divides by its range.

    Raises:
        ValueError: there is one; says what to do.
    """
    if isinstance(space, spaces.Box) and (space.low == space.high).any():
        k = int(np.argmax(np.ravel(space.low == space.high)))
        raise ValueError(
            f"action {k} can only be {np.ravel(space.low)[k]:g}, and {name} divides by the range of each; "
            "take PPO or A2C, or leave it out of the env's actions"
        )


def whole(space: spaces.Space[Any]) -> bool:
    """Whether actions are whole numbers."""
    return not isinstance(space, spaces.Box)


def first(space: spaces.Space[Any]) -> Any:
    """What stored whole-number actions count from: an int, or ``(parts,)`` int64; 0 of a Box."""
    if isinstance(space, spaces.Discrete):
        return int(space.start)
    return np.asarray(space.start) if isinstance(space, spaces.MultiDiscrete) else 0


def from_zero(space: ActionSpace) -> ActionSpace:
    """The same space with whole numbers from 0, which alone Stable-Baselines3 knows."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    return spaces.MultiDiscrete(space.nvec) if isinstance(space, spaces.MultiDiscrete) else space


def choices(space: spaces.Space[Any]) -> np.ndarray:
    """How many values each part of a whole-number action may take: ``()`` of a Discrete, or ``(parts,)``."""
    if isinstance(space, spaces.Discrete):
        return np.asarray(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return np.asarray(space.nvec)
    assert isinstance(space, spaces.MultiBinary)
    return np.full(space.shape, 2)


def width(space: spaces.Space[Any]) -> int:
    """Numbers that a network sees of an action: a flat Box, or a one-hot for every part."""
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape))
    return int(choices(space).sum())


def bounds(space: spaces.Space[Any]) -> list[tuple[float, float]]:
    """Between what each of the ``width`` numbers is that a network sees of an action."""
    if isinstance(space, spaces.Box):
        return list(zip(space.low.reshape(-1).tolist(), space.high.reshape(-1).tolist(), strict=True))
    return [(0.0, 1.0)] * width(space)


def seen(space: spaces.Space[Any], stored: np.ndarray) -> np.ndarray:
    """Stored actions ``(n, ...)`` as a network sees them ``(n, width)``, float64: clipped, or one-hots."""
    if isinstance(space, spaces.Box):
        flat = stored.reshape(len(stored), -1).astype(np.float64)
        return np.asarray(np.clip(flat, space.low.reshape(-1), space.high.reshape(-1)))
    counts = choices(space).reshape(-1)
    found = np.zeros((len(stored), int(counts.sum())))
    chosen = stored.reshape(len(stored), -1) + np.cumsum([0, *counts[:-1]])
    np.put_along_axis(found, chosen, 1.0, 1)
    return found


def outside(space: spaces.Space[Any], counted: np.ndarray) -> np.ndarray:
    """Which numbers of whole-number actions ``(n, ...)``, counted from 0, the space does not have."""
    return np.asarray((counted < 0) | (counted >= choices(space)))


def stored(space: spaces.Space[Any], given: np.ndarray, name: str = "actions") -> np.ndarray:
    """Whole-number actions ``(n, ...)`` as stored, be they given as integers, bools or floats, as files do.

    Raises:
        ValueError: not whole numbers, or outside the space.
    """
    need = f"{name} must be whole numbers inside {plain(space)}, one action a row"
    if given.shape[1:] != space.shape:
        raise ValueError(f"{need}; they have shape {given.shape}")
    if given.dtype.kind != "f":
        given = given.astype(np.int64)
    counted = given - first(space)
    wrong = (counted != np.rint(counted)) | outside(space, counted)  # NaN differs from itself
    if wrong.any():
        raise ValueError(f"{need}, got {given[wrong][0]:g}")
    return np.asarray(counted.astype(np.int64))


def plain(space: spaces.Space[Any]) -> str:
    """A space in one line; arrays are printed on several."""
    return " ".join(str(space).split())


def uniform(space: ActionSpace, rng: np.random.Generator, n: int) -> np.ndarray:
    """``n`` uniform actions, as the env takes them."""
    if isinstance(space, spaces.Box):
        return rng.uniform(space.low, space.high, size=(n, *space.shape)).astype(space.dtype)
    low = first(space)
    return rng.integers(low, low + choices(space), size=(n, *(space.shape or ())))


def encoded(space: ActionSpace, given: np.ndarray) -> np.ndarray:
    """Actions ``(n, ...)`` of the space as a network sees them: ``(n, width)`` float64."""
    if isinstance(space, spaces.Box):
        return np.asarray(given, np.float64).reshape(len(given), -1)
    counted = stored(space, np.asarray(given)).reshape(len(given), -1)
    sizes = np.atleast_1d(choices(space))
    return np.concatenate([np.eye(n)[part] for n, part in zip(sizes, counted.T, strict=True)], 1)
