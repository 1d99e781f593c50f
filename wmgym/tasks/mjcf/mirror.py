"""Observations that are exact functions of a core, and the way back; of NumPy arrays and torch tensors."""

from __future__ import annotations

import functools
import math

import numpy as np

from wmgym.tasks.layout import Array, arctan2, cos, sin
from wmgym.tasks.mjcf.constants import as_kind, places
from wmgym.tasks.mjcf.orientation import COUNT, Heading
from wmgym.tasks.mjcf.shown import Shown
from wmgym.tasks.mjcf.told import Told, ToldHeading

_SOLVED = 1e-6  # a number is determined where the equations give it back to this accuracy


class Mirror:
    """``Shown`` as two functions."""

    def __init__(self, shown: Shown) -> None:
        self.shown = shown
        dim, turns, columns = shown.dim, len(shown.angles), shown.columns
        self.turn = _matrix(dim, shown.angles)
        rows = shown.first_oriented + COUNT * len(shown.orientations)
        whole = _matrix(rows, [column.terms or () for column in columns])
        self.copied, self.sine = whole[:dim], whole[dim : dim + turns]
        self.cosine = whole[dim + turns : shown.first_oriented]
        first = shown.first_oriented
        self.oriented = [
            (turned, [(k, whole[first + COUNT * at + k]) for of, k in sorted(shown.oriented) if of == at])
            for at, turned in enumerate(shown.orientations)
        ]
        self.offset = np.array([column.offset for column in columns])
        self.source, self.factor = np.abs(self.copied).argmax(0), self.copied.sum(0)
        self.picked = bool(((self.copied != 0).sum(0) <= 1).all())  # no column is a sum
        self.readouts = list(shown.readouts)
        self.wrapped = [k for k, column in enumerate(columns) if column.wrapped]
        self.classed = [k for k, column in enumerate(columns) if column.classed]
        starts = [columns[k].turn for k in self.wrapped]
        self.start, self.span = np.array(starts).reshape(-1, 2).T
        ends = [(None, None) if c.wrapped else (c.low, c.high) for c in columns]
        clipped = any(end != (None, None) and not c.classed for c, end in zip(columns, ends, strict=True))
        self.low = np.array([-math.inf if low is None else low for low, _ in ends]) if clipped else None
        self.high = np.array([math.inf if high is None else high for _, high in ends]) if clipped else None
        self._invert()

    def observe(self, state: Array) -> Array:
        """States ``(..., dim + readouts)`` to observations."""
        like, dim = state, self.shown.dim
        core = state[..., :dim]
        if self.picked and isinstance(core, np.ndarray):  # a product would wake the threads of NumPy's BLAS
            obs = core.take(self.source, -1)
            obs *= as_kind(self.factor, like)
            obs += as_kind(self.offset, like)
        else:
            obs = core @ as_kind(self.copied, like) + as_kind(self.offset, like)
        if self.shown.angles:
            angle = core @ as_kind(self.turn, like)
            obs = obs + sin(angle) @ as_kind(self.sine, like) + cos(angle) @ as_kind(self.cosine, like)
        for orientation, wanted in self.oriented:
            number = orientation.number(core)
            for k, factors in wanted:
                obs = obs + number(k)[..., None] * as_kind(factors, like)
        if self.readouts:
            obs[..., places(self.readouts, like)] = state[..., dim:]
        if self.wrapped:
            wrapped, start = places(self.wrapped, like), as_kind(self.start, like)
            obs[..., wrapped] = (obs[..., wrapped] - start) % as_kind(self.span, like) + start
        if self.low is not None and self.high is not None:
            obs = obs.clip(as_kind(self.low, like), as_kind(self.high, like))
        if self.classed:
            classed = places(self.classed, like)
            obs[..., classed] = self._in_classes(obs[..., classed])
        return obs

    def from_obs(self, obs: Array) -> Array:
        """Observations to states; what these hide is as usual."""
        state = obs @ as_kind(self.back, obs) + as_kind(self.rest, obs)
        if self.pairs:
            sines, cosines, factors, offsets = self.pairs
            sines, cosines = places(sines, obs), places(cosines, obs)
            scale, shift = as_kind(factors, obs), as_kind(offsets, obs)
            angle = arctan2(
                (obs[..., sines] - shift[0]) / scale[0], (obs[..., cosines] - shift[1]) / scale[1]
            )
            if self.chained:
                known = as_kind(self.turn[:, self.turned] * self.known, obs)
                angle = _wrap((angle - state[..., : self.shown.dim] @ known) @ as_kind(self.solve, obs))
            else:
                angle = angle @ as_kind(self.solve, obs)
            state[..., places(self.solved, obs)] = angle
        for told, unknown in self.told:
            for i, number in told.numbers(obs, state).items():
                if i in unknown:
                    state[..., i] = number
        if self.left:
            columns, numbers = (places([each[side] for each in self.left], obs) for side in (0, 1))
            factors = as_kind(np.array(self.left_factors), obs)
            said = self.observe(state)
            state[..., numbers] = state[..., numbers] + (obs - said)[..., columns] / factors
        return state

    def _in_classes(self, readouts: Array) -> Array:
        pairs = [(self.shown.columns[k].low, self.shown.columns[k].high) for k in self.classed]
        low, high = as_kind(np.array(pairs, float).T, readouts)
        return low + (readouts > (low + high) / 2) * (high - low)

    def _invert(self) -> None:
        """What the observation tells of the core, by copies, angles and how bodies are turned."""
        shown, dim = self.shown, self.shown.dim
        lines = [
            k
            for k, column in enumerate(shown.columns)
            if column.terms and all(i < dim for i, _ in column.terms)
            if not column.wrapped or len(column.terms) == 1
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
        found[list(shown.constant)] = True
        self._invert_orientations(found)
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

    def _invert_orientations(self, found: np.ndarray) -> None:
        """Marks what columns that each show one number of an orientation give; others are guessed."""
        shown, self.told = self.shown, list[tuple[Told | ToldHeading, set[int]]]()
        for at, orientation in enumerate(shown.orientations):
            first = shown.first_oriented + COUNT * at
            alone = {
                column.terms[0][0] - first: (k, column.terms[0][1], column.offset)
                for k, column in enumerate(shown.columns)
                if column.terms and len(column.terms) == 1
                if column.wrapped or (column.low is None and column.high is None)
                if first <= column.terms[0][0] < first + COUNT
            }
            if orientation.ago:
                continue
            if isinstance(orientation, Heading):
                seen: Told | ToldHeading = ToldHeading(orientation, alone)
                known = seen.known() if found[orientation.at] else None
            else:
                own = range(orientation.at, orientation.at + 4)
                level = {own[1], own[2]} <= {*shown.constant} and not any(shown.usual[i] for i in own[1:3])
                seen = Told(orientation, alone, bool(found[own].all()), level)
                known = seen.known(anyway=shown.hides_heading(orientation.at)) if seen.anything else None
            if known is not None:
                self.told.append((seen, {int(i) for i in np.flatnonzero(~found)}))
                found[list(known)] = True

    def _invert_left(self, found: np.ndarray) -> None:
        """Marks numbers that are all that is unknown of a column beside sines and cosines."""
        shown, dim = self.shown, self.shown.dim
        self.left: list[tuple[int, int]] = []
        self.left_factors: list[float] = []
        for k, column in enumerate(shown.columns):
            terms = [i for i, _ in column.terms or ()]
            plain = (column.low, column.high, column.wrapped) == (None, None, False)
            if not plain or max(terms, default=0) < dim:
                continue
            taken = {i for i in terms if i < dim}
            for i in terms:
                if i >= shown.first_oriented:
                    at, number = shown.of_orientation(i)
                    taken |= shown.orientations[at].takes(number)
                elif i >= dim:
                    taken |= {turned for turned, _ in shown.angles[(i - dim) % len(shown.angles)]}
            unknown = {i for i in taken if not found[i]}
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


def _matrix(rows: int, columns: object) -> np.ndarray:
    every = list(columns)  # type: ignore[call-overload]
    matrix = np.zeros((rows, len(every)))
    for k, terms in enumerate(every):
        for i, factor in terms:
            matrix[i, k] = factor
    return matrix


def _wrap(angle: Array) -> Array:
    return (angle + math.pi) % (2 * math.pi) - math.pi
