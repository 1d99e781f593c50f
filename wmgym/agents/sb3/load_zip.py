"""A user's SB3 zip as an ``MLPPolicy``, reading tensors and nothing that could run code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pydantic_core
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from sb3_contrib.crossq.policies import CrossQPolicy
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

from wmgym.agents.sb3.dyna_sac import DynaSAC
from wmgym.agents.sb3.dyna_sac_policy import DynaSACPolicy, with_chosen
from wmgym.agents.sb3.export import ACTIVATIONS, behind, policy_arrays
from wmgym.agents.sb3.tensor_file import open_zip, read_member, read_tensors
from wmgym.data.logs import refuse_no_task
from wmgym.data.policy import MLPPolicy, action_bounds
from wmgym.data.policy_onnx import Activation
from wmgym.io import files
from wmgym.io.files import StoreError
from wmgym.io.schema import refusing
from wmgym.tasks.actions import from_zero
from wmgym.tasks.task import Task

_MOST_LAYERS = 64


class _Kind(NamedTuple):
    """What an algorithm's ``policy.pth`` holds; the first of the algorithms says how to export it."""

    algorithms: tuple[str, ...]
    build: Callable[..., BasePolicy]
    hidden: str  # prefix of the actor's layers, of the output layer too where the mark has it
    actor: tuple[str, ...]  # prefixes of all of the actor; the rest of the file is not used
    mark: str  # a tensor that no other algorithm has
    discrete: bool = False  # whether actions may be whole numbers


_PPO = ("mlp_extractor.policy_net.", "action_net.", "log_std")
_CHOSEN = ("chosen_actor.", "actor.")
_KINDS = (
    _Kind(("DynaSAC",), DynaSACPolicy, "chosen_actor.latent_pi.", _CHOSEN, "chosen_actor.mu.weight"),
    _Kind(("CrossQ",), CrossQPolicy, "actor.latent_pi.", ("actor.",), "critic.qf0.0.ra_mean"),
    _Kind(("SAC", "TQC"), SACPolicy, "actor.latent_pi.", ("actor.",), "actor.mu.weight"),
    _Kind(("TD3", "DDPG"), TD3Policy, "actor.mu.", ("actor.",), "actor.mu.0.weight"),
    _Kind(("PPO", "A2C"), ActorCriticPolicy, _PPO[0], _PPO, "action_net.weight", True),
    _Kind(("DQN",), DQNPolicy, "q_net.q_net.", ("q_net.",), "q_net.q_net.0.weight", True),
)


