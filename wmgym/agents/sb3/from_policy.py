"""Begin a training where a policy of any architecture is: its actions are cloned into the new agent."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from wmgym.agents.sb3.dyna_sac_policy import DynaSACPolicy
from wmgym.agents.sb3.dyna_sac_settings import spread_of
from wmgym.agents.sb3.take_over import NOISE, follow, middle_and_scale, set_usual_noise
from wmgym.agents.sb3.vec_env import ImaginedVecEnv
from wmgym.data.acting import Actor, naming
from wmgym.data.pool import as_policies
from wmgym.tasks import actions
from wmgym.tasks.task import Task

_ROUNDS = 3  # by the policy first, then by what was learned so far (DAgger, arXiv:1011.0686)
_VISITS = 4_096  # observations of every round
_UPDATES, _BATCH = 1_000, 256  # of every round
_SHARE = 0.05  # of the training's steps, if that is less
_ALIKE = 0.85  # of the variance of a policy's actions, which a clone should explain
_SMALL = 0.05  # half ranges; actions that differ less from their mean need no better clone


def clone(model: Any, policy: Any, venv: ImaginedVecEnv, *, steps: int, seed: int = 0) -> None:
    """Let ``model`` act as ``policy`` does in the states that either of them reaches in imagination.

    A clone that explains less than 85 % of the variance of the policy's actions, in states that it reaches
    after its last lesson, is warned of. Critics stay what they were; see ``HoldActor``.

    Args:
        model: of Stable-Baselines3, sb3-contrib or ``DynaSAC``, fresh.
        policy: as ``as_policies`` takes it, one.
        venv: where both act; it is reset.
        steps: of the training that follows; a short one gets a short lesson.
        seed: decides the start states and the batches.

    Raises:
        ValueError: an algorithm without an actor, or not one policy.
        PolicyError: of the policy.
    """
    parameters = actor_parameters(model)
    if len(every := as_policies(policy)) != 1 or None in every.values():
        raise ValueError(f"a training goes on from one policy, got {', '.join(every)}")
    ((name, taken),) = every.items()
    assert taken is not None
    task, count = venv.venv.world.task, venv.num_envs
    seen: list[np.ndarray] = []
    wanted: list[np.ndarray] = []
    space, first = task.action_space, np.asarray(actions.first(task.action_space))
    with naming(name):
        teacher = Actor(taken, task)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    if isinstance(space, spaces.Box) and not _squashed(model):
        set_usual_noise(model)
    venv.seed(seed)
    episode = np.arange(count)
    obs = venv.reset()
    for visit in range(_ROUNDS + 1):
        news, asked, own = [], [], []
        for _ in range(math.ceil(min(_VISITS, steps) / count)):
            with naming(name):
                action = teacher(task.flat(obs), episode.tolist())
            if isinstance(space, spaces.Box):
                action = action.clip(space.low, space.high).astype(space.dtype)
            news.append(task.flat(obs))
            asked.append(action - first)
            own.append(model.predict(obs, deterministic=True)[0])
            obs, _, dones, _ = venv.step(model.predict(obs)[0] if visit else asked[-1])
            episode = np.where(dones, episode.max() + 1 + np.arange(count), episode)
        if visit == _ROUNDS:
            break
        seen, wanted = seen + news, wanted + asked
        updates = min(_UPDATES, math.ceil(_SHARE * steps))
        _regress(model, task, np.concatenate(seen), np.concatenate(wanted), updates, optimizer, generator)
    likeness = _likeness(model.action_space, np.concatenate(own), np.concatenate(asked))
    if likeness < _ALIKE:
        what = (
            "variance of its actions is explained" if isinstance(space, spaces.Box) else "actions are equal"
        )
        more = f"pass more steps=, up to {_UPDATES / _SHARE:,.0f} help"
        warnings.warn(
            f"the agent does not act as {name} does: {max(likeness, 0):.0%} of {what}, {_ALIKE:.0%} is good; "
            f"{more if _SHARE * steps < _UPDATES else 'another algorithm or fewer num_envs may do better'}",
            stacklevel=3,
        )


def _regress(
    model: Any,
    task: Task,
    obs: np.ndarray,
    wanted: np.ndarray,
    updates: int,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """Fit the actor's most likely actions to those ``wanted`` for flat observations, both ``(n, ...)``."""
    policy = model.policy
    if isinstance(policy, DynaSACPolicy):
        seen = torch.tensor(obs).float()
        policy.set_normaliser(seen.mean(0), spread_of(seen))
    target = torch.tensor(_in_half_ranges(model.action_space, wanted))
    policy.set_training_mode(True)
    for _ in range(updates):
        rows = torch.randint(len(obs), (_BATCH,), generator=generator)
        loss = _loss(model, policy.obs_to_tensor(task.as_dict(obs[rows.numpy()]))[0], target[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    policy.set_training_mode(False)
    if hasattr(policy, "actor"):
        follow(policy)


def _in_half_ranges(space: spaces.Space[Any], action: np.ndarray) -> np.ndarray:
    """Actions of a Box flat ``(n, action_dim)``, from -1 to 1; those of other spaces as they are."""
    if not isinstance(space, spaces.Box):
        return action
    middle, scale = middle_and_scale(space)
    scaled: np.ndarray = (action.reshape(len(action), -1) - middle) / scale
    return scaled.astype(np.float32)


def _likeness(space: spaces.Space[Any], action: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the variance of the actions ``wanted`` that ``action`` explains; of whole ones, the equal."""
    if not isinstance(space, spaces.Box):
        return float((action == wanted).mean())
    mine, theirs = _in_half_ranges(space, action), _in_half_ranges(space, wanted)
    error = np.square(mine - theirs).mean()
    return float(1 - error / max(theirs.var(0).mean(), _SMALL**2))


def _squashed(model: Any) -> bool:
    return isinstance(model.action_space, spaces.Box) and getattr(model, "actor", None) is not None


def _loss(model: Any, obs: Any, target: Tensor) -> Tensor:
    """How far actions are from ``target``, which is in half ranges of a Box.

    Standard deviations come along, since new ones are large.
    """
    space = model.action_space
    if _squashed(model):
        if not hasattr(model.actor, "get_action_dist_params"):
            return torch.nn.functional.mse_loss(model.actor(obs), target)
        mean, log_std, _ = model.actor.get_action_dist_params(obs)
        loss = torch.nn.functional.mse_loss(torch.tanh(mean), target)
        if log_std.shape == mean.shape:
            loss = loss + 0.01 * (log_std - math.log(NOISE)).square().mean()
        return loss
    acts = model.policy.get_distribution(obs)
    if not isinstance(space, spaces.Box):
        likely: Tensor = -acts.log_prob(target).mean()
        return likely
    middle, scale = (torch.tensor(each).float() for each in middle_and_scale(space))
    return torch.nn.functional.mse_loss((acts.mode() - middle) / scale, target)


def actor_parameters(model: Any) -> list[nn.Parameter]:
    """Parameters of what acts.

    Raises:
        ValueError: nothing does but the largest value.
    """
    if getattr(model, "actor", None) is not None:
        return [*model.actor.parameters()]
    if not hasattr(model.policy, "action_net"):
        raise ValueError(f"{type(model).__name__} has no actor that could go on from a policy")
    policy: Any = model.policy
    others = {
        id(each) for part in (policy.value_net, policy.mlp_extractor.value_net) for each in part.parameters()
    }
    return [each for each in policy.parameters() if id(each) not in others]
