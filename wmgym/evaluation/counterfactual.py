"""Other actions than the logged ones, from real states: in the real env and beside it in the world."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from wmgym.calibration.open_loop import OpenLoopStep, open_loop_steps, stacked
from wmgym.data.branch import branch, record
from wmgym.data.joining import concat
from wmgym.data.transitions import Transitions
from wmgym.evaluation.findings import Alternative, Counterfactual
from wmgym.models.dynamics import Propagation
from wmgym.models.state_unit import state_unit
from wmgym.models.world import WorldModel
from wmgym.tasks import actions
from wmgym.tasks.actions import ActionSpace
from wmgym.tasks.ground_truth import snapshot

STEPS, NOISE = 8, 0.3
LOGGED = "logged"
_REACH, _STARTS, _MOST_STARTS = 200, 4, 64


def counterfactual(
    world: WorldModel,
    data: Mapping[str, Transitions],
    propagation: Propagation = "member",
    seed: int = 0,
) -> Counterfactual:
    """Take logged and other actions from states of real episodes, in the real env and in the world.

    The real env is brought to such a state by a reset with the episode's seed and the episode's actions.
    From there a known MuJoCo env is branched; any other env is brought there anew for each kind of actions.

    Args:
        world: the learned simulator.
        data: real episodes of each policy, as ``collect`` records them.
        propagation: see ``WorldModel.step``.
        seed: decides states, actions and noise.

    Returns:
        The errors of each kind of actions; skipped where episodes are too short, or where the real env does
        not repeat an episode from its seed and actions.
    """
    rng, branches = np.random.default_rng(seed), dict[str, list[Transitions]]()
    windows = {name: own.window_starts(STEPS) for name, own in data.items()}
    usable = [name for name, rows in windows.items() if len(rows)]
    if not usable:
        return Counterfactual(STEPS, (), f"no real episode has {STEPS} steps")
    each = max(1, min(_STARTS, _MOST_STARTS // len(usable)))
    with contextlib.closing(world.task.make()) as env:
        for name in usable:
            own, near = data[name], windows[name]
            near = near[near - own.first[own.episode[near]] < _REACH]
            others = [(data[other], windows[other]) for other in usable if other != name]
            for row in rng.choice(near, size=min(each, len(near)), replace=False):
                plans = _plans(own, int(row), others, rng)
                for kind, outcome in zip(plans, _outcomes(env, own, int(row), plans.values()), strict=True):
                    if outcome is None:
                        return Counterfactual(STEPS, (), "the real env does not repeat an episode exactly")
                    branches.setdefault(kind, []).append(outcome)
    seen = None if world.support is None else world.support.core
    unit = state_unit(np.concatenate([own.core for own in data.values()]), world.task.core.geometry, seen)
    return _compare(
        world, {kind: concat(parts) for kind, parts in branches.items()},
        unit, propagation, seed,
    )  # fmt: skip


def _plans(
    own: Transitions, row: int, others: Sequence[tuple[Transitions, np.ndarray]], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Actions ``(STEPS, ...)`` of each kind, as the env takes them."""
    space = own.task.action_space
    logged = _as_given(space, own.action[row : row + STEPS])
    plans = {LOGGED: logged, "random": actions.uniform(space, rng, STEPS)}
    if others:
        other, rows = others[int(rng.integers(len(others)))]
        at = int(rng.choice(rows))
        plans["another policy"] = _as_given(space, other.action[at : at + STEPS])
    if isinstance(space, spaces.Box):
        noise = NOISE * (space.high - space.low) / 2 * rng.normal(size=logged.shape)
        plans["noise"] = np.clip(logged + noise, space.low, space.high).astype(space.dtype)
    return plans


def _as_given(space: ActionSpace, stored: np.ndarray) -> np.ndarray:
    """Stored actions as the env took them: whole numbers are stored from zero, Box ones flat."""
    if actions.whole(space):
        return np.asarray(stored + actions.first(space))
    return stored.reshape(len(stored), *(space.shape or ())).astype(space.dtype)


