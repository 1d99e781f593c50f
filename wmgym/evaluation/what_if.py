"""What would have happened had a robot acted otherwise from one moment of its log on."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from wmgym.calibration.open_loop import known_states, remembered
from wmgym.data.acting import Actor, naming
from wmgym.data.layouts import laid_out
from wmgym.data.policy import PolicyFn
from wmgym.data.pool import as_policies
from wmgym.data.robot_log import refuse_no_log
from wmgym.data.steps import Episode, Recorder, Step, columns, from_episodes
from wmgym.data.transitions import Transitions
from wmgym.evaluation.counterfactual import arrive
from wmgym.evaluation.sides import sides
from wmgym.io.arguments import count_or_none, seed_number, whole_number
from wmgym.models.world import WorldModel
from wmgym.tasks.actions import ActionSpace, first, stored, whole
from wmgym.tasks.task import Task


@dataclass(frozen=True, repr=False)
class WhatIf:
    """Another course of events, beside the one in the log; all arrays have one row a step.

    Attributes:
        names: of the state's dimensions.
        logged: ``(steps, core_dim)`` states of the log, as far as it goes; NaN beyond.
        action: ``(steps, *action_shape)`` taken in the simulator, as ``env.step`` takes them, in float64; NaN
            after its episode's end.
        simulated: ``(steps, core_dim)`` states in the simulator, NaN after its episode's end: where the task
            ends it, or at the time limit of the robot's env.
        bound: ``(steps, core_dim)`` its error bounds, likewise; None without.
        reward: ``(steps,)`` in the simulator, likewise; NaN where a MuJoCo model alone is one, which knows
            neither rewards nor ends.
        mujoco: ``(steps, core_dim)`` in the robot's own MuJoCo env, NaN after its end; None where there is
            none, or where it does not repeat the episode up to that moment.
        mujoco_reward: ``(steps,)`` likewise.
        logged_return: sum of the logged rewards over these steps; None where the log has none.
    """

    names: tuple[str, ...]
    logged: np.ndarray
    action: np.ndarray
    simulated: np.ndarray
    bound: np.ndarray | None
    reward: np.ndarray
    mujoco: np.ndarray | None
    mujoco_reward: np.ndarray | None
    logged_return: float | None

    def __repr__(self) -> str:
        """How it would have ended, in a few lines."""
        steps, last = len(self.simulated), int((~np.isnan(self.simulated[:, 0])).sum()) - 1
        rewards = list[str]()
        if not np.isnan(self.reward).all():
            rewards.append(f"simulated {np.nansum(self.reward):.3g}")
        if self.logged_return is not None:
            rewards.insert(0, f"logged {self.logged_return:.3g}")
        if self.mujoco_reward is not None:
            rewards.append(f"MuJoCo {np.nansum(self.mujoco_reward):.3g}")
        ended = "" if last + 1 == steps else f" of {steps}, where the simulated episode ends"
        after = f"after {last + 1}" + (ended or f" step{'s' * (steps != 1)}")
        lines = [after + (", return " if rewards else "") + ", ".join(rewards)]
        apart = np.nan_to_num(np.abs(self.simulated[last] - self.logged[last]), nan=0.0)
        unit = np.maximum(np.nanstd(self.logged, 0), 1e-6)
        for i in np.argsort(-apart / unit)[:3]:
            bound = "" if self.bound is None else f" +- {self.bound[last, i]:.3g}"
            exact = "" if self.mujoco is None else f", MuJoCo {self.mujoco[last, i]:.3g}"
            lines.append(
                f"  {self.names[i]}: logged {self.logged[last, i]:.3g}, simulated "
                f"{self.simulated[last, i]:.3g}{bound}{exact}"
            )
        return "\n".join(lines)


def counterfactual(
    log: Transitions,
    t: int,
    actions: Any,
    simulator: Any,
    *,
    episode: int = 0,
    steps: int | None = None,
    seed: int = 0,
) -> WhatIf:
    """What would have happened had the robot acted otherwise from step ``t`` of an episode on.

    Args:
        log: transitions of the robot.
        t: step of the episode, from 0.
        actions: ``(steps, *action_shape)``, as the robot's env takes them; or a policy in any form that
            ``score`` takes. Whole numbers begin at the space's ``start``, where ``log.action`` counts from 0:
            add ``start`` to pass logged ones.
        simulator: a world, or what ``gap`` takes for one.
        episode: of the log.
        steps: how far to go; None goes as far as the actions, or the log, do. Nothing follows an episode's
            end.
        seed: decides everything random.

    Raises:
        ValueError: no such moment, actions of another shape or outside their space, or a number that is not
            whole.
    """
    refuse_no_log(log, "counterfactual")
    t, episode = whole_number("t", t, least=0), whole_number("episode", episode, least=0)
    steps, seed = count_or_none("steps", steps), seed_number(seed)
    if episode >= log.num_episodes or t >= log.lengths[episode]:
        raise ValueError(f"the log has no step {t} in an episode {episode}")
    both = sides(log, simulator)
    world = both.world()
    log = laid_out(log, world.task)
    row, left = int(log.first[episode]) + t, int(log.lengths[episode]) - t
    plan, policy, name = None, None, ""
    if isinstance(actions, (np.ndarray, list, tuple)):
        plan = _planned(actions, world.task)
    else:
        name, policy = next(iter(as_policies(actions, split=None).items()))
        if policy is None:
            raise ValueError("pass actions, or one policy")
        if not both.plays:
            raise ValueError(
                "MuJoCo alone steps states and knows neither what this robot observes nor what it is paid; "
                "pass actions, or a hybrid simulator (wmgym.residual)"
            )
    longest = left if plan is None else len(plan)
    total = longest if steps is None else min(steps, longest) if plan is not None else steps
    plan = None if plan is None else plan[:total]
    # Of a task without an env, the limit is only how long its longest episode was.
    limit = log.task.max_episode_steps if log.task.has_env else None
    going = total if limit is None else min(total, max(limit - t, left))
    with naming(name):
        course = _simulated(world, log, row, going, plan, policy, seed)
        exact = _in_mujoco(log, row, total, plan, policy)
    same = min(total, left)
    return WhatIf(
        names=world.core_names,
        logged=_padded(log.next_core[row : row + same], total),
        action=_padded(course["action"], total),
        simulated=_padded(course["core"], total),
        bound=_padded(course["bound"], total) if world.calibration is not None else None,
        reward=_padded(course["reward"], total),
        mujoco=None if exact is None else _padded(exact.next_core, total),
        mujoco_reward=None if exact is None or exact.reward is None else _padded(exact.reward, total),
        logged_return=None if log.reward is None else float(log.reward[row : row + same].sum()),
    )


def _planned(actions: Any, task: Task) -> np.ndarray:
    """Actions of a caller as the task's: ``(steps, *action_shape)``, of the space's type."""
    space, plan = task.action_space, np.asarray(actions)
    shape = space.shape or ()
    if plan.ndim == 0 or not len(plan) or plan.shape[1:] != shape or plan.dtype.kind not in "biuf":
        wanted = ", ".join(map(str, ("steps", *shape)))
        raise ValueError(f"actions must be numbers ({wanted}), at least one step, got shape {plan.shape}")
    if whole(space):
        return _counted(space, plan)
    with np.errstate(over="ignore"):  # to infinity, where the space's type does not reach
        plan = plan.astype(space.dtype)
    if not np.isfinite(plan).all():
        raise ValueError(f"actions must be finite in {space.dtype}; these hold NaN or infinity")
    assert isinstance(space, spaces.Box)
    beyond = np.maximum(space.low - plan, plan - space.high)
    if (beyond > 1e-6 * np.maximum(1, np.abs(plan))).any():
        raise ValueError(
            f"actions reach from {plan.min():g} to {plan.max():g}, beyond the robot's, "
            f"{np.min(space.low):g} to {np.max(space.high):g}; clip them: np.clip(actions, low, high)"
        )
    return plan


def _counted(space: ActionSpace, plan: np.ndarray) -> np.ndarray:
    start = np.asarray(first(space))
    try:
        found: np.ndarray = (stored(space, plan) + start).astype(space.dtype)
    except ValueError as error:
        cure = f"; log.action counts from 0: add {start.tolist()} to pass logged ones" if start.any() else ""
        raise ValueError(f"{error}{cure}") from None
    return found


def _simulated(
    world: WorldModel,
    log: Transitions,
    row: int,
    count: int,
    plan: np.ndarray | None,
    policy: PolicyFn | None,
    seed: int,
) -> dict[str, np.ndarray]:
    actor = None if policy is None else Actor(policy, world.task)
    generator, bounded = torch.Generator(world.device).manual_seed(seed), world.calibration is not None
    start = np.array([row])
    state = world.init(known_states(world, log, start), generator)
    carry = remembered(world, log, start, state.member)
    state = replace(state, carry=carry, companion_carry=carry)
    rows: dict[str, list[np.ndarray]] = {"action": [], "core": [], "bound": [], "reward": []}
    for step in range(1, count + 1):
        if plan is None:
            assert actor is not None
            obs = world.task.core.observe(state.full.cpu().numpy())
            action = actor(np.asarray(obs).reshape(1, *world.task.observation_space.shape), [0])
            action = np.asarray(action, world.task.action_space.dtype)
        else:
            action = plan[step - 1][None]
        with torch.no_grad():
            given = torch.tensor(np.asarray(action), device=world.device)
            outcome = world.step(state, given, "member", generator, bounded)
        state = outcome.state
        rows["action"].append(np.asarray(action)[0])
        rows["core"].append(state.core.cpu().numpy()[0])
        rows["reward"].append(outcome.reward.cpu().numpy()[0])
        if world.calibration is not None:
            elapsed = np.array([step])
            apart = world.disagreement(state, elapsed)
            bound = world.calibration.error_bound(elapsed, "member", state.core.cpu().numpy(), apart)
            rows["bound"].append(bound[0])
        if outcome.terminated[0]:
            break
    return {name: np.array(values) for name, values in rows.items()}


def _in_mujoco(
    log: Transitions, row: int, count: int, plan: np.ndarray | None, policy: PolicyFn | None
) -> Transitions | None:
    """The robot's own env, brought to that moment by the log's seed and actions, and driven otherwise."""
    if not log.task.has_env or log.task.core.to_mujoco is None:
        return None
    actor = None if policy is None else Actor(policy, log.task)
    with contextlib.closing(log.task.make()) as env:
        obs = arrive(env, log, row)
        if obs is None:
            return None
        recorder, steps = Recorder(log.task, env), list[Step]()
        recorder.look(obs)
        for step in range(count):
            if plan is None:
                assert actor is not None
                action = actor(np.asarray(recorder.obs)[None], [0])[0]
            else:
                action = plan[step]
            steps.append(recorder.step(action))
            if steps[-1].terminated or steps[-1].truncated:
                break
        steps[-1] = steps[-1]._replace(truncated=not steps[-1].terminated)
        return from_episodes(log.task, [Episode(0, "otherwise", -1, columns(steps))])


def _padded(values: np.ndarray, count: int) -> np.ndarray:
    found = np.full((count, *values.shape[1:]), np.nan)
    found[: len(values)] = values
    return found
