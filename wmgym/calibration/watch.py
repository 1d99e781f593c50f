"""A test of whether a robot under the policy at hand is still the usual one, with a level of false alarms."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from wmgym.calibration.shift_detection import clip, residuals
from wmgym.data.layouts import laid_out
from wmgym.data.robot_log import refuse_no_log, refuse_other_robot
from wmgym.data.transitions import Transitions
from wmgym.models.world import WorldModel

LOOKS = (250, 500, 1_000)
"""After how many steps of the robot the test looks."""

LEVEL = 0.005
"""Chance of a false alarm that a test aims at, all looks together; events that the reference shows too
seldom, such as a fall in one episode of a hundred, add to it."""

_FEWEST = 8  # stretches of the reference that tell how much one differs from the others
_BLOCK = 50  # steps after which errors have forgotten each other, for the unit of a mean
_FLOOR = 1e-3  # least unit, in standard deviations of the world's noise; what never varies has none


@dataclass(frozen=True)
class Change:
    """What a test says of a robot.

    Attributes:
        flagged: the robot has changed.
        p_value: chance that the usual robot looks as odd at any of the looks, at most 1.
        steps: of the robot, at the look that flagged it, or at the last one.
        sign: what is oddest at that look.
    """

    flagged: bool
    p_value: float
    steps: int
    sign: str

    def __str__(self) -> str:
        """One line."""
        said = "the robot has changed" if self.flagged else "no sign that the robot has changed"
        return f"{said}: after {self.steps:,} steps p = {self.p_value:.2g}; the oddest is {self.sign}"


@dataclass(frozen=True)
class _Look:
    """What stretches of so many steps of the usual robot come to.

    Attributes:
        steps: of a stretch.
        centre: ``(signs,)``, mean over stretches.
        unit: ``(signs,)``, standard deviation of a new stretch's distance from it.
        usual: mean over stretches of the logarithm of their oddity.
        spread: standard deviation of a new one's logarithm around that.
        stretches: how many there are.
    """

    steps: int
    centre: np.ndarray
    unit: np.ndarray
    usual: float
    spread: float
    stretches: int


@dataclass(frozen=True)
class Watch:
    """The errors of a world on the usual robot under one policy, to compare new steps with; see ``watch``.

    Attributes:
        world: whose predictions are compared with the robot.
        looks: one for each of ``LOOKS`` that the reference is long enough for.
        level: chance of a false alarm that is aimed at.
    """

    world: WorldModel
    looks: tuple[_Look, ...] = field(repr=False)
    level: float

    def __call__(self, data: Transitions) -> Change:
        """Test new steps of a robot under the same policy, in the order they are in, up to the last look.

        Raises:
            ValueError: fewer steps than the first look takes, or imagined ones.
        """
        refuse_no_log(data, "a watch")
        values, needed = _signs(self.world, _head(data, self.looks[-1].steps)), self.looks[0].steps
        if len(values) < needed:
            raise ValueError(f"the first look takes {needed} steps of the robot, here are {len(values)}")
        least, steps, sign = 1.0, 0, ""
        for look in (look for look in self.looks if look.steps <= len(values)):
            away = np.abs(values[: look.steps].mean(0) - look.centre) / look.unit
            oddity = (math.log(max(away.max(), _FLOOR)) - look.usual) / look.spread
            least = min(least, len(self.looks) * _upper_tail(oddity, look.stretches - 1))
            steps, sign = look.steps, _names(self.world)[int(away.argmax())]
            if least < self.level:
                break
        return Change(least < self.level, least, steps, sign)


def watch(world: WorldModel, reference: Transitions, *, level: float = LEVEL) -> Watch:
    """Learn what the usual robot looks like under a policy, to tell when it no longer is the usual one.

    The signs are means over steps of the standardised residual ``z`` of every dimension, of
    ``log(1 + z**2)``, and of ``z`` times the prediction's derivative in the action's size. The reference is
    cut into stretches that each begin with an episode; the oddity of one is the largest distance of any sign
    from the other stretches' mean, in standard deviations. A new stretch is flagged where its oddity is too
    large for them: Student's t on the logarithm, with Bonferroni's correction for the looks.

    Args:
        world: a world of the usual robot.
        reference: real steps of the usual robot under the policy at hand; 20,000 are enough for all looks,
            eight times a look the least for it.
        level: chance of a false alarm to aim at, all looks together.

    Raises:
        ValueError: a reference too short for the first look, of another robot or imagined, or a level out of
            (0, 1).
    """
    if not isinstance(world, WorldModel):
        raise ValueError(
            "watch takes a world of the usual robot: a learned one, or a hybrid of its nominal model "
            f"(wmgym.residual); got {type(world).__name__}"
        )
    refuse_no_log(reference, "watch")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    values = _signs(world, reference)
    blocks = values[: len(values) // _BLOCK * _BLOCK].reshape(-1, _BLOCK, values.shape[1])
    unit = np.maximum(blocks.mean(1).std(0) * math.sqrt(_BLOCK), _FLOOR)  # of one step
    found = [_look(values, reference.first, unit, steps) for steps in LOOKS]
    looks = tuple(look for look in found if look is not None)
    if not looks:
        raise ValueError(
            f"{len(values):,} steps of the usual robot in {reference.num_episodes} episodes make fewer than "
            f"{_FEWEST} stretches of {LOOKS[0]}, of which each begins with an episode; record more, up to "
            f"{20 * LOOKS[-1]:,} steps"
        )
    return Watch(world, looks, level)


def _head(data: Transitions, steps: int) -> Transitions:
    """The episodes that hold the first steps."""
    return data.select(np.flatnonzero(data.first < steps))


def _signs(world: WorldModel, data: Transitions) -> np.ndarray:
    """What each step says ``(n, signs)``, as ``_names`` has them."""
    if data.source != "real":
        raise ValueError("steps of the robot are needed, and these are imagined")
    data = laid_out(data, world.task)
    refuse_other_robot(data, world.task)
    z, slope = residuals(world, data)
    z = np.nan_to_num(z.astype(np.float64))
    clipped = clip(z)
    return np.concatenate([clipped, np.log1p(z**2), (clipped * slope).sum(1, keepdims=True)], 1)


def _names(world: WorldModel) -> list[str]:
    """A sign each."""
    moved = [f"the root's displacement {k}" for k in range(world.task.core.displacement_dim)]
    core, labels = [*world.core_names, *moved], world.coordinates.change_labels
    names = [f"the rotation about axis {i}" if kind == "rotation" else core[i] for kind, i in labels]
    means, sizes = ([f"the {what} error of {name}" for name in names] for what in ("mean", "size of the"))
    return [*means, *sizes, "how strongly actions act"]


def _look(values: np.ndarray, first: np.ndarray, unit: np.ndarray, steps: int) -> _Look | None:
    """What stretches of the reference come to; None where it makes too few."""
    starts, at = [], 0
    while at + steps <= len(values):
        starts.append(at)
        later = first[first >= at + steps]
        at = int(later[0]) if len(later) else len(values)
    count = len(starts)
    if count < _FEWEST:
        return None
    means = np.array([values[at : at + steps].mean(0) for at in starts])
    others = (means.sum(0) - means) / (count - 1)
    unit = unit / math.sqrt(steps)
    # A stretch and the mean of n others are further apart than one and the true mean.
    oddity = np.abs((means - others) / unit).max(1) / math.sqrt(count / (count - 1))
    logarithm, more = np.log(np.maximum(oddity, _FLOOR)), math.sqrt(1 + 1 / count)
    spread = max(float(logarithm.std(ddof=1)), 0.05) * more
    return _Look(steps, means.mean(0), unit * more, float(logarithm.mean()), spread, count)


def _upper_tail(value: float, freedom: int) -> float:
    """Chance that Student's t exceeds ``value``: its density is a power of the cosine of an angle."""
    angles = np.linspace(math.atan(value / math.sqrt(freedom)), math.pi / 2, 2_001)
    whole = np.linspace(-math.pi / 2, math.pi / 2, 4_001)
    density = [np.maximum(np.cos(x), 0.0) ** (freedom - 1) for x in (angles, whole)]
    return float(np.trapezoid(density[0], angles) / np.trapezoid(density[1], whole))