def import_sb3(
    path: str | os.PathLike[str],
    task: Task,
    *,
    activation: Activation | None = None,
    name: str | None = None,
    normalizer: VecNormalize | None = None,
    trust_pickle: bool = False,
) -> MLPPolicy:
    """Read the policy of a Stable-Baselines3 zip.

    Algorithms: SAC, TQC, CrossQ, TD3, DDPG, PPO, A2C, DQN, DynaSAC; the actor is a plain MLP.
    SB3's policy class is built from the spaces of ``task`` and filled with the tensors of ``policy.pth``,
    read as bytes, without unpickling anything; of the rest only JSON text is read. Statistics of a
    ``VecNormalize`` are not in the zip; that there was one shows in those of PPO and A2C.

    Args:
        path: the file that SB3's ``save`` wrote.
        task: the env it acts in; shapes are checked against it.
        activation: between layers; None takes what the zip's text names, or the algorithm's default.
        name: what reports call it; None takes the file's name.
        normalizer: the ``VecNormalize`` that the agent was trained behind.
        trust_pickle: let SB3 itself load the zip, which runs whatever code the file holds. Only for files
            you made yourself.

    Raises:
        ValueError: no task, no SB3 zip, tensors that are no plain MLP, or of another env's size; or no
            ``normalizer`` where the agent was trained behind one.
    """
    refuse_no_task(task)
    state, settings = _read(path)
    state = with_chosen(state)
    if any(key.startswith("lstm_") for key in state):
        raise ValueError(
            f"{path} holds a recurrent policy, and only plain MLPs can be read; load it with sb3_contrib and "
            "pass the model, or on the command line module:function with its predict"
        )
    kind = next((each for each in _KINDS if each.mark in state), None)
    if kind is None:
        raise ValueError(f"{path} holds none of SB3's plain MLP policies; pass model.predict itself instead")
    remembered = settings.get("_last_original_obs") is not None and "PPO" in kind.algorithms
    if remembered and normalizer is None:
        raise ValueError(
            f"{path} was trained behind a VecNormalize, whose statistics are not in the zip; pass "
            "normalizer=VecNormalize.load(path, venv)"
        )
    own = _load(path, kind) if trust_pickle else _build(path, kind, state, settings, task, activation)
    title = name or os.path.splitext(os.path.basename(path))[0]
    with refusing(os.fspath(path), "a policy", "train it again"):  # weights that are not finite
        policy = policy_arrays(own, kind.algorithms[0], title)
    low, high = action_bounds(from_zero(task.action_space))
    if policy.obs_dim != task.obs_dim or policy.low.shape != low.shape:
        raise ValueError(f"{path} is of an env with other spaces than {task.env_id or 'the task'}")
    if not (np.array_equal(policy.low, low) and np.array_equal(policy.high, high)):
        raise ValueError(f"{path} is of an env with other action bounds than {task.env_id or 'the task'}")
    low, high = action_bounds(task.action_space)
    return behind(normalizer, replace(policy, low=low, high=high))


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of the policy, and the settings as far as they are plain JSON."""
    files.check_file(Path(path), files.LARGEST)
    with files.read_errors(path), open(path, "rb") as file:
        try:
            with open_zip(file) as archive:
                settings = pydantic_core.from_json(read_member(archive, "data", files.LARGEST_JSON))
                tensors = read_tensors(read_member(archive, "policy.pth"))
            if not isinstance(settings, dict):
                raise ValueError("its settings are no JSON object")
        except Exception as error:  # foreign bytes fail in many ways
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StoreError(
                f"{path} is no zip that Stable-Baselines3 saved, or is damaged ({reason}); save it again"
            ) from error
    return {name: torch.from_numpy(array) for name, array in tensors.items()}, settings


def _build(
    path: str | os.PathLike[str],
    kind: _Kind,
    state: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    task: Task,
    activation: Activation | None,
) -> BasePolicy:
    """SB3's own policy over the task's spaces, its actor filled with these tensors."""
    keywords = settings.get("policy_kwargs")
    keywords = keywords if isinstance(keywords, dict) else {}
    if "features_extractor_class" in keywords:
        raise ValueError(f"{path} has a features extractor; only plain MLPs can be read")
    if keywords.get("squash_output") or (settings.get("use_sde") and "SAC" in kind.algorithms):
        raise ValueError(f"{path} uses gSDE with a squashed output, which is not supported")
    actor = {key: value for key, value in state.items() if key.startswith(kind.actor)}
    widths = _widths(
        path, [v for k, v in actor.items() if k.startswith(kind.hidden) and k.endswith(".weight")]
    )
    options: dict[str, Any] = {
        "activation_fn": _activation(path, activation, keywords, kind),
        "net_arch": widths[:-1] if kind.mark.startswith(kind.hidden) else widths,
    }
    if "log_std" in actor and actor["log_std"].ndim == 2:
        options["use_sde"] = True
    if kind.build is ActorCriticPolicy:
        options["ortho_init"] = False  # takes seconds for wide layers, and is overwritten
    try:
        if not isinstance(task.action_space, spaces.Box) and not kind.discrete:
            raise ValueError(f"{kind.algorithms[0]} takes no whole-number actions")
        with torch.random.fork_rng([]):  # the weights that SB3 draws are overwritten
            policy = kind.build(
                task.observation_space, from_zero(task.action_space), lambda _: 0.0, **options
            )
        rest = {k: v for k, v in policy.state_dict().items() if not k.startswith(kind.actor)}
        policy.load_state_dict({**rest, **actor})
    except Exception as error:  # SB3 asserts, and torch compares names and shapes
        raise ValueError(f"{path} does not fit the task's spaces, or its policy is no plain MLP") from error
    return policy


def _widths(path: str | os.PathLike[str], layers: Sequence[Tensor]) -> list[int]:
    """Of layers of which each takes what the one before gives, so that nothing larger than they is built."""
    shapes = [tuple(layer.shape) for layer in layers]
    fitting = all(
        len(shape) == 2 and layer.is_floating_point() for shape, layer in zip(shapes, layers, strict=True)
    )
    if not fitting or any(a[0] != b[1] for a, b in pairwise(shapes)) or len(shapes) > _MOST_LAYERS:
        raise StoreError(f"{path} holds no plain MLP: its layers do not fit each other; save the model again")
    return [shape[0] for shape in shapes]


def _activation(
    path: str | os.PathLike[str], given: Activation | None, keywords: Mapping[str, Any], kind: _Kind
) -> type[nn.Module]:
    """The one given or, by its class's name, which SB3 writes as text beside its pickle, the zip's own."""
    default = {"PPO": "tanh", "DynaSAC": "silu"}.get(kind.algorithms[0], "relu")
    text = str(keywords.get("activation_fn", ""))
    name = text.removesuffix("'>").rpartition(".")[2]
    for function, word in ACTIVATIONS.items():
        if function.__name__ == name if text and not given else word == (given or default):
            return function
    known = ", ".join(get_args(Activation))
    raise ValueError(f"{path}: activation {text} is not one of {known}; pass activation= if it is")


def _load(path: str | os.PathLike[str], kind: _Kind) -> BasePolicy:
    failure: Exception | None = None
    for algorithm in kind.algorithms:
        home = sb3_contrib if hasattr(sb3_contrib, algorithm) else stable_baselines3
        own: Any = DynaSAC if algorithm == "DynaSAC" else getattr(home, algorithm)
        try:
            policy: BasePolicy = own.load(path, device="cpu").policy
            return policy
        except Exception as error:
            failure = error
    raise ValueError(f"{path} cannot be loaded by SB3: {failure}") from failure
