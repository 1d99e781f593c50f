"""System identification of a MuJoCo model's parameters, by ``mujoco.sysid``."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import numpy as np

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


Stepper: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Cores ``(n, core_dim)`` after a step from cores ``(n, core_dim)`` under actions ``(n, action_dim)``."""


@dataclass(frozen=True)
class Estimate:
    """What was identified.

    Attributes:
        values: of each parameter.
        half_widths: of their 95 % intervals, from the curvature at the optimum; infinite where the data say
            nothing.
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
) -> Estimate:
    """Fit parameters to windows of recorded states by nonlinear least squares.

    Args:
        task: the nominal robot.
        starts: ``(n, core_dim)`` cores that windows start from.
        actions: ``(n, steps, action_dim)``.
        ends: ``(n, steps, core_dim)`` recorded cores after each step.
        unit: ``(core_dim,)``, what errors are divided by.
        names: of the parameters, keys of ``BOUNDS``.

    Raises:
        ImportError: ``mujoco.sysid`` lacks what it imports.
    """
    try:
        sysid: Any = importlib.import_module("mujoco.sysid")  # its types pull in those of all of MuJoCo
    except ModuleNotFoundError as error:
        raise ImportError(f"system identification needs {error.name}: pip install 'wmgym[sysid]'") from error

    windows = _Windows(task, starts, actions, ends, unit)
    if not names:
        alone = float(np.sqrt(np.mean(windows.errors({}) ** 2)))
        return Estimate({}, {}, (alone, alone))
    nominal = {name: float(getattr(Shift(), name)) for name in names}
    begin = windows.scanned(nominal)
    parameters = sysid.ParameterDict(
        {name: sysid.Parameter(name, begin[name], *BOUNDS[name]) for name in names}
    )

    def residual(x: np.ndarray, params: Any) -> tuple[list[np.ndarray], None, None]:
        return [windows.errors(dict(zip(names, map(float, np.ravel(x)), strict=True)))], None, None

    before = [windows.errors(nominal)]
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of every iteration
        found, result = sysid.optimize(
            parameters, residual, optimizer="scipy", verbose=False, max_iters=20, diff_step=1e-3,
            x_scale="jac",
        )  # fmt: skip
    values = dict(zip(names, map(float, found.as_vector()), strict=True))
    after = [windows.errors(values)]
    _, widths = sysid.calculate_intervals(after, np.asarray(result.jac))
    rms = [float(np.sqrt(np.mean(np.concatenate(each) ** 2))) for each in (before, after)]
    return Estimate(values, dict(zip(names, map(float, widths), strict=True)), (rms[0], rms[1]))


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

    def scanned(self, values: Mapping[str, float]) -> dict[str, float]:
        """The best of a few values of each parameter in turn: contacts make a descent from afar stall."""
        best = dict(values)
        for name in values:
            low, high = BOUNDS[name]
            tried = [
                best[name],
                *(np.geomspace(low, high, 7) if low > 0 else np.linspace(low, high, 9))[1:-1],
            ]
            costs = [np.square(self.errors({**best, name: float(value)})).sum() for value in tried]
            best[name] = float(tried[int(np.argmin(costs))])
        return best

    def errors(self, values: Mapping[str, float]) -> np.ndarray:
        """Errors of all windows under these parameters, flat, in std, clipped."""
        model = _changed(self._physics.model, values)
        cores = self._physics.open_loop(self._starts, self._actions, model)
        errors = np.nan_to_num((cores - self._ends) / self._unit, nan=_CLIP)
        clipped: np.ndarray = np.clip(errors, -_CLIP, _CLIP)
        return clipped.reshape(-1)
