"""System identification of a MuJoCo model's parameters, by ``mujoco.sysid``."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import numpy as np
from scipy import optimize

from wmgym.tasks.physics import Physics
from wmgym.tasks.shift import Shift
from wmgym.tasks.shifted_env import change_model
from wmgym.tasks.task import Task

BOUNDS: dict[str, tuple[float, float]] = {
    "friction": (0.05, 4.0), "mass": (0.3, 3.0), "gear": (0.3, 3.0), "damping": (0.05, 10.0),
    "slope": (-20.0, 20.0),
}  # fmt: skip
"""Parameters that can be identified, fields of ``Shift``, and where they are looked for."""

_CLIP = 3.0  # std at which an error stops to count more: contacts that come a step late are outliers
_COST = {"friction": 0.5, "mass": 1.2, "gear": 1.0, "damping": 0.5, "slope": 1.0}
"""Of a change of each, where the log leaves the choice: masses are known best, frictions least."""

_LEAST = 1e-4  # std, a difference that no log tells
_NEAR, _TRIES = 0.3, 12  # how far a better value is looked for, and at how many values
_ROUNDS, _WORTHWHILE = 5, 0.9  # of refinement, each of which leaves at most this share of the error
_LOOSE = 0.2  # relative half-width of a direction beyond which the log does not settle it
_USELESS = 10.0  # likewise, of a parameter of which it says nothing
_T = 1.96
_SLOPE = 5.0  # degrees that count like a change by all of its value of another parameter


Stepper: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Cores ``(n, core_dim)`` after a step from cores ``(n, core_dim)`` under actions ``(n, action_dim)``."""


@dataclass(frozen=True)
class Estimate:
    """What was identified.

    Attributes:
        values: of each parameter.
        half_widths: of their 95 % intervals, from the curvature at the optimum with all of them free;
            infinite where the data say nothing.
        error: root mean squared error of the windows, in std, before and after.
    """

    values: dict[str, float]
    half_widths: dict[str, float]
    error: tuple[float, float]


def estimate(
    task: Task,
    starts: np.ndarray,
    actions: np.ndarray,
    ends: np.ndarray,
    unit: np.ndarray,
    names: Sequence[str],
    begin: Mapping[str, float] | None = None,
) -> Estimate:
    """Fit parameters to windows of recorded states by nonlinear least squares.

    Args:
        task: the nominal robot.
        starts: ``(n, core_dim)`` cores that windows start from.
        actions: ``(n, steps, action_dim)``.
        ends: ``(n, steps, core_dim)`` recorded cores after each step.
        unit: ``(core_dim,)``, what errors are divided by.
        names: of the parameters, keys of ``BOUNDS``.
        begin: values of a first estimate, to be refined; None makes a first one, whose half-widths are
            infinite.

    Raises:
        ImportError: ``mujoco.sysid`` lacks what it imports.
    """
    try:
        sysid: Any = importlib.import_module("mujoco.sysid")  # its types pull in those of all of MuJoCo
    except ModuleNotFoundError as error:
        raise ImportError(f"system identification needs {error.name}: pip install 'wmgym[sysid]'") from error

    windows = _Windows(task, starts, actions, ends, unit)
    if not names:
        alone = windows.rms({})
        return Estimate({}, {}, (alone, alone))
    nominal = {name: float(getattr(Shift(), name)) for name in names}

    def residual(x: np.ndarray, params: Any) -> tuple[list[np.ndarray], None, None]:
        return [windows.errors(dict(zip(names, map(float, np.ravel(x)), strict=True)))], None, None

    def optimum(begin: Mapping[str, float], **how: Any) -> dict[str, float]:
        parameters = sysid.ParameterDict(
            {name: sysid.Parameter(name, _off_ends(name, begin[name]), *BOUNDS[name]) for name in names}
        )
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of every iteration
            found, _ = sysid.optimize(
                parameters, residual, optimizer="scipy", verbose=False, x_scale="jac",
                **({"max_iters": 20, "diff_step": 1e-3} | how),
            )  # fmt: skip
        return dict(zip(names, map(float, found.as_vector()), strict=True))

    def refined(values: dict[str, float]) -> dict[str, float]:
        """Contacts that a parameter moves make errors jump; squares of a few of them end a descent early."""
        for _ in range(_ROUNDS if windows.rms(values) > _LEAST else 0):
            usual = max(float(np.median(np.abs(windows.errors(values)))), _LEAST / 100)
            moved = optimum(values, loss="cauchy", f_scale=usual, max_iters=10, diff_step=1e-5)
            if windows.absolute(moved) > _WORTHWHILE * windows.absolute(values):
                moved = windows.polished(values)
            if windows.absolute(moved) > _WORTHWHILE * windows.absolute(values):
                break
            values = moved
        return values

    before = windows.rms(nominal)
    if begin is None:
        values = optimum(windows.scanned(nominal))
        return Estimate(values, dict.fromkeys(names, np.inf), (before, windows.rms(values)))
    values = refined(dict(begin))
    if windows.rms(values) > _LEAST:  # it may have begun in the wrong valley
        single = min((windows.scanned(nominal, [name]) for name in names), key=windows.absolute)
        values = min(values, refined(optimum(single)), key=windows.absolute)
    values, half_widths = windows.settled(values, nominal)
    return Estimate(values, half_widths, (before, windows.rms(values)))


