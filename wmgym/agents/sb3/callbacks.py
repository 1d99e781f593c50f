"""Callbacks of a training in imagination: those given by the caller, and two that hold updates back."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from inspect import isclass
from typing import Any

import torch
from sb3_contrib.common.torch_layers import BatchRenorm
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from wmgym.agents.sb3.from_policy import actor_parameters


def as_callbacks(callback: Any) -> list[BaseCallback]:
    """Callbacks as ``learn`` of Stable-Baselines3 takes them, as a flat list; functions in lists as well.

    Raises:
        ValueError: something else.
    """
    if callback is None:
        return []
    if isinstance(callback, list):
        return [each for part in callback for each in as_callbacks(part)]
    if isinstance(callback, BaseCallback):
        return [callback]
    if isclass(callback) and issubclass(callback, BaseCallback):
        raise ValueError(f"callback is the class {callback.__name__}; make one, {callback.__name__}(...)")
    if isclass(callback) or not callable(callback):
        given = f"the class {callback.__name__}" if isclass(callback) else repr(type(callback).__name__)
        raise ValueError(
            "callback must be a callback of Stable-Baselines3, a function of its locals and globals, or "
            f"a list of these, got {given}"
        )
    return [ConvertCallback(callback)]


def warn_of_idle(callbacks: list[BaseCallback], model: BaseAlgorithm, steps: int) -> None:
    """Warn of callbacks that wait for more calls than a training of so many steps makes."""
    least = model.n_steps if isinstance(model, OnPolicyAlgorithm) else 1  # SB3 finishes its rollouts
    calls = math.ceil(steps / (model.n_envs * least)) * least
    for callback in _each(callbacks):
        for name in ("eval_freq", "save_freq"):
            every = getattr(callback, name, None)
            if isinstance(every, int) and every > calls:
                warnings.warn(
                    f"{type(callback).__name__} never acts: {name}={every:,} counts calls of step, of "
                    f"{model.n_envs} envs each, and {steps:,} steps make {calls:,}; divide it by num_envs",
                    stacklevel=3,
                )


def _each(callbacks: list[BaseCallback]) -> Iterator[BaseCallback]:
    for callback in callbacks:
        yield from _each(callback.callbacks) if isinstance(callback, CallbackList) else [callback]


class HoldUpdates(BaseCallback):
    """Lets nothing learn for the first ``steps`` steps of a training.

    A trained agent that updates on a nearly empty buffer forgets what it knew.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    def _on_training_start(self) -> None:
        self._updates: Any = None

    def _on_rollout_end(self) -> None:
        """Updates follow; what is saved in a callback of a step has the number of them that was set."""
        agent: Any = self.model
        if self._waits:
            self._updates, agent.gradient_steps = agent.gradient_steps, 0

    def _on_rollout_start(self) -> None:
        self._on_training_end()
        self._waits = self.model.num_timesteps < self._steps

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        agent: Any = self.model
        if self._updates is not None:
            agent.gradient_steps, self._updates = self._updates, None


class HoldActor(BaseCallback):
    """Lets only the critics learn for the first ``steps`` steps, what the actor that is there is worth.

    An actor that follows critics which know nothing yet forgets within a few hundred updates what it could.
    The entropy coefficient stays as well: waiting for an actor that does not change, it would only grow.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    def _on_training_start(self) -> None:
        held = set(actor_parameters(self.model))

        def without_gradients(*_: Any) -> None:
            for parameter in held:
                parameter.grad = None

        actor = getattr(self.model, "actor", None)
        optimizers = [self.model.policy.optimizer if actor is None else actor.optimizer]
        if (entropy := getattr(self.model, "ent_coef_optimizer", None)) is not None:
            optimizers.append(entropy)
            held.update(entropy.param_groups[0]["params"])
        self._hooks = [each.register_step_pre_hook(without_gradients) for each in optimizers]
        renorms = [] if actor is None else [m for m in actor.modules() if isinstance(m, BatchRenorm)]
        # Its statistics (CrossQ) move with every forward pass of an update, and the actions with them.
        self._still = [(own, own.detach().clone()) for m in renorms for own in m.buffers()]

    def _on_rollout_start(self) -> None:
        with torch.no_grad():
            for own, value in self._still:
                own.copy_(value)
        if self.model.num_timesteps >= self._steps:
            self._on_training_end()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._still = []
        for hook in self._hooks:
            hook.remove()
