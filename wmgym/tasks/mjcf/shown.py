"""How an observation shows a core: columns that are exact functions of it, and the way back.

All of it is numbers, so that it is stored with a world; ``observe`` and ``from_obs`` take NumPy arrays and
torch tensors alike.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from wmgym.tasks.layout import Array, arctan2, cos, sin

_SOLVED = 1e-6  # a number is determined where the equations give it back to this accuracy


@dataclass(frozen=True)
class Column:
    """An observation column ``offset + sum of factor * number``, then clipped, wrapped or one of two values.

    Attributes:
        terms: ``(number, factor)``: numbers below the core's dimension are its own, then come the sines of
            the angles, then their cosines; None for a readout.
        offset: added.
        low: smallest value, where the column is clipped.
        high: likewise the largest.
        wrapped: an angle in [-pi, pi).
        classed: a readout of two values, ``low`` and ``high``.
    """

    terms: tuple[tuple[int, float], ...] | None = None
    offset: float = 0.0
    low: float | None = None
    high: float | None = None
    wrapped: bool = False
    classed: bool = False


@dataclass(frozen=True)
class Shown:
    """An observation's columns.

    Attributes:
        dim: core dimensions.
        angles: sums of core dimensions, ``(dimension, factor)``, whose sines and cosines columns take.
        columns: one for each number of the observation.
        usual: core ``(dim,)`` that stands for what the observation hides.
    """

    dim: int
    angles: tuple[tuple[tuple[int, float], ...], ...]
    columns: tuple[Column, ...]
    usual: tuple[float, ...]

    @property
    def readouts(self) -> tuple[int, ...]:
        """Columns that are predicted."""
        return tuple(k for k, column in enumerate(self.columns) if column.terms is None)

    @property
    def numbers(self) -> set[int]:
        """Core dimensions that exact columns show."""
        found = {i for column in self.columns for i, _ in column.terms or ()}
        turned = {(i - self.dim) % max(1, len(self.angles)) for i in found if i >= self.dim}
        # A velocity that only says where a part was a moment ago, by a fraction of itself, does not show.
        whole = {i for k in turned for i, factor in self.angles[k] if abs(factor) == 1}
        return {i for i in found if i < self.dim} | whole


@dataclass(frozen=True)
class Found:
    """How observations show the state.

    Attributes:
        shown: the columns.
        kept: those that follow the physical state in the core: the env remembers them, or they stand for what
            nothing shows.
        fixed: numbers of the core, kept ones included, that never change within an episode.
        needless: numbers that nothing shows and that do not help to foresee what is shown.
    """

    shown: Shown
    kept: tuple[int, ...]
    fixed: tuple[int, ...]
    needless: tuple[int, ...] = ()


class Mirror:
    """``Shown`` as two functions."""

    def __init__(self, shown: Shown) -> None:
        self.shown = shown
        dim, turns, columns = shown.dim, len(shown.angles), shown.columns
        self.turn = _matrix(dim, shown.angles)
        whole = _matrix(dim + 2 * turns, [column.terms or () for column in columns])
        self.copied, self.sine, self.cosine = whole[:dim], whole[dim : dim + turns], whole[dim + turns :]
        self.offset = np.array([column.offset for column in columns])
        self.source, self.factor = np.abs(self.copied).argmax(0), self.copied.sum(0)
        self.picked = bool(((self.copied != 0).sum(0) <= 1).all())  # no column is a sum
        self.readouts = list(shown.readouts)
        self.wrapped = [k for k, column in enumerate(columns) if column.wrapped]
        self.classed = [k for k, column in enumerate(columns) if column.classed]
        clipped = [c for c in columns if not c.classed and (c.low, c.high) != (None, None)]
        self.low = np.array([-math.inf if c.low is None else c.low for c in columns]) if clipped else None
        self.high = np.array([math.inf if c.high is None else c.high for c in columns]) if clipped else None
        self._invert()

    def observe(self, state: Array) -> Array:
        """States ``(..., dim + readouts)`` to observations."""
        like, dim = state, self.shown.dim
        core = state[..., :dim]
        if self.picked and isinstance(core, np.ndarray):  # a product would wake the threads of NumPy's BLAS
            obs = core.take(self.source, -1)
            obs *= _as(self.factor, like)
            obs += _as(self.offset, like)
        else:
            obs = core @ _as(self.copied, like) + _as(self.offset, like)
        if self.shown.angles:
            angle = core @ _as(self.turn, like)
            obs = obs + sin(angle) @ _as(self.sine, like) + cos(angle) @ _as(self.cosine, like)
        if self.readouts:
            obs[..., _at(self.readouts, like)] = state[..., dim:]
        if self.wrapped:
            wrapped = _at(self.wrapped, like)
            obs[..., wrapped] = _wrap(obs[..., wrapped])
        if self.low is not None and self.high is not None:
            obs = obs.clip(_as(self.low, like), _as(self.high, like))
        if self.classed:
            classed = _at(self.classed, like)
            obs[..., classed] = self._in_classes(obs[..., classed])
        return obs

    def from_obs(self, obs: Array) -> Array:
        """Observations to states; what these hide is as usual."""
        state = obs @ _as(self.back, obs) + _as(self.rest, obs)
        if self.pairs:
            sines, cosines, factors, offsets = self.pairs
            sines, cosines = _at(sines, obs), _at(cosines, obs)
            scale, shift = _as(factors, obs), _as(offsets, obs)
            angle = arctan2(
                (obs[..., sines] - shift[0]) / scale[0], (obs[..., cosines] - shift[1]) / scale[1]
            )
            if self.chained:
                known = _as(self.turn[:, self.turned] * self.known, obs)
                angle = _wrap((angle - state[..., : self.shown.dim] @ known) @ _as(self.solve, obs))
            else:
                angle = angle @ _as(self.solve, obs)
            state[..., _at(self.solved, obs)] = angle
        if self.left:
            columns, numbers = (_at([each[side] for each in self.left], obs) for side in (0, 1))
            factors = _as(np.array(self.left_factors), obs)
            said = self.observe(state)
            state[..., numbers] = state[..., numbers] + (obs - said)[..., columns] / factors
        return state

    def _in_classes(self, readouts: Array) -> Array:
        pairs = [(self.shown.columns[k].low, self.shown.columns[k].high) for k in self.classed]
        low, high = _as(np.array(pairs, float).T, readouts)
        return low + (readouts > (low + high) / 2) * (high - low)

    def _invert(self) -> None:
        """What the observation tells of the core: first by copies, then by pairs of a sine and a cosine."""
        shown, dim = self.shown, self.shown.dim
        lines = [
            k
            for k, column in enumerate(shown.columns)
            if column.terms and all(i < dim for i, _ in column.terms)
            if not column.wrapped or [abs(factor) for _, factor in column.terms] == [1.0]
        ]
        equations = self.copied[:, lines].T  # (lines, dim)
        inverse = np.linalg.pinv(equations) if lines else np.zeros((dim, 0))
        found = np.abs(inverse @ equations - np.eye(dim)).max(1, initial=0.0) < _SOLVED
        inverse[~found] = 0
        self.back = np.zeros((len(shown.columns), dim + len(self.readouts)))
        self.back[lines, :dim] = inverse.T
        for place, k in enumerate(self.readouts):
            self.back[k, dim + place] = 1
        self.rest = np.zeros(dim + len(self.readouts))
        self.rest[:dim] = np.where(found, -inverse @ self.offset[lines], np.array(shown.usual))
        self._invert_angles(found)
        self._invert_left(found)
        self.hidden = tuple(int(k) for k in np.flatnonzero(~found))

    def _invert_angles(self, found: np.ndarray) -> None:
        """Marks what pairs of sines and cosines give, in ``found``."""
        shown, dim, turns = self.shown, self.shown.dim, len(self.shown.angles)
        alone = {
            column.terms[0][0]: (k, column.terms[0][1])
            for k, column in enumerate(shown.columns)
            if column.terms and len(column.terms) == 1 and column.low is None and column.high is None
        }
        both = [j for j in range(turns) if dim + j in alone and dim + turns + j in alone]
        unknown = np.flatnonzero(~found)
        equations = self.turn[unknown][:, both].T  # (pairs, unknown)
        inverse = np.linalg.pinv(equations) if equations.size else np.zeros((len(unknown), len(both)))
        # A full turn in an angle must stay a full turn in what it gives.
        whole = np.abs(inverse - np.round(inverse)).max(1, initial=0.0) < _SOLVED
        exact = np.abs(inverse @ equations - np.eye(len(unknown))).max(1, initial=0.0) < _SOLVED
        solved = whole & exact if len(both) else np.zeros(len(unknown), bool)
        self.solved = unknown[solved].tolist()
        self.solve, self.turned = inverse[solved].T, both
        self.chained = any(len(shown.angles[j]) > 1 for j in both)  # else each pair gives an angle of its own
        self.known = found.astype(float)[:, None]
        self.pairs: tuple[list[int], list[int], np.ndarray, np.ndarray] | None = None
        if self.solved:
            sines, cosines = [alone[dim + j] for j in both], [alone[dim + turns + j] for j in both]
            places = [k for k, _ in sines], [k for k, _ in cosines]
            factors = np.array([[factor for _, factor in each] for each in (sines, cosines)])
            self.pairs = *places, factors, self.offset[np.array(places)]
            found[self.solved] = True

    def _invert_left(self, found: np.ndarray) -> None:
        """Marks numbers that are all that is unknown of a column beside sines and cosines."""
        dim, turns = self.shown.dim, len(self.shown.angles)
        self.left: list[tuple[int, int]] = []
        self.left_factors: list[float] = []
        for k, column in enumerate(self.shown.columns):
            turned = {(i - dim) % turns for i, _ in column.terms or () if i >= dim}
            if not turned or (column.low, column.high, column.wrapped) != (None, None, False):
                continue
            unknown = {i for i, _ in column.terms or () if i < dim and not found[i]}
            unknown |= {i for angle in turned for i, _ in self.shown.angles[angle] if not found[i]}
            own = [(i, factor) for i, factor in column.terms or () if i in unknown]
            if len(unknown) == len(own) == 1:
                self.left.append((k, own[0][0]))
                self.left_factors.append(own[0][1])
                found[own[0][0]] = True


@functools.lru_cache(maxsize=16)
def _mirror(shown: Shown) -> Mirror:
    """Made once, since every step of a live env asks."""
    return Mirror(shown)


def with_left(shown: Shown, kept: tuple[int, ...], states: np.ndarray, obs: np.ndarray) -> np.ndarray:
    """Cores ``(..., dim)``: physical states, and what these leave unexplained of the columns ``kept``.

    Mostly that is all of a column; of what is left to a goal that nothing shows it is the goal.
    """
    own = np.zeros((*states.shape[:-1], len(kept)))
    columns, left = list(kept), obs[..., list(kept)]
    if any(len(shown.columns[k].terms or ()) > 1 for k in kept):
        readouts = np.zeros((*states.shape[:-1], len(shown.readouts)))
        left = left - _mirror(shown).observe(np.concatenate([states, own, readouts], -1))[..., columns]
    return np.concatenate([states, left], -1)


def all_readouts(dim: int, obs_dim: int) -> Shown:
    """Nothing is known yet: the observation is predicted, column by column."""
    return Shown(dim, (), (Column(),) * obs_dim, (0.0,) * dim)


def _matrix(rows: int, columns: object) -> np.ndarray:
    every = list(columns)  # type: ignore[call-overload]
    matrix = np.zeros((rows, len(every)))
    for k, terms in enumerate(every):
        for i, factor in terms:
            matrix[i, k] = factor
    return matrix


def _as(constant: np.ndarray, like: Array) -> Array:
    """The constant in the array's kind and type, which nobody may change."""
    made = getattr(like, "new_tensor", None)
    if made is None:
        return constant.astype(like.dtype)
    key = constant.tobytes(), constant.shape, like.dtype, like.device
    found = _COPIES.get(key)
    if found is None:
        found = made(constant)
        if not found.is_inference():  # else no gradient could flow past it later
            if len(_COPIES) >= _MOST_COPIES:
                _COPIES.clear()
            _COPIES[key] = found
    return found


_COPIES: dict[Any, Array] = {}  # on their device, since to copy them at every step is to wait for it
_MOST_COPIES = 512


def _at(places: list[int], like: Array) -> Array:
    """Places in an array, as something that indexes it."""
    found = _as(np.array(places, float), like)
    return found.astype(int) if isinstance(found, np.ndarray) else found.long()


def _wrap(angle: Array) -> Array:
    return (angle + math.pi) % (2 * math.pi) - math.pi