def stepper(task: Task, values: Mapping[str, float]) -> Stepper:
    """A step of a robot with these parameters, as a function."""
    physics = Physics.of(task)
    model = _changed(physics.model, values)
    return lambda core, action: physics.open_loop(core.astype(np.float64), action[:, None], model)[:, 0]


def _changed(model: Any, values: Mapping[str, float]) -> Any:
    other = copy.deepcopy(model)
    change_model(other, replace(Shift(), **cast(Any, values)))
    return other


class _Windows:
    """Recorded windows, replayed in models with other parameters."""

    def __init__(
        self, task: Task, starts: np.ndarray, actions: np.ndarray, ends: np.ndarray, unit: np.ndarray
    ) -> None:
        self._physics = Physics.of(task)
        self._starts, self._actions = starts.astype(np.float64), actions.astype(np.float64)
        self._ends, self._unit = ends, unit
        self._remembered = functools.lru_cache(maxsize=8)(self._replayed)

    def scanned(self, values: Mapping[str, float], names: Sequence[str] | None = None) -> dict[str, float]:
        """The best of a few values of each parameter in turn: contacts make a descent from afar stall."""
        best = dict(values)
        for name in names or values:
            low, high = BOUNDS[name]
            tried = [
                best[name],
                *(np.geomspace(low, high, 7) if low > 0 else np.linspace(low, high, 9))[1:-1],
            ]
            costs = [np.square(self.errors({**best, name: float(value)})).sum() for value in tried]
            best[name] = float(tried[int(np.argmin(costs))])
        return best

    def polished(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each in turn moved to where the mean absolute error is least, without any derivative."""
        best = dict(values)
        for name, middle in values.items():
            span = _NEAR * _unit(name, middle)
            low, high = (float(np.clip(middle + side, *BOUNDS[name])) for side in (-span, span))
            found = optimize.minimize_scalar(
                lambda value, name=name: self.absolute({**best, name: float(value)}),
                bounds=(low, high),
                method="bounded",
                options={"maxiter": _TRIES},
            )
            if found.fun < self.absolute(best):
                best[name] = float(found.x)
        return best

    def settled(
        self, values: Mapping[str, float], nominal: Mapping[str, float]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """The values with nothing in them that the log does not say, and half-widths of 95 % intervals.

        A robot of twice the mass, gear and damping moves alike, and one that rests shows no gear. Along such
        directions as few parameters as possible are changed.
        """
        names = [*values]
        units = np.array([_unit(name, values[name]) for name in names])
        slopes = self._slopes(values, units)
        strength, axes = np.linalg.svd(slopes, full_matrices=False)[1:]
        loose = _T * max(self.rms(values), _LEAST) / np.maximum(strength, 1e-30)  # relative half-widths
        widths = np.sqrt(np.square(axes.T * loose).sum(1))
        away = np.array([_distance(name, values[name], nominal[name]) for name in names])
        kept = _fewest(away, axes[loose > _LOOSE], np.array([_COST[name] for name in names]))
        back = {name: _moved(name, nominal[name], by) for name, by in zip(names, kept, strict=True)}
        if self.rms(back) <= max(1.02 * self.rms(values), _LEAST):
            values = back
        half_widths = np.where(widths > _USELESS, np.inf, widths * units)
        return dict(values), dict(zip(names, map(float, half_widths), strict=True))

    def _slopes(self, values: Mapping[str, float], units: np.ndarray, step: float = 1e-4) -> np.ndarray:
        """Derivatives of the errors by each parameter in its unit ``(errors, parameters)``.

        By central differences, which see that two parameters do the same. Rows that jump are scaled to the
        size of usual ones.
        """
        found = []
        for (name, value), unit in zip(values.items(), units, strict=True):
            more, less = (self.errors({**values, name: value + side * step * unit}) for side in (1, -1))
            found.append((more - less) / (2 * step))
        slopes = np.stack(found, 1)
        size = np.linalg.norm(slopes, axis=1, keepdims=True)
        most = np.quantile(size, 0.99)
        scaled: np.ndarray = slopes * np.minimum(1.0, most / np.maximum(size, 1e-30))
        return scaled

    def rms(self, values: Mapping[str, float]) -> float:
        """Root mean squared error, in std."""
        return float(np.sqrt(np.mean(self.errors(values) ** 2)))

    def absolute(self, values: Mapping[str, float]) -> float:
        """Mean absolute error, in std."""
        return float(np.mean(np.abs(self.errors(values))))

    def errors(self, values: Mapping[str, float]) -> np.ndarray:
        """Errors of all windows under these parameters, flat, in std, clipped; not to be written to.

        Those of a few are remembered: a search asks for several norms of the same.
        """
        return self._remembered(tuple(values.items()))

    def _replayed(self, values: tuple[tuple[str, float], ...]) -> np.ndarray:
        model = _changed(self._physics.model, dict(values))
        cores = self._physics.open_loop(self._starts, self._actions, model)
        errors = np.nan_to_num((cores - self._ends) / self._unit, nan=_CLIP)
        clipped: np.ndarray = np.clip(errors, -_CLIP, _CLIP).reshape(-1)
        clipped.flags.writeable = False
        return clipped


def _off_ends(name: str, value: float) -> float:
    """A value to begin from; at an end of its range a descent may stall, of which the toolbox warns."""
    low, high = BOUNDS[name]
    inside = 2e-3 * (high - low)
    return float(np.clip(value, low + inside, high - inside))


def _unit(name: str, value: float) -> float:
    """What counts as a large change of a parameter."""
    return _SLOPE if name == "slope" else value


def _distance(name: str, value: float, nominal: float) -> float:
    """From the nominal value, in units: those that multiply something count by their logarithm."""
    return (value - nominal) / _SLOPE if name == "slope" else float(np.log(value / nominal))


def _moved(name: str, nominal: float, by: float) -> float:
    """The inverse of ``_distance``, within the bounds."""
    value = nominal + by * _SLOPE if name == "slope" else nominal * float(np.exp(by))
    return float(np.clip(value, *BOUNDS[name]))


def _fewest(away: np.ndarray, free: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """The cheapest change ``(parameters,)`` that differs from ``away`` along the rows of ``free`` alone."""
    k, n = free.shape
    if not k:
        return away
    size = np.eye(n)  # of each change, at least as large as it and as its negative
    found = optimize.linprog(
        np.r_[np.zeros(k), cost],
        A_ub=np.block([[free.T, -size], [-free.T, -size]]),
        b_ub=np.r_[-away, away],
        bounds=[(None, None)] * k + [(0, None)] * n,
    )
    return away + found.x[:k] @ free if found.success else away
