"""What a step computes, as functions of one row that a ``Recorder`` takes down.

The world's own code does the work, so that there is one place for every formula.
"""

from __future__ import annotations

import contextlib
from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from typing import Protocol

import numpy as np
from torch import Tensor

from wmgym.models.batching import with_columns
from wmgym.models.compiled_network import network
from wmgym.models.compiled_trace import Recorder, RecordingError
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import Dynamics, Propagation
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.error_bounds import SMALLEST_DISAGREEMENT, Calibration, disagreement
from wmgym.models.flags import FlagNetwork, Flags
from wmgym.models.outcomes import Classifier, Outcomes
from wmgym.models.pairs import RewardNetwork
from wmgym.models.step import companion_after, moved_within, put_back
from wmgym.tasks import actions
from wmgym.tasks.layout import Array, Core
from wmgym.tasks.task import Task


class World(Protocol):
    """What is recorded of a ``WorldModel``, which has methods that need this module."""

    # fmt: off
    @property
    def task(self) -> Task: ...  # noqa: D102
    @property
    def dynamics(self) -> Dynamics: ...  # noqa: D102
    @property
    def readout(self) -> Dynamics | None: ...  # noqa: D102
    @property
    def starts(self) -> np.ndarray: ...  # noqa: D102
    @property
    def calibration(self) -> Calibration | None: ...  # noqa: D102
    @property
    def outcomes(self) -> Outcomes | None: ...  # noqa: D102
    @property
    def flags(self) -> Flags | None: ...  # noqa: D102
    @property
    def coordinates(self) -> Coordinates: ...  # noqa: D102
    @property
    def limits(self) -> tuple[Array, Array]: ...  # noqa: D102
    @property
    def action_bounds(self) -> tuple[Tensor, ...]: ...  # noqa: D102
    @property
    def std_scale(self) -> Tensor: ...  # noqa: D102
    @property
    def data_std(self) -> Tensor: ...  # noqa: D102
    # fmt: on


def recordable(world: World) -> bool:
    """Whether all networks are ``EnsembleMLP`` on the CPU whose weights are frozen and in float32.

    Dynamics of another class are any code.
    """
    needed = not world.task.core.readout_dim or world.readout is not None
    return needed and all(map(_plain, networks(world)))


def networks(world: World) -> list[Dynamics]:
    """All that a step asks."""
    outcomes = world.outcomes
    learned = () if outcomes is None else (outcomes.network, outcomes.rewards)
    flags = None if world.flags is None else world.flags.network
    return [world.dynamics, *(each for each in (world.readout, flags, *learned) if each is not None)]


def _plain(model: object) -> bool:
    if not isinstance(model, EnsembleMLP) or type(model) not in (
        EnsembleMLP,
        Classifier,
        FlagNetwork,
        RewardNetwork,
    ):
        return False
    frozen = not any(weight.requires_grad or not weight.is_cpu for weight in model.weights)
    return frozen and model.precision == "float32"


def example_inputs(world: World) -> dict[str, np.ndarray]:
    """An example of every input that a step may have, to record with."""
    core, start = world.task.core, world.starts[:1]
    zeros = np.zeros((1, core.dim), np.float32)
    return {
        "core": start[:, : core.dim],
        "shown": start[:, core.dim :],
        "action": np.zeros((1, world.task.action_dim), np.float32),
        "companion": zeros,
        "lasting": zeros,
        "noise": np.zeros((1, world.dynamics.target_dim), np.float32),
        "elapsed": np.zeros(1, np.int64),
    }


