"""A user's SB3 zip as an ``MLPPolicy``, reading tensors and nothing that could run code."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces

from wmgym.agents.sb3.export import to_policy
from wmgym.data.policy import Activation, Head, MLPPolicy, action_bounds
from wmgym.tasks.task import Task

_LARGEST = 1 << 29  # bytes a member of the zip may unpack to: far above any MLP, far below memory
_TORCH_NAMES: Mapping[str, Activation] = {
    "ReLU": "relu", "Tanh": "tanh", "ELU": "elu", "LeakyReLU": "leaky_relu",
}  # fmt: skip


@dataclass(frozen=True)
class _Layout:
    """Where an algorithm keeps its actor in ``policy.pth``."""

    algorithms: tuple[str, ...]
    hidden: str
    output: str | None  # None: the last of the hidden ones
    activation: Activation
    log_std: str | None = None


_LAYOUTS = (
    _Layout(("SAC", "TQC"), "actor.latent_pi", "actor.mu", "relu", "actor.log_std"),
    _Layout(("TD3", "DDPG"), "actor.mu", None, "relu"),
    _Layout(("PPO", "A2C"), "mlp_extractor.policy_net", "action_net", "tanh"),
    _Layout(("DQN",), "q_net.q_net", None, "relu"),
)


def import_sb3(
    path: str | os.PathLike[str],
    task: Task,
    *,
    activation: Activation | None = None,
    name: str | None = None,
    trust_pickle: bool = False,
) -> MLPPolicy:
    """Read the policy of a Stable-Baselines3 zip (SAC, TQC, TD3, DDPG, PPO, A2C, DQN with a plain MLP).

    Only the tensors of ``policy.pth`` are read, with ``weights_only=True``, and the JSON text beside them;
    spaces come from ``task``. Statistics of a ``VecNormalize`` are not in the zip.

    Args:
        path: the file that SB3's ``save`` wrote.
        task: the env it acts in; shapes are checked against it.
        activation: between layers; None takes what the zip's text names, or the algorithm's default.
        name: what reports call it; None takes the file's name.
        trust_pickle: let SB3 itself load the zip, which runs whatever code the file holds. Only for files
            you made yourself.

    Raises:
        ValueError: no SB3 zip, tensors that are no plain MLP, or of another env's size.
    """
    state, settings = _read(path)
    layout = _layout(path, state)
    title = name or os.path.splitext(os.path.basename(path))[0]
    if trust_pickle:
        policy = to_policy(_load(path, layout), title)
    else:
        policy = _build(path, state, settings, layout, task.action_space, activation, title)
    low, high = action_bounds(task.action_space)
    obs_dim = int(np.prod(task.observation_space.shape or ()))
    if policy.weights[0].shape[0] != obs_dim or policy.low.shape != low.shape:
        raise ValueError(f"{path} is of an env with other spaces than {task.env_id or 'the task'}")
    if not (np.array_equal(policy.low, low) and np.array_equal(policy.high, high)):
        raise ValueError(f"{path} is of an env with other action bounds than {task.env_id or 'the task'}")
    return policy


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors of the policy, and the settings as far as they are plain JSON."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in ("policy.pth", "data"):
                if archive.getinfo(member).file_size > _LARGEST:
                    raise ValueError(f"{path}: {member} is implausibly large; it was not read")
            weights, text = archive.read("policy.pth"), archive.read("data")
        settings = json.loads(text)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; check the path") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: its settings are no JSON; it is damaged") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: its settings are no text; it is damaged") from error
    except (KeyError, OSError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no zip that Stable-Baselines3 saved, or is damaged") from error
    try:
        loaded = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes fail in many ways
        raise ValueError(f"{path} is no zip that Stable-Baselines3 saved, or is damaged") from error
    if not isinstance(settings, dict) or not isinstance(loaded, dict):
        raise ValueError(f"{path} is no zip that Stable-Baselines3 saved, or is damaged")
    tensors = {str(k): v.float().numpy() for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    return tensors, settings


def _layout(path: str | os.PathLike[str], state: Mapping[str, np.ndarray]) -> _Layout:
    for layout in _LAYOUTS:
        if f"{layout.output or layout.hidden + '.0'}.weight" in state:
            return layout
    raise ValueError(f"{path} holds none of SB3's plain MLP policies; pass model.predict itself instead")


def _build(
    path: str | os.PathLike[str],
    state: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    layout: _Layout,
    space: spaces.Box | spaces.Discrete,
    activation: Activation | None,
    name: str,
) -> MLPPolicy:
    keywords = settings.get("policy_kwargs")
    keywords = keywords if isinstance(keywords, dict) else {}
    if "features_extractor_class" in keywords or any("features_extractor." in key for key in state):
        raise ValueError(f"{path} has a features extractor; only plain MLPs can be read")
    if keywords.get("squash_output") or (settings.get("use_sde") and layout.log_std):
        raise ValueError(f"{path} uses gSDE with a squashed output, which is not supported")
    prefixes = sorted(
        {key.rpartition(".")[0] for key in state if key.startswith(f"{layout.hidden}.")},
        key=lambda prefix: int(prefix.rpartition(".")[2]),
    )
    prefixes += [layout.output] if layout.output else []
    discrete = isinstance(space, spaces.Discrete)
    head: Head = "argmax" if discrete else ("clip" if "PPO" in layout.algorithms else "squash")
    chosen = activation or _activation(path, keywords, layout)
    low, high = action_bounds(space)
    try:
        return MLPPolicy(
            name=name,
            weights=tuple(state[f"{prefix}.weight"].T.copy() for prefix in prefixes),
            biases=tuple(state[f"{prefix}.bias"] for prefix in prefixes),
            activation=chosen,
            head=head,
            low=low,
            high=high,
            **_noise(state, layout, discrete),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"{path} does not fit the task's spaces, or its policy is no plain MLP") from error


def _noise(state: Mapping[str, np.ndarray], layout: _Layout, discrete: bool) -> dict[str, Any]:
    """What makes the policy stochastic; nothing under gSDE, whose noise is of another kind."""
    if layout.log_std:
        weight, bias = state[f"{layout.log_std}.weight"], state[f"{layout.log_std}.bias"]
        return {"stochastic": True, "log_std_weight": weight.T.copy(), "log_std_bias": bias}
    if "PPO" in layout.algorithms and discrete:
        return {"stochastic": True}
    if "log_std" in state and state["log_std"].ndim == 1:
        return {"stochastic": True, "log_std_bias": state["log_std"]}
    return {}


def _activation(path: str | os.PathLike[str], keywords: Mapping[str, Any], layout: _Layout) -> Activation:
    """SB3 writes the class's name, as text, beside its pickle."""
    text = keywords.get("activation_fn")
    if text is None:
        return layout.activation
    found = _TORCH_NAMES.get(str(text).removesuffix("'>").rpartition(".")[2])
    if found is None:
        known = ", ".join(get_args(Activation))
        raise ValueError(f"{path}: activation {text} is not one of {known}; pass activation= if it is")
    return found


def _load(path: str | os.PathLike[str], layout: _Layout) -> Any:
    failure: Exception | None = None
    for kind in layout.algorithms:
        home = sb3_contrib if kind == "TQC" else stable_baselines3
        try:
            return getattr(home, kind).load(path, device="cpu")
        except Exception as error:
            failure = error
    raise ValueError(f"{path} cannot be loaded by SB3: {failure}") from failure
