"""An SB3 agent's deterministic policy as an ``MLPPolicy``."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from wmgym.policy import Activation, Head, MLPPolicy, action_bounds

_NAMES: dict[type[nn.Module], Activation] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.ELU: "elu",
    nn.LeakyReLU: "leaky_relu",
}


def to_policy(model: BaseAlgorithm, name: str | None = None) -> MLPPolicy:
    """The agent's deterministic actor as plain arrays; equal to ``model.predict(obs, deterministic=True)``.

    Raises:
        ValueError: an architecture that is no plain MLP over a Box observation.
    """
    modules, head = _actor(model)
    linear = [m for m in modules if isinstance(m, nn.Linear)]
    others = [m for m in modules if not isinstance(m, (nn.Linear, nn.Identity, nn.Flatten))]
    kinds = {type(m) for m in others}
    if len(kinds) > 1 or not kinds <= set(_NAMES) or len(others) != len(linear) - 1:
        raise ValueError(
            f"{type(model).__name__}'s actor is no plain MLP; export it by hand as wmgym.MLPPolicy"
        )
    low, high = action_bounds(_action_space(model))
    policy = MLPPolicy(
        name=name or type(model).__name__,
        weights=tuple(np.array(m.weight.detach().cpu().numpy().T) for m in linear),
        biases=tuple(np.array(m.bias.detach().cpu().numpy()) for m in linear),
        activation=_NAMES[kinds.pop()] if kinds else "relu",
        head=head,
        low=low,
        high=high,
    )
    if not _agrees(policy, model):
        raise ValueError(
            f"{type(model).__name__}'s actor is no plain MLP: it does more than its layers say; "
            "pass model.predict itself where a policy is asked for"
        )
    return policy


def _agrees(policy: MLPPolicy, model: BaseAlgorithm) -> bool:
    """Whether both act alike on random observations; extracted features or odd activations would show."""
    shape = model.observation_space.shape or ()
    if policy.weights[0].shape[0] != int(np.prod(shape)):
        return False
    obs = np.random.default_rng(0).normal(size=(64, *shape)).astype(np.float32)
    expected, _ = model.predict(obs, deterministic=True)
    return bool(np.isclose(policy(obs), expected, atol=1e-4, equal_nan=True).mean() > 0.98)


def _actor(model: BaseAlgorithm) -> tuple[list[nn.Module], Head]:
    """The actor's modules in order, the head's own squashing left out."""
    policy: Any = model.policy
    kind = type(model).__name__
    if kind == "SAC" and not policy.actor.use_sde:
        return [*policy.actor.latent_pi, policy.actor.mu], "squash"
    if kind in ("TD3", "DDPG"):
        return [*policy.actor.mu][:-1], "squash"  # the last module is the Tanh that "squash" stands for
    if kind == "DQN":
        return [*policy.q_net.q_net], "argmax"
    if kind in ("PPO", "A2C") and not policy.squash_output:
        head: Head = "argmax" if isinstance(model.action_space, spaces.Discrete) else "clip"
        return [*policy.mlp_extractor.policy_net, policy.action_net], head
    raise ValueError(f"{kind} is not supported; pass model.predict itself where a policy is asked for")


def _action_space(model: BaseAlgorithm) -> spaces.Box | spaces.Discrete:
    if isinstance(model.action_space, (spaces.Box, spaces.Discrete)):
        return model.action_space
    raise ValueError(f"action space must be Box or Discrete, got {model.action_space}")
