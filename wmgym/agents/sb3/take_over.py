"""Begin a training with the very weights of a policy, where an agent's actor can have them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from wmgym.agents.sb3.export import ACTIVATIONS, to_policy
from wmgym.data.policy import MLPPolicy
from wmgym.data.pool import as_policies

NOISE = 0.1  # of a policy that states none, in half ranges of the actions; that of a SAC agent in the end
_FOLLOWERS = ("actor_target", "averaged_actor", "chosen_actor")
"""What a policy of SB3 has beside its actor and of the same weights, while nothing was learned."""

_HELD = 2_000  # updates, after which critics of the pool's policies follow them
_BESIDE: dict[str, tuple[str, list[int]]] = {
    "DynaSAC": ("qf", [128, 128]), "SAC": ("qf", [256, 256]), "TQC": ("qf", [256, 256]),
    "TD3": ("qf", [400, 300]), "DDPG": ("qf", [400, 300]), "PPO": ("vf", [64, 64]), "A2C": ("vf", [64, 64]),
}  # fmt: skip
"""Name and widths of the networks beside the actor, as the algorithms have them by default."""


def layers_of(policy: Any) -> MLPPolicy | None:
    """A policy as layers, from any of the forms that ``collect`` takes; None where it is no plain network."""
    if isinstance(policy, Mapping) and len(policy) == 1:
        (policy,) = policy.values()
    if isinstance(policy, BaseAlgorithm):
        try:
            return to_policy(policy)
        except ValueError:
            return None
    every = [*as_policies(policy).values()]
    return every[0] if len(every) == 1 and isinstance(every[0], MLPPolicy) else None


def alike(algorithm: str, keywords: Mapping[str, Any], found: MLPPolicy | None) -> dict[str, Any]:
    """Keywords of an algorithm that give its actor the architecture of ``layers_of`` a policy, if it can be.

    An architecture that is given stays.
    """
    networks = dict(keywords.get("policy_kwargs") or {})
    if found is None or algorithm not in _BESIDE:
        return dict(keywords)
    name, beside = _BESIDE[algorithm]
    layers = [weight.shape[1] for weight in found.weights[:-1]]
    own = networks.setdefault("net_arch", {"pi": layers, name: beside})
    if (own.get("pi") if isinstance(own, Mapping) else own) != layers:
        return dict(keywords)
    activation = next(kind for kind, called in ACTIVATIONS.items() if called == found.activation)
    networks.setdefault("activation_fn", activation)
    return {**keywords, "policy_kwargs": networks}


@torch.no_grad()
def take_over(model: Any, found: MLPPolicy | None) -> bool:
    """Put the weights of ``layers_of`` a policy, and its noise if it states any, into a fresh agent's actor.

    Returns:
        Whether they fit; where they do not, nothing has changed.
    """
    if found is None or type(model).__name__ not in _BESIDE or _misfit(model, found):
        return False
    actor = getattr(model.policy, "actor", None)
    if actor is None:
        _put([*model.policy.mlp_extractor.policy_net, model.policy.action_net], found)
        if isinstance(model.action_space, spaces.Box):
            if found.log_std_bias is None or model.policy.log_std.ndim > 1:  # noise by state is another kind
                set_usual_noise(model)
            else:
                model.policy.log_std.copy_(_tensor(found.log_std_bias))
        return True
    plain_actor = hasattr(actor, "latent_pi")
    _put([*actor.latent_pi, actor.mu] if plain_actor else [*actor.mu], found)
    if plain_actor:
        bias, weight = found.log_std_bias, found.log_std_weight
        actor.log_std.weight.copy_(_tensor(weight).T if weight is not None else torch.tensor(0.0))
        actor.log_std.bias.copy_(_tensor(bias) if bias is not None else torch.tensor(math.log(NOISE)))
    follow(model.policy)
    return True


def go_on_from(model: Any, found: MLPPolicy | None) -> None:
    """Let a fresh ``DynaSAC`` begin as ``layers_of`` a policy is, and leave that as it is at first.

    Raises:
        ValueError: its actor cannot have the policy's weights.
    """
    if not take_over(model, found):
        why = "it is no single MLP" if found is None else _misfit(model, found)
        raise ValueError(
            "begin takes an MLP of this env's observations and actions with a tanh at its end, as of SAC, "
            f"TD3, TQC or DynaSAC; {why}; wmgym.train(world, policy=...) takes any policy"
        )
    model.held_updates = _HELD
    model._low_value = torch.tensor(-torch.inf)  # of no state is known yet that it is stuck


@torch.no_grad()
def set_usual_noise(model: Any) -> None:
    """Give an agent such as PPO, whose noise depends on no state, that of ``NOISE``."""
    if model.policy.log_std.ndim == 1:
        model.policy.log_std.copy_(torch.tensor(NOISE * middle_and_scale(model.action_space)[1]).log())


def middle_and_scale(space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half range of every number of a flat action; 1 where there is no range to scale by."""
    low, high = (side.reshape(-1).astype(np.float64) for side in (space.low, space.high))
    return (low + high) / 2, np.where(high > low, (high - low) / 2, 1)


def follow(policy: Any) -> None:
    """Give everything beside a policy's actor that has its weights those of now."""
    for name in _FOLLOWERS:
        if hasattr(policy, name):
            getattr(policy, name).load_state_dict(policy.actor.state_dict())


def _misfit(model: Any, found: MLPPolicy) -> str | None:
    """Why a fresh agent's actor is no network of these layers between the same bounds; None if it is."""
    try:
        own = to_policy(model)
    except ValueError:
        return "the agent's own actor is no plain MLP"
    if isinstance(model.action_space, spaces.MultiBinary):
        return "the agent has one number for an action that may be 0 or 1, and the policy two"
    if own.head != found.head:
        return f"its outputs become actions by '{found.head}', the agent's by '{own.head}'"
    if own.obs_dim != found.obs_dim:
        return f"it takes observations of {found.obs_dim} numbers, and this env shows {own.obs_dim}"
    sides = (
        ((each.high - each.low,) if own.head == "argmax" else (each.low, each.high)) for each in (own, found)
    )
    bounds = zip(*sides, strict=True)  # wherever whole numbers begin, agents of SB3 count from 0
    if not all(mine.shape == theirs.shape and np.allclose(mine, theirs) for mine, theirs in bounds):
        return f"it acts in {found.action_space}, and this env takes {own.action_space}"
    shapes = ([each.shape[1] for each in policy.weights[:-1]] for policy in (own, found))
    mine, theirs = ((policy.activation, *widths) for policy, widths in zip((own, found), shapes, strict=True))
    if mine[1:] != theirs[1:] or (mine[0] != theirs[0] and len(mine) > 1):
        return f"its layers are {theirs}, and those of policy_kwargs are {mine}"
    return None


def _put(modules: list[Any], found: MLPPolicy) -> None:
    linear: Iterator[nn.Linear] = (each for each in modules if isinstance(each, nn.Linear))
    for layer, weight, bias in zip(linear, found.weights, found.biases, strict=True):
        layer.weight.copy_(_tensor(weight).T)
        layer.bias.copy_(_tensor(bias))


def _tensor(values: np.ndarray) -> Tensor:
    return torch.tensor(values).float()
