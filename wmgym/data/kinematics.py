"""Whether observations are in the units and in the order of the robot's own model, where it is known."""

from __future__ import annotations

import numpy as np

from wmgym.data.odd_columns import some_rows
from wmgym.data.transitions import Transitions

_ROWS = 20_000  # that are looked at
_ENOUGH = 30  # rows in which a joint moves
_BEYOND = 0.5  # of a joint's range outside it; MuJoCo's limits give way a little
_SELDOM = 0.01  # share of rows
_UNIT = 0.02  # of a quaternion's length; float32 and three decimals stay below
_OTHER = 3.0  # times the velocity that no integrator's error explains
_FOLLOWS, _NOT = 0.8, 0.3  # correlation of a change with the velocity that makes it, and with a stranger


def joint_limits(data: Transitions) -> str | None:
    """Joints far outside their limits, as an angle in degrees is."""
    core, (state, _) = data.task.core, _some(data)
    if not len(state):
        return None
    for k, low, high in dict.fromkeys((*core.joint_limits, *core.geometry.stops)):
        outside = np.maximum(low - state[:, k], state[:, k] - high)
        if (outside > _BEYOND * (high - low)).mean() > _SELDOM:
            far = state[int(np.argmax(outside)), k]
            return (
                f"{core.names[k]} is as far as {far:.4g}, its joint goes from {low:.4g} to {high:.4g} in the "
                "model; is it in degrees or millimetres, or in another column's place? The model counts "
                "radians and metres"
            )
    return None


def quaternions(data: Transitions) -> str | None:
    """Orientations that are no unit quaternions, or do not turn as their angular velocity says."""
    (state, after), names = _some(data), data.task.core.names
    if not len(state):
        return None
    for at in _rotations(data):
        first, length = names[at], np.linalg.norm(state[:, at : at + 4], axis=1)
        if (np.abs(length - 1) > _UNIT).mean() > _SELDOM:
            return (
                f"{first} and the three after it have length {np.median(length):.4g} in the middle row, and "
                "a unit quaternion has 1; are these columns (w, x, y, z) of one, unscaled?"
            )
        speeds = [f"{first.removesuffix('_quat_w')}_{axis}_angular_velocity" for axis in "xyz"]
        if not set(speeds) <= set(names):
            continue
        places = [names.index(speed) for speed in speeds]
        turned = (state[:, places] + after[:, places]) / 2 * data.task.dt
        orders = (0, 1, 2, 3), (3, 0, 1, 2)
        right, last = (
            _correlation(
                _rotation(*(each[:, at : at + 4][:, list(order)] for each in (state, after))), turned
            )
            for order in orders
        )
        if right < _NOT and last > _FOLLOWS:
            return (
                f"{first} and the three after it turn as their angular velocity says only if they are (x, y, "
                "z, w); store w first, as MuJoCo does"
            )
    return None


def joint_velocities(data: Transitions) -> str | None:
    """Joints whose change over a step is not their velocity times its length."""
    (state, after), names = _some(data), data.task.core.names
    dt, circle = data.task.dt, set(data.task.core.geometry.angles)
    strange, count = list[str](), 0
    for k, name in enumerate(names):
        if f"{name}_velocity" not in names:
            continue
        v = names.index(f"{name}_velocity")
        change, moved = after[:, k] - state[:, k], (state[:, v] + after[:, v]) / 2 * dt
        # Over more than a turn it is another unit, or turns are counted.
        if k in circle and np.ptp(state[:, k]) <= 2 * np.pi:
            change = np.mod(change + np.pi, 2 * np.pi) - np.pi
        follows, ratio = _followed(change, moved)
        if follows is None:
            continue
        count += 1
        if follows > _FOLLOWS and not 1 / _OTHER < ratio < _OTHER:
            return (
                f"{name} moves {ratio:.3g} times as far in a step as its velocity times dt={dt:g}; is one of "
                "them in another unit, such as degrees or millimetres, or do steps take another time?"
            )
        if follows < _NOT:
            back, ratio = _followed(after[:, v] - state[:, v], (state[:, k] + after[:, k]) / 2 * dt)
            if back is not None and back > _FOLLOWS and 1 / _OTHER < ratio < _OTHER:
                return (
                    f"{names[v]} changes as if {name} were its velocity, and not the other way round: "
                    "positions and velocities stand in each other's columns"
                )
            strange.append(name)
    if len(strange) <= count / 2:
        return None
    return (
        f"{', '.join(strange[:5])}{' and more' if len(strange) > 5 else ''} do not move as their velocities "
        f"say; are the columns in the order of the model, {', '.join(names[:5])}, ...?"
    )


def _some(data: Transitions) -> tuple[np.ndarray, np.ndarray]:
    """States ``(n, core_dim)`` and those after them where the model is known; else none."""
    rows = some_rows(data, _ROWS)
    if data.task.core.layout is None and not data.task.from_table:
        rows = rows[:0]
    return data.core[rows].astype(np.float64), data.next_core[rows].astype(np.float64)


def _rotations(data: Transitions) -> list[int]:
    """First numbers of the quaternions that are in the data and change."""
    still = set(data.task.core.geometry.fixed)
    return [k for k, name in enumerate(data.task.core.names) if name.endswith("_quat_w") and k not in still]


def _rotation(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The turn ``(n, 3)`` from quaternions to others, radians about the body's axes where it is small."""
    w, xyz = before[:, :1], -before[:, 1:]
    real = (w * after[:, :1])[:, 0] - (xyz * after[:, 1:]).sum(1)
    turn = w * after[:, 1:] + after[:, :1] * xyz + np.cross(xyz, after[:, 1:])
    angles: np.ndarray = 2 * turn * np.where(real < 0, -1.0, 1.0)[:, None]
    return angles


def _followed(change: np.ndarray, moved: np.ndarray) -> tuple[float | None, float]:
    """How a change goes with what a velocity says, and how many times as large it is; None if it rests."""
    moving = np.abs(moved) >= np.quantile(np.abs(moved), 0.5) if len(moved) else np.zeros(0, bool)
    moving &= (np.abs(moved) > 1e-9) & (np.abs(change) > 0)
    if moving.sum() < _ENOUGH:
        return None, 1.0
    change, moved = change[moving], moved[moving]
    return _correlation(change, moved), float(np.median(np.abs(change / moved)))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of all numbers about zero, not their means; 1 where there is nothing to compare."""
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    return float((one * other).sum() / norms) if norms > 0 else 1.0
