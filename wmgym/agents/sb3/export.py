"""An SB3 agent's policy as an ``MLPPolicy``."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.torch_layers import BatchRenorm
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from wmgym.agents.sb3.dyna_sac_policy import DynaSACPolicy, Normaliser
from wmgym.data.foreign import normaliser_of
from wmgym.data.policy import MLPPolicy, PolicyCard, action_bounds
from wmgym.data.policy_onnx import Activation, Head
from wmgym.tasks.actions import from_zero

ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.ELU: "elu",
    nn.LeakyReLU: "leaky_relu",
    nn.SiLU: "silu",
}


def export_policy(
    model: BaseAlgorithm,
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    normalizer: VecNormalize | None = None,
    card: PolicyCard | None = None,
) -> MLPPolicy:
    """Write an agent's policy to a directory; ``wmgym.load_policy`` reads it.

    Args:
        model: as for ``to_policy``, likewise ``name`` and ``normalizer``.
        path: the directory.
        name: what reports call it.
        normalizer: the ``VecNormalize`` that the agent was trained behind; None takes the agent's.
        card: where the policy comes from and what it is worth, stored with it.

    Raises:
        ValueError: an architecture that ``to_policy`` refuses.
    """
    policy = replace(to_policy(model, name, normalizer=normalizer), card=card)
    policy.save(path)
    return policy


def to_policy(
    model: BaseAlgorithm, name: str | None = None, *, normalizer: VecNormalize | None = None
) -> MLPPolicy:
    """The agent's actor as plain arrays.

    It is compared with ``model.predict(obs, deterministic=True)`` on 1,000 observations first.

    Args:
        model: an agent with a plain MLP over a Box observation, or over a Dict of them side by side, as
            "MultiInputPolicy" has it: the policy takes them flattened. Of ``DynaSAC`` it takes the chosen
            actor, with the noise of its own head and the normalisation of observations in its first layer.
        name: what reports call it; None takes the algorithm's.
        normalizer: the ``VecNormalize`` that the agent was trained behind, put into the first layer, so that
            the policy takes the env's own observations. Its clipping is left out. None takes the agent's.

    Raises:
        ValueError: another architecture, or an agent that was trained behind a ``VecNormalize`` and does not
            have it.
    """
    kind = type(model).__name__
    policy = policy_arrays(model.policy, kind, name or kind)
    return behind(normaliser_of(model) if normalizer is None else normalizer, policy)


def behind(normalizer: VecNormalize | None, policy: MLPPolicy) -> MLPPolicy:
    """The policy that takes the env's own observations; None changes nothing.

    Raises:
        ValueError: Dict observations.
    """
    if normalizer is None or not normalizer.norm_obs:
        return policy
    if not isinstance(normalizer.obs_rms, RunningMeanStd):
        raise ValueError("VecNormalize over Dict observations is not supported; flatten the observation")
    std = np.sqrt(normalizer.obs_rms.var + normalizer.epsilon)
    return _behind(normalizer.obs_rms.mean.reshape(-1), std.reshape(-1), policy)


def policy_arrays(policy: BasePolicy, kind: str, name: str) -> MLPPolicy:
    """The actor of an SB3 policy object as plain arrays; ``kind`` is its algorithm.

    Raises:
        ValueError: another architecture than a plain MLP.
    """
    space: Any = policy.action_space
    modules, head, noise = _actor(policy, kind)
    linear = [m for m in modules if isinstance(m, nn.Linear)]
    others = [m for m in modules if not isinstance(m, (nn.Linear, nn.Identity, nn.Flatten))]
    kinds = {type(m) for m in others}
    if len(kinds) > 1 or not kinds <= set(ACTIVATIONS) or len(others) != len(linear) - 1:
        raise ValueError(f"{kind}'s actor is no plain MLP; export it by hand as wmgym.MLPPolicy")
    layers = [(_array(m.weight).T.copy(), _array(m.bias)) for m in linear]
    if isinstance(space, spaces.MultiBinary):  # it decides on one by a number above 0
        weight, bias = layers[-1]
        layers[-1] = _beside_zero(weight), _beside_zero(bias)
    low, high = action_bounds(from_zero(space))  # as its predict counts, whatever the space says
    arrays = MLPPolicy(
        name=name,
        weights=tuple(weight for weight, _ in layers),
        biases=tuple(bias for _, bias in layers),
        activation=ACTIVATIONS[kinds.pop()] if kinds else "relu",
        head=head,
        low=low,
        high=high,
        **noise,
    )
    seen_space = policy.observation_space
    parts = seen_space.spaces.values() if isinstance(seen_space, spaces.Dict) else [seen_space]
    dim = sum(int(np.prod(part.shape or ())) for part in parts)
    mean, std = np.zeros(dim), np.ones(dim)
    if isinstance(policy, DynaSACPolicy):
        seen = policy.chosen_actor.features_extractor
        assert isinstance(seen, Normaliser)
        mean, std = _array(seen.mean), _array(seen.std)
        arrays = _behind(mean, std, arrays)
    if not _agrees(arrays, policy, mean + std * np.random.default_rng(0).normal(size=(1_000, dim))):
        raise ValueError(
            f"{kind}'s actor is no plain MLP: it does more than its layers say; "
            "pass model.predict itself where a policy is asked for"
        )
    return arrays


def _beside_zero(outputs: np.ndarray) -> np.ndarray:
    """Every number along the last axis behind a zero."""
    return np.stack([0 * outputs, outputs], -1).reshape(*outputs.shape[:-1], -1)


def _behind(mean: np.ndarray, std: np.ndarray, policy: MLPPolicy) -> MLPPolicy:
    """The policy with a normalisation of observations ``(obs_dim,)`` in its first layer."""

    def moved(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first = weight / std.astype(np.float64)[:, None]
        return first.astype(np.float32), (bias - mean @ first).astype(np.float32)

    weight, bias = moved(policy.weights[0], policy.biases[0])
    noise: dict[str, Any] = {}
    if len(policy.weights) == 1 and policy.log_std_weight is not None and policy.log_std_bias is not None:
        noise["log_std_weight"], noise["log_std_bias"] = moved(policy.log_std_weight, policy.log_std_bias)
    weights, biases = (weight, *policy.weights[1:]), (bias, *policy.biases[1:])
    return replace(policy, weights=weights, biases=biases, **noise)


def _agrees(arrays: MLPPolicy, policy: BasePolicy, obs: np.ndarray) -> bool:
    """Whether both act alike on observations; extracted features or odd activations would show."""
    if arrays.obs_dim != obs.shape[1]:
        return False
    space, flat = policy.observation_space, obs.astype(np.float32)
    shaped: Any = flat.reshape(-1, *(space.shape or ()))
    if isinstance(space, spaces.Dict):
        shapes = [part.shape or () for part in space.spaces.values()]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
        columns = zip(space.spaces, shapes, np.split(flat, ends, 1), strict=True)
        shaped = {key: part.reshape(-1, *shape) for key, shape, part in columns}
    expected, _ = policy.predict(shaped, deterministic=True)
    return bool(np.isclose(arrays(obs), expected, atol=1e-4, equal_nan=True).mean() > 0.98)


def _actor(policy: Any, kind: str) -> tuple[list[nn.Module], Head, dict[str, Any]]:
    """The actor's modules in order, the head's own squashing left out; and what makes it stochastic."""
    if kind in ("SAC", "TQC", "CrossQ", "DynaSAC") and not policy.actor.use_sde:
        actor = policy.chosen_actor if kind == "DynaSAC" else policy.actor
        modules, log_std = (_without_renorm([*actor.latent_pi, head]) for head in (actor.mu, actor.log_std))
        noise = {
            "log_std_weight": _array(log_std[-1].weight).T.copy(),
            "log_std_bias": _array(log_std[-1].bias),
        }
        return modules, "squash", {"stochastic": True, **noise}
    if kind in ("TD3", "DDPG"):
        return [*policy.actor.mu][:-1], "squash", {}  # the last module is the Tanh that "squash" stands for
    if kind == "DQN":
        return [*policy.q_net.q_net], "argmax", {}
    if kind in ("PPO", "A2C") and not policy.squash_output:
        modules = [*policy.mlp_extractor.policy_net, policy.action_net]
        if not isinstance(policy.action_space, spaces.Box):
            return modules, "argmax", {"stochastic": True}
        plain = {} if policy.use_sde else {"stochastic": True, "log_std_bias": _array(policy.log_std)}
        return modules, "clip", plain
    raise ValueError(f"{kind} is not supported; pass model.predict itself where a policy is asked for")


def _without_renorm(modules: list[Any]) -> list[Any]:
    """Modules with every ``BatchRenorm`` (CrossQ), as it evaluates, put into the linear layer after it."""
    found: list[Any] = []
    for module in modules:
        last: Any = found[-1] if found else None
        if isinstance(last, BatchRenorm) and isinstance(module, nn.Linear):
            state = last.state_dict()
            scale = state["scale"] / (state["ra_var"] + last.eps).sqrt()
            found[-1] = copy.deepcopy(module)
            with torch.no_grad():
                found[-1].weight.mul_(scale)
                found[-1].bias.add_(module.weight @ (state["bias"] - scale * state["ra_mean"]))
        else:
            found.append(module)
    return found


def _array(values: Any) -> np.ndarray:
    return np.array(values.detach().cpu().numpy())
