"""A world as one ONNX file of a step, with a JSON contract beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from wmgym.io.files import StrPath
from wmgym.io.provenance import library_versions
from wmgym.models.compiled_onnx import onnx_graph
from wmgym.models.compiled_record import Recording, World, example_inputs, recordable, whole
from wmgym.models.dynamics import PROPAGATIONS, Propagation
from wmgym.tasks import actions
from wmgym.tasks.layout import Core
from wmgym.tasks.mjcf.mirror import Mirror
from wmgym.tasks.mjcf.orientation import unit
from wmgym.tasks.mjcf.shown import Column, Shown

STARTS = 16
"""Start states that a contract holds."""

_STEP = ("next_core", "next_shown", "obs", "reward", "terminated", "diverged", "error_bound", "displacement")
_TRUST = ("next_companion", "next_lasting", "distrust")


def export_world(world: World, path: StrPath, propagation: Propagation, trust: bool) -> Path:
    """See ``WorldModel.export``."""
    if propagation not in PROPAGATIONS:
        raise ValueError(f"propagation must be one of {', '.join(PROPAGATIONS)}, got {propagation!r}")
    if trust and world.calibration is None:
        raise ValueError("trust needs a calibrated world; see wmgym.calibrate")
    if not recordable(world):
        kind = type(world.dynamics).__name__
        raise ValueError(
            f"dynamics of the class {kind} cannot be exported as they are; worlds of frozen EnsembleMLP "
            "networks on the CPU in float32 can, and wmgym.distill makes one of this world"
        )
    inputs = example_inputs(world)
    given = Recording(inputs)
    try:
        with np.errstate(all="ignore"):
            made = whole(world, given, propagation, trust)
    except (TypeError, AttributeError) as error:  # of functions that do more than NumPy
        raise ValueError(f"this world cannot be exported: {error}") from error
    if "reward" not in made:
        raise ValueError(
            "this world's reward or termination is a Python function, which ONNX cannot hold; fit a world of "
            "a task that learns them"
        )
    if "obs" not in made:
        raise ValueError("this world's observation is made by a Python function, which ONNX cannot hold")
    names = [*_STEP, *(_TRUST if trust else ())]
    outputs = {name: made[name].node for name in names if name in made and made[name].node.value.size}
    graph = onnx_graph(outputs, inputs)
    return graph.write(path, {**_contract(world, propagation, trust), **graph.arrays()})


def _contract(world: World, propagation: Propagation, trust: bool) -> dict[str, Any]:
    task, table, space = world.task, world.calibration, world.task.action_space
    bound = None
    if table is not None:
        bound = {
            "level": table.level,
            "half_width": np.nan_to_num(table.half_width[propagation].astype(float), posinf=1e30).tolist(),
            "data_std": np.asarray(table.data_std, float).tolist(),
        }
    return {
        "kind": "wmgym world",
        "versions": library_versions(),
        "env_id": task.env_id,
        "dt": task.dt,
        "max_episode_steps": task.max_episode_steps,
        "members": world.dynamics.num_members,
        "propagation": propagation,
        "trust": trust,
        "names": {"core": list(task.core.names)},
        "units": {"dt": "s", **_units(task.core, task.obs_dim)},
        "action": _action(space),
        "starts": world.starts[:STARTS].astype(float).tolist(),
        "first_obs": np.asarray(task.core.observe(world.starts[:STARTS]), float).tolist(),
        "bound": bound,
        "step": (
            "elapsed counts this step, from 1; feed next_* back as core, shown, companion and lasting; an "
            "episode ends where terminated, is cut off where diverged, and keeps its member"
        ),
    }


def _units(core: Core, obs_dim: int) -> dict[str, list[str]]:
    """By dimension, "unknown" where nothing tells."""
    state = [unit or "unknown" for unit in core.units] or ["unknown"] * core.state_dim
    obs, mirror = ["unknown"] * obs_dim, getattr(core.observe, "__self__", None)
    if isinstance(mirror, Mirror):
        readouts = iter(state[core.dim :])
        obs = [_unit(column, mirror.shown, state) or next(readouts) for column in mirror.shown.columns]
    elif len(state) == obs_dim:
        obs = state
    moved = ["m" if core.units else "unknown"] * core.displacement_dim
    return {"core": state[: core.dim], "shown": state[core.dim :], "obs": obs, "displacement": moved}


def _unit(column: Column, shown: Shown, state: list[str]) -> str | None:
    """Of an observation's column; None of a readout."""
    if column.terms is None:
        return None
    units = set()
    for i, _ in column.terms:
        if i >= shown.first_oriented:
            units.add(unit(shown.of_orientation(i)[1]))
        else:
            units.add(state[i] if i < shown.dim else "1")
    return units.pop() if len(units) == 1 else "unknown"


def _action(space: actions.ActionSpace) -> dict[str, Any]:
    if isinstance(space, spaces.Box):
        low, high = (np.asarray(side, float).reshape(-1).tolist() for side in (space.low, space.high))
        return {"kind": "numbers", "low": low, "high": high}
    first = np.asarray(actions.first(space)).tolist()
    return {"kind": "one-hot", "choices": actions.choices(space).tolist(), "first": first}