class Recording(dict[str, Array]):
    """Inputs by name, recorded where they are first asked for."""

    def __init__(self, examples: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.recorder, self._examples = Recorder(), examples

    def __contains__(self, name: object) -> bool:
        return name in self._examples

    def __missing__(self, name: str) -> Array:
        self[name] = self.recorder.input(name, self._examples[name])
        return self[name]


def predict(
    world: World, given: Mapping[str, Array], propagation: Propagation, trust: bool
) -> dict[str, Array]:
    """From the state to the next core as predicted, all ``(1, ...)``."""
    model, coordinates = world.dynamics, world.coordinates
    assert isinstance(model, EnsembleMLP)
    encoded = _encoded(world, given["action"])
    d, found = model.target_dim, dict[str, Array]()
    said, std = network(model, given["core"], encoded, None if propagation == "mean" else 0)
    if propagation == "mean":
        said = said.mean(0)
    target = said[:, :d]
    if model.config.learns_termination:
        found["end_logit"] = said[:, d:]
    if propagation == "sample":
        target = target + world.std_scale.numpy() * std() * given["noise"]
    limits, joints = world.limits, world.task.core.joint_limits
    raw, sound, diverged = moved_within(coordinates, joints, limits, given["core"], target, encoded)
    found |= {"raw": raw, "sound": sound, "diverged": diverged}
    found["predicted"] = target[:, coordinates.change_dim :]
    if trust:
        found["companion_target"] = network(model, given["companion"], encoded, 1)[0][:, :d]
    return found


def whole(
    world: World, given: MutableMapping[str, Array], propagation: Propagation, trust: bool
) -> dict[str, Array]:
    """The step in one piece, without a branch; what ``predict`` and ``settle`` give."""
    first = predict(world, given, propagation, trust)
    back = put_back(world.limits, given["core"], first["raw"])
    sound = np.where(first["diverged"][:, None], back, first["sound"])
    return first | settle(world, ChainMap(first | {"sound": sound}, given), propagation, trust)


def settle(
    world: World, given: Mapping[str, Array], propagation: Propagation, trust: bool
) -> dict[str, Array]:
    """From the next core, put back where it diverged, to all that a step gives."""
    core, task, table = world.task.core, world.task, world.calibration
    next_core, displacement = given["sound"][:, : core.dim], given["sound"][:, core.dim :]
    if world.flags is not None:
        next_core = _flagged(world, world.flags, given, next_core)
    next_shown, unobserved = given["shown"], displacement
    if core.readout_dim:
        assert isinstance(world.readout, EnsembleMLP)
        said, _ = network(world.readout, next_core, _encoded(world, given["action"]), 0, member=0)
        readout = said[:, : core.readout_dim]
        split = core.readout_dim - core.shown_dim
        unobserved = np.concatenate([displacement, readout[:, :split]], 1)
        next_shown = readout[:, split:]
    full = np.concatenate([next_core, next_shown], 1)
    found: dict[str, Array] = {
        "next_core": next_core, "next_shown": next_shown, "displacement": displacement, "next_full": full,
        "unobserved": unobserved,
    }  # fmt: skip
    found |= _paid(world, given, found)
    if task.from_table or core.layout is not None or core.observe is Core.observe:
        with contextlib.suppress(RecordingError):
            found["obs"] = _shown(world, full)
    if table is not None:
        name = "per_disagreement" if trust else "half_width"
        bound = given["elapsed"].looked_up(table.tables[name][propagation])
        if trust:
            found |= _with_companion(world, given, next_core)
            bound = bound * _disagreement_scale(world, given, found, propagation)
        found["error_bound"] = table.saturated(bound, next_core).astype(np.float32)
        if trust:
            found["distrust"] = (found["error_bound"] / table.data_std).mean(1)
    return found


def _flagged(world: World, flags: Flags, given: Mapping[str, Array], next_core: Array) -> Array:
    """The next core with its flags; see ``Flags.settle``. Without ``threshold`` they are the likeliest."""
    held = with_columns(next_core, flags.columns, given["core"].take(flags.columns, 1))
    pair = np.concatenate([given["core"], held], 1)
    logits, _ = network(flags.network, pair, _encoded(world, given["action"]), 0, member=0)
    threshold = given["threshold"] if "threshold" in given else np.float32(0.5)
    on = (1 / (1 + np.exp(-logits[:, : flags.network.target_dim])) > threshold).take(flags.sources, 1)
    return with_columns(next_core, flags.columns, np.where(on, flags.high, flags.low))


def _paid(world: World, given: Mapping[str, Array], found: Mapping[str, Array]) -> dict[str, Array]:
    """Reward and termination ``(1,)``, the likeliest; nothing where functions of the caller's say them."""
    task, outcomes, predicted = world.task, world.outcomes, given["predicted"]
    functions = [each for each in (task.reward, task.terminated) if each is not None]
    known = (
        np.concatenate([given["core"], given["shown"]], 1), given["action"], found["next_full"],
        found["unobserved"],
    )  # fmt: skip
    unknown = task.reward is None and not predicted.shape[1]
    unknown &= outcomes is None or not outcomes.knows_reward
    unknown |= task.terminated is None and outcomes is None and "end_logit" not in given
    if unknown or (functions and not task.from_table):
        return {}
    terminated = None if task.terminated is None else task.terminated(*known)
    if terminated is None and "end_logit" in given:
        terminated = given["end_logit"][:, 0] > 0
    chosen: Array = None
    if outcomes is not None:
        pair = outcomes.pair(task.core, known[0], known[2])
        chosen = _likeliest(world, outcomes, given, pair, terminated)
        if terminated is None:
            terminated = (chosen & outcomes.ends).any(1)
    if task.reward is not None:
        return {"reward": task.reward(*known).astype(np.float32), "terminated": terminated}
    if outcomes is not None and outcomes.rewards is not None:
        predicted, _ = network(outcomes.rewards, pair, _encoded(world, given["action"]), 0, member=0)
    # Where nothing regresses, every value is one of a few.
    one = predicted[:, 0] if predicted.shape[1] else found["next_core"][:, 0] * 0.0
    reward = np.where(np.isfinite(one), one, 0.0)
    if outcomes is not None and not np.isnan(outcomes.values).all():
        every = np.where(np.isnan(outcomes.values), reward.astype(np.float64)[:, None], outcomes.values)
        reward = np.where(chosen, every, 0.0).sum(1)
    return {"reward": reward, "terminated": terminated}


def _likeliest(
    world: World, outcomes: Outcomes, given: Mapping[str, Array], pair: Array, terminated: Array | None
) -> Array:
    """Which outcome it is ``(1, classes)`` bool; see ``Outcomes.of``."""
    logits = given["core"][:, :1] * 0.0  # of a single class
    if outcomes.network is not None:
        logits, _ = network(outcomes.network, pair, _encoded(world, given["action"]), 0, member=0)
    if terminated is not None and outcomes.ends.any() and not outcomes.ends.all():
        logits = np.where(terminated[:, None] != outcomes.ends, -np.inf, logits)
    return logits >= logits.max(1)[:, None]


def _with_companion(world: World, given: Mapping[str, Array], next_core: Array) -> dict[str, Array]:
    encoded = _encoded(world, given["action"])
    companion, lasting = companion_after(
        next_core, given["companion"], given["lasting"], given["companion_target"], encoded,
        world.coordinates, world.limits, world.data_std.numpy(), world.flags,
    )  # fmt: skip
    return {"next_companion": companion, "next_lasting": lasting}


def _disagreement_scale(
    world: World, given: Mapping[str, Array], found: Mapping[str, Array], propagation: Propagation
) -> Array:
    distance = (
        world.coordinates.distance(found["next_core"], found["next_companion"]) / world.data_std.numpy()
    )
    scale = disagreement(distance, found["next_lasting"], given["elapsed"])
    assert world.calibration is not None
    power = world.calibration.power[propagation]
    exponent = given["elapsed"].looked_up(np.concatenate([power[:1], power]))
    return np.maximum(scale, SMALLEST_DISAGREEMENT) ** exponent[:, None]


def first_look(world: World, given: Mapping[str, Array]) -> Array:
    """The observation ``(1, obs_dim)`` of a state."""
    return _shown(world, np.concatenate([given["core"], given["shown"]], 1).copy())


def _shown(world: World, full: Array) -> Array:
    """The observation ``(1, obs_dim)`` in the type and the bounds of its space."""
    space = world.task.observation_space
    flat = world.task.core.observe(full)
    assert space.dtype is not None
    if space.dtype.kind in "iu":
        flat = flat.round()
    obs: Array = flat.astype(space.dtype)
    if space.dtype.kind == "b":
        return obs  # any number but 0 is true
    if np.isfinite(space.low).any() or np.isfinite(space.high).any():
        obs = obs.clip(space.low.reshape(1, -1), space.high.reshape(1, -1))
    return obs


def _encoded(world: World, action: Array) -> Array:
    if actions.whole(world.task.action_space):
        return action
    low, high = (side.numpy() for side in world.action_bounds)
    return np.minimum(np.maximum(action, low), high)
