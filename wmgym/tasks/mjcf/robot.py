"""What is kept of a compiled model: plain numbers, so that a world is loaded without MuJoCo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from wmgym.io.schema import STRICT
from wmgym.tasks.geometry import Foot

Chain: TypeAlias = tuple[tuple[int, float], ...]
"""A sum of numbers of the physical state, ``(number, factor)``."""


@dataclass(frozen=True)
class Robot:
    """The numbers of a physical state, in the order of ``simulation.PARTS``; indices count these.

    Attributes:
        sizes: how many numbers each part has.
        names: of all.
        hinges: angles of hinges.
        circle: those of them on which nothing depends but through their sine and cosine.
        limits: ``(number, low, high)`` of slides and hinges.
        rotations: the first of four numbers of a unit quaternion each.
        base: quaternion of a floating base alone in a world that looks the same from every side.
        base_velocity: its linear velocity, in world axes.
        pitch: likewise of a base that slides and turns in a level plane: angle and sense.
        pitch_velocity: its velocity along the two slides.
        vectors: components of one quantity of a loose body or a ball: its place, velocity, angular velocity.
        nowhere: places along which the world looks the same everywhere.
        sums: chains of hinges about one axis, ``(number, sign)``: the angle of a part against the world.
        headings: of bodies that slide and turn in a plane, angle, angular velocity, the sense in which it
            turns the first slide's axis towards the second's, and the velocities along these.
    """

    __pydantic_config__ = STRICT

    sizes: tuple[int, ...]
    names: tuple[str, ...]
    hinges: tuple[int, ...]
    circle: tuple[int, ...]
    limits: tuple[tuple[int, float, float], ...]
    rotations: tuple[int, ...]
    base: int | None
    base_velocity: tuple[int, ...]
    pitch: tuple[int, int] | None
    pitch_velocity: tuple[int, ...]
    vectors: tuple[tuple[int, ...], ...]
    nowhere: tuple[int, ...]
    sums: tuple[Chain, ...]
    headings: tuple[tuple[int, int, int, tuple[int, int]], ...] = ()

    @property
    def units(self) -> tuple[str, ...]:
        """Of all numbers, "" where unknown."""
        places, speeds, at = list[str](), list[str](), 0
        while at < self.sizes[0]:
            width, unit = (4, "1") if at in self.rotations else (1, "rad" if at in self.hinges else "m")
            places += [unit] * width
            speeds += ["rad/s"] * 3 if width == 4 else [f"{unit}/s"]
            at += width
        assert (len(places), len(speeds)) == self.sizes[:2]
        return (*places, *speeds, *[""] * self.sizes[2], *["m"] * self.sizes[3], *["1"] * self.sizes[4])


@dataclass(frozen=True)
class Model:
    """A model that Gymnasium ships.

    Attributes:
        robot: what its state is.
        feet: by geom the two ends of a walking robot's foot; links count numbers of the physical state.
    """

    __pydantic_config__ = STRICT

    robot: Robot
    feet: tuple[tuple[str, tuple[Foot, Foot]], ...] = ()
