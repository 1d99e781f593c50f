"""Settings that ``DynaSAC`` refuses when it is made, rather than after its random steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import isclass
from numbers import Integral, Real
from typing import Any

import torch
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from torch import Tensor, nn

from wmgym.agents.sb3.dyna_sac_policy import DynaSACPolicy

BY_BUDGET = ("learning_starts", "train_freq", "gradient_steps")
"""Settings that follow the steps of the first ``learn``."""

_LEAST_UPDATES = 4_000  # of a budget of less real steps
_HELD_SHARE = 5  # of all updates, one of which may leave a policy that was begun with as it is
_MEANINGLESS = {"replay_buffer_class", "replay_buffer_kwargs", "optimize_memory_usage", "n_steps", "use_sde",
                "sde_sample_freq", "use_sde_at_warmup", "target_update_interval"}  # fmt: skip
_LEAST = {"buffer_size": 1, "batch_size": 1, "learning_starts": 0, "gradient_steps": -1,
          "random_episode_steps": 1, "episode_steps": 1}  # fmt: skip
_NONE = 1e-6  # of the largest value: a standard deviation below this share is of a constant


def check_settings(policy: Any, settings: Mapping[str, Any]) -> None:
    """Refuse a policy's class and keywords of ``DynaSAC`` that cannot be.

    Raises:
        ValueError: one that has no meaning here, or a value out of its range.
    """
    if refused := _MEANINGLESS & settings.keys():
        raise ValueError(f"{', '.join(sorted(refused))}: DynaSAC has no such setting; leave it out")
    if str(settings.get("device", "cpu")) not in ("auto", "cpu"):
        raise ValueError("DynaSAC runs on the CPU; leave device out")
    if not isinstance(policy, str) and not (isclass(policy) and issubclass(policy, DynaSACPolicy)):
        raise ValueError(f"policy has to be 'MlpPolicy' or a subclass of DynaSACPolicy, got {policy!r}")
    for name in _LEAST.keys() & settings.keys():
        _whole(name, settings[name], _LEAST[name])
    for name, most in (("gamma", "below"), ("tau", "at most")):
        if name in settings:
            value = settings[name]
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not 0 < value <= 1 or (value == 1 and most == "below"):
                raise ValueError(f"{name} has to be above 0 and {most} 1, got {value!r}")
    if "train_freq" in settings:
        every = settings["train_freq"]
        _whole("train_freq", every[0] if isinstance(every, (tuple, list)) and every else every, 1)
    networks = settings.get("policy_kwargs") or {}
    activation = networks.get("activation_fn", nn.SiLU)
    if not (isclass(activation) and issubclass(activation, nn.Module)):
        raise ValueError(f"activation_fn has to be a class such as torch.nn.ReLU, got {activation!r}")
    given = networks.get("net_arch") or []
    for widths in given.values() if isinstance(given, Mapping) else [given]:
        for width in widths:
            _whole("a width of net_arch", width, 1)


def follow_budget(model: Any, total_timesteps: int, names: Sequence[str]) -> None:
    """Set those of ``BY_BUDGET`` that are ``names``, and how many updates leave what was begun with."""
    if "learning_starts" in names:
        model.learning_starts = max(1, min(max(total_timesteps // 10, 200), total_timesteps // 2, 1_000))
    if "train_freq" in names:
        frequency = max(1, model.learning_starts // (4 * model.n_envs))
        model.train_freq = TrainFreq(frequency, TrainFrequencyUnit.STEP)
    if "gradient_steps" in names:
        more = 1 if model.offline else max(1, round(_LEAST_UPDATES / total_timesteps))
        by_step = model.train_freq.unit == TrainFrequencyUnit.STEP
        model.gradient_steps = model.train_freq.frequency * model.n_envs * more if by_step else -1
    if model.held_updates and not model._n_updates:
        every, updates = model.train_freq, total_timesteps
        if every.unit == TrainFrequencyUnit.STEP and model.gradient_steps >= 0:
            updates = total_timesteps * model.gradient_steps // (every.frequency * model.n_envs)
        model.held_updates = max(1, min(model.held_updates, updates // _HELD_SHARE))


def spread_of(values: Tensor) -> Tensor:
    """Standard deviations ``(dims,)`` that can be divided by, in whatever unit; 1 of what is constant."""
    std = values.std(0)
    return torch.where(std <= _NONE * values.abs().amax(0), 1.0, std)


def _whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        allowed = "above 0" if least == 1 else f"of at least {least}"
        raise ValueError(f"{name} has to be a whole number {allowed}, got {value!r}")