def _outcomes(
    env: gym.Env[Any, Any], own: Transitions, row: int, plans: Iterable[np.ndarray]
) -> Iterator[Transitions | None]:
    """What each plan does from the state before a row of real data; None where the env does not get there."""
    at = None
    for plan in plans:
        if at is not None:
            yield branch(own.task, at, plan, env)
            continue
        obs = arrive(env, own, row)
        if obs is None:
            yield None
            return
        if own.task.from_table:  # any other env may remember more than a snapshot holds
            with contextlib.suppress(ValueError):  # no MuJoCo env
                at = snapshot(env)
        yield record(own.task, env, obs, plan)


def arrive(env: gym.Env[Any, Any], own: Transitions, row: int) -> Any:
    """Bring an env to the state before a row of data: its observation, or None where it gets elsewhere."""
    episode = own.episode[row]
    if own.episode_seed[episode] < 0:
        return None
    obs, _ = env.reset(seed=own.episode_seed[episode])
    for action in _as_given(own.task.action_space, own.action[own.first[episode] : row]):
        obs = env.step(action)[0]
    same = np.allclose(np.asarray(obs, np.float32).reshape(-1), own.obs[row], rtol=1e-5, atol=1e-6)
    return obs if same else None


def _compare(
    world: WorldModel, real: Mapping[str, Transitions], scale: np.ndarray, propagation: Propagation, seed: int
) -> Counterfactual:
    found, bounded = list[Alternative](), world.calibration is not None
    # The same seed for all: a branch has the same member and noise under every kind of actions.
    imagined = {
        kind: stacked(open_loop_steps(world, data, data.first, STEPS, propagation, seed, trust=bounded))
        for kind, data in real.items()
    }
    for kind, data in real.items():
        last = np.minimum(data.lengths, real[LOGGED].lengths) - 1  # an env may end a branch early
        apart, said = (
            _end(real[kind], imagined[kind], last, side) - _end(real[LOGGED], imagined[LOGGED], last, side)
            for side in ("real", "imagined")
        )
        apart, said = apart / scale, said / scale
        error = imagined[kind].error[last, np.arange(len(last))] / scale
        lengths = np.linalg.norm(apart, axis=1)
        acts = lengths > 1e-6
        cosine = (apart * said).sum(1) / (lengths * np.linalg.norm(said, axis=1) + 1e-12)
        off = np.linalg.norm(apart - said, axis=1) / (lengths + 1e-12)
        found.append(
            Alternative(
                actions=kind,
                branches=len(last),
                error=float(np.median(error.mean(1))),
                coverage=_coverage(world, imagined[kind], propagation) if bounded else None,
                cosine=float(np.median(cosine[acts])) if acts.any() else None,
                difference_error=float(np.median(off[acts])) if acts.any() else None,
            )
        )
    return Counterfactual(STEPS, tuple(found))


def _end(data: Transitions, imagined: OpenLoopStep, last: np.ndarray, side: str) -> np.ndarray:
    """Cores ``(branches, core_dim)`` at the step ``last`` of every branch, real or imagined."""
    found: np.ndarray = data.next_core[data.first + last]
    return found if side == "real" else imagined.core[last, np.arange(len(last))]


def _coverage(world: WorldModel, steps: OpenLoopStep, propagation: Propagation) -> float:
    assert world.calibration is not None
    count, windows, dim = steps.error.shape
    elapsed = np.arange(1, count + 1).repeat(windows)
    core, disagreement = steps.core.reshape(-1, dim), steps.disagreement.reshape(-1, dim)
    bound = world.calibration.error_bound(elapsed, propagation, core, disagreement)
    error = steps.error.reshape(-1, dim)
    return float((error <= bound)[~np.isnan(error[:, 0])].mean())
