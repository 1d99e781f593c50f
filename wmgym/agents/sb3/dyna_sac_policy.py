"""The networks of ``DynaSAC``: SB3's SAC policy, behind a normaliser that moves, with bounded critics."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn


class Normaliser(BaseFeaturesExtractor):
    """Flattens observations and normalises them by statistics that the algorithm sets."""

    mean: Tensor
    std: Tensor

    def __init__(self, observation_space: spaces.Box) -> None:
        dim = int(np.prod(observation_space.shape))
        super().__init__(observation_space, dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def forward(self, obs: Tensor) -> Tensor:
        """Normalised observations ``(batch, obs_dim)``."""
        return (obs.reshape(len(obs), -1) - self.mean) / self.std


class BoundedCritic(ContinuousCritic):
    """SB3's critics with LayerNorm; their outputs are scaled to the range that returns can have."""

    low: Tensor
    high: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        dim = kwargs["features_dim"] + int(np.prod(self.action_space.shape or ()))
        for at in range(self.n_critics):
            layers = create_mlp(
                dim, 1, kwargs["net_arch"], kwargs["activation_fn"], post_linear_modules=[_PlainLayerNorm]
            )
            _initialise(layers, last=0.0)
            self.q_networks[at] = nn.Sequential(*layers)
            setattr(self, f"qf{at}", self.q_networks[at])
        self.register_buffer("low", torch.tensor(-1.0))
        self.register_buffer("high", torch.tensor(1.0))

    @property
    def scale(self) -> Tensor:
        """Half the width of the range."""
        return (self.high - self.low) / 2

    def forward(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        """Values ``(batch, 1)`` of every critic, in units of return."""
        middle, scale = (self.high + self.low) / 2, self.scale
        return tuple([torch.addcmul(middle, value, scale) for value in super().forward(obs, actions)])


class DynaSACPolicy(SACPolicy):
    """SB3's SAC policy with 2x128 SiLU networks, ``Normaliser`` and ``BoundedCritic``.

    ``averaged_actor`` has a running mean of the actor's weights. Deterministic actions are those of
    ``chosen_actor``, one of the two as it was when the algorithm last compared them: an actor that learns
    this fast may fall today where it ran yesterday, and so may the mean of actors that run in different ways.
    """

    critic: BoundedCritic
    critic_target: BoundedCritic

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.SiLU,
        features_extractor_class: type[BaseFeaturesExtractor] = Normaliser,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not issubclass(features_extractor_class, Normaliser):
            raise ValueError("features_extractor_class must be a subclass of Normaliser")
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[128, 128] if net_arch is None else net_arch,
            activation_fn=activation_fn,
            features_extractor_class=features_extractor_class,
            optimizer_kwargs={"fused": True} if optimizer_kwargs is None else optimizer_kwargs,
            **kwargs,
        )

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """SB3's actor; the first actions are close to zero mean."""
        actor: Any = super().make_actor(features_extractor)
        _initialise([*actor.latent_pi], last=1.0)
        for head, bias in ((actor.mu, 0.0), (actor.log_std, math.log(math.log(2.0)))):
            _initialise([head], last=0.01)
            nn.init.constant_(head.bias, bias)
        return actor

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.averaged_actor = self.make_actor().requires_grad_(False)
        self.averaged_actor.load_state_dict(self.actor.state_dict())
        self.chosen_actor = copy.deepcopy(self.averaged_actor)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        actor = self.chosen_actor if deterministic else self.actor
        return actor(observation, deterministic)  # type: ignore[no-any-return]

    @torch.no_grad()
    def averaged_action(self, obs: np.ndarray) -> np.ndarray:
        """Deterministic actions of the averaged actor, within their bounds, for observations of every env."""
        action: Any = self.averaged_actor(self.obs_to_tensor(obs)[0], deterministic=True)
        return self.unscale_action(action.numpy().reshape(-1, *(self.action_space.shape or ())))

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As torch's; also of files from before there was a chosen actor."""
        return super().load_state_dict(with_chosen(state_dict), *args, **kwargs)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> BoundedCritic:
        """``BoundedCritic`` where SB3 has its plain one."""
        return BoundedCritic(**self._update_features_extractor(self.critic_kwargs, features_extractor)).to(
            self.device
        )

    @torch.no_grad()
    def set_normaliser(self, mean: Tensor, std: Tensor) -> None:
        """Move the normalisers; first layers are re-expressed, so that no network changes as a function."""
        actors = self.actor, self.averaged_actor, self.chosen_actor
        for network in (*actors, self.critic, self.critic_target):
            seen = network.features_extractor
            assert isinstance(seen, Normaliser)
            shift, ratio, dim = (mean - seen.mean) / seen.std, std / seen.std, len(mean)
            for layer in _first_layers(network):
                layer.bias += layer.weight[:, :dim] @ shift
                layer.weight[:, :dim] *= ratio
            seen.mean.copy_(mean)
            seen.std.copy_(std)

    def bound_values(self, low: Tensor, high: Tensor) -> None:
        """Set the range that critics are scaled to."""
        for critic in (self.critic, self.critic_target):
            critic.low.copy_(low)
            critic.high.copy_(high)


def with_chosen(state: Mapping[str, Any]) -> dict[str, Any]:
    """A policy's tensors by name; where none is of the chosen actor, it is the averaged one."""
    old = {} if any(name.startswith("chosen_actor.") for name in state) else state
    averaged = {name: value for name, value in old.items() if name.startswith("averaged_actor.")}
    return {**state, **{name.replace("averaged", "chosen", 1): value for name, value in averaged.items()}}


def most_likely(actor: Any, obs: Tensor) -> Tensor:
    """Deterministic actions of an actor in [-1, 1] ``(batch, action_dim)``, without the distribution."""
    return torch.tanh(actor.mu(actor.latent_pi(actor.features_extractor(obs))))


class _PlainLayerNorm(nn.LayerNorm):
    def __init__(self, dim: int) -> None:
        super().__init__(dim, elementwise_affine=False)


def _first_layers(network: Any) -> list[Any]:
    """The linear layers that see features."""
    if isinstance(network, BoundedCritic):
        return [next(m for m in each.modules() if isinstance(m, nn.Linear)) for each in network.q_networks]
    hidden = [m for m in network.latent_pi if isinstance(m, nn.Linear)]
    return hidden[:1] or [network.mu, network.log_std]


def _initialise(layers: list[nn.Module], last: float) -> None:
    """Truncated normal weights, of the last layer ``last`` times as large; no bias."""
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for layer in linear:
        std = (last if layer is linear[-1] else 1.0) / math.sqrt(layer.in_features)
        nn.init.trunc_normal_(layer.weight, std=std or 1.0, a=-2, b=2)
        layer.weight.data.mul_(0.0 if std == 0 else 1.0)
        nn.init.zeros_(layer.bias)
