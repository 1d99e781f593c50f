"""Train an SB3 agent in imagination: no real step."""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import LinearSchedule

from wmgym.agents.config import BOX_ALGORITHMS, DISCRETE_ALGORITHMS, TrainConfig
from wmgym.agents.sb3.callbacks import HoldActor, HoldUpdates, as_callbacks, warn_of_idle
from wmgym.agents.sb3.dyna_sac import DynaSAC
from wmgym.agents.sb3.export import to_policy
from wmgym.agents.sb3.from_policy import clone
from wmgym.agents.sb3.take_over import alike, layers_of, take_over
from wmgym.agents.sb3.vec_env import ImaginedVecEnv, env_of
from wmgym.data.policy import PolicyFn
from wmgym.data.pool import as_policies
from wmgym.envs.rollout import rollout
from wmgym.envs.vector_env import Source
from wmgym.io.learning_log import LearningLog
from wmgym.io.progress import Advance, track
from wmgym.io.schema import ArraySpec, check_arrays
from wmgym.tasks.actions import refuse_fixed

_ROWS = 100
_HELD = 0.2  # of the steps, while critics learn what the policy that a training goes on from is worth
_ENTROPY = "auto_0.01"  # a coefficient of 1, with which SAC begins, drowns what the policy is worth
_EPISODES, _LONGEST = 16, 1_000  # imagined episodes before and after, and their steps at most
_SMALL = 0.1  # of what a policy is above random actions, a loss that need not be warned of
_OWN = {  # keywords of the algorithms' classes that hyperparameters cannot set, and what does
    "policy": "the network is an MLP, of layers as policy_kwargs={'net_arch': [256, 256]} says",
    "env": "it is the one that is trained in",
    "seed": "pass seed= beside the config",
    "device": "agents train on the CPU",
}
_LEAST_BUFFER = 10  # transitions; less teach nothing


def train(
    world: Source,
    config: TrainConfig | None = None,
    seed: int = 0,
    *,
    starts: np.ndarray | None = None,
    agent: Mapping[str, np.ndarray] | None = None,
    policy: Any = None,
    callback: MaybeCallback = None,
    log: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **changes: Any,
) -> BaseAlgorithm:
    """Train an agent in a world model alone, without a step of the real env, and return it.

    The world stays as it is. Agents of Stable-Baselines3 and sb3-contrib learn, unmodified, from imagined
    episodes; ``DynaSAC`` also from the world's gradients.

    Args:
        world: where to train: a world, the directory of a saved one, or the id of one that ships.
        config: algorithm, budget and hyperparameters; None takes the defaults.
        seed: decides SB3's networks and draws, and the imagined episodes.
        starts: ``(n, state_dim)`` start states; real states from anywhere in the data let short episodes
            cover all of it (branched rollouts, Janner et al. 2019, arXiv:1906.08253). None takes the start
            states that the world keeps.
        agent: arrays of ``agent_arrays`` to continue from.
        policy: one to continue from, of any kind that ``collect`` takes and of any architecture, such as the
            one that runs on the robot. The agent gets its architecture and weights where the algorithm's
            actor can have them: of an MLP with the same kind of output, and without ``net_arch`` of your own.
            Else it learns to act like it. For the first fifth of the steps its actor then stays, while
            critics learn what that is worth; SAC's entropy coefficient begins at 0.01. Warns where imagined
            episodes return less in the end than before: SAC and TD3 make an update every
            ``num_envs`` steps, which may be too few. Not for DQN.
        callback: of Stable-Baselines3, as its ``learn`` takes them: an ``EvalCallback`` keeps what is best in
            another simulator than the one that is learned in.
        log: a directory for ``learning.json``, rows of returns and losses by imagined steps, and, where
            TensorBoard is installed, its event files.
        progress: show a bar on a terminal.
        changes: fields of ``TrainConfig``, put in place of the config's: ``algorithm="TQC", steps=50_000``.

    Raises:
        ValueError: ``trust`` is given and the world is not calibrated, an algorithm that does not exist or
            does not take the world's actions, a keyword that the algorithm refuses, both ``agent`` and
            ``policy``, not one policy, or what is no callback.
    """
    if unknown := changes.keys() - {entry.name for entry in fields(TrainConfig)}:
        raise TypeError(
            f"train() got an unexpected keyword argument {min(unknown)!r}; it takes fields of TrainConfig"
        )
    if agent is not None and policy is not None:
        raise ValueError("pass agent or policy to continue from, not both")
    if isinstance(agent, BaseAlgorithm):
        raise ValueError(
            "agent takes the arrays of agent_arrays(model), got a model; pass those, or the model as policy="
        )
    callbacks = as_callbacks(callback)
    config = replace(config or TrainConfig(), **changes)
    venv = env_of(world, config, starts)
    if policy is not None:
        algorithm, layers = config.algorithm or usual_algorithm(venv.action_space), layers_of(policy)
        usual = {"ent_coef": _ENTROPY} if algorithm in ("SAC", "TQC", "CrossQ") else {}
        config = replace(config, hyperparameters=usual | alike(algorithm, config.hyperparameters, layers))
    model = new_agent(venv, config, seed)
    warn_of_idle(callbacks, model, config.steps)
    if agent is not None:
        load_agent(model, agent)
    if policy is not None and not take_over(model, layers):
        clone(model, policy, venv, steps=config.steps, seed=seed)
    began = None if policy is None else _likely(model, policy)
    wait = min(config.learning_starts, config.steps) if isinstance(model, OffPolicyAlgorithm) else 0
    holds: list[BaseCallback] = [HoldUpdates(wait)] if wait else []
    if policy is not None:
        holds.append(HoldActor(wait + max(1, round(_HELD * config.steps))))
    with track("train", config.steps, show=progress) as advance:
        report = _Progress(advance, config, None if log is None else LearningLog(Path(log), "imagined_steps"))
        with warnings.catch_warnings():  # an EvalCallback's env is meant to be another simulator
            warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
            # One call, over which schedules fall once. SB3 takes None for "never" and annotates an int.
            never: Any = None
            model.learn(config.steps, callback=[*holds, report, *callbacks], log_interval=never)
        report.close()
    if began is not None:
        _warn_of_loss(venv, began, model, seed)
    return model


def _likely(model: BaseAlgorithm, policy: Any) -> PolicyFn:
    """What the agent does before it learns; where it cannot be taken apart, what it goes on from."""
    try:
        return to_policy(model)
    except ValueError:
        return next(iter(as_policies(policy).values()))  # type: ignore[return-value]


def _warn_of_loss(venv: ImaginedVecEnv, began: PolicyFn, model: BaseAlgorithm, seed: int) -> None:
    """Warn where a training made a policy worse in the very world that it was trained in."""
    world, limit = venv.venv.world, min(venv.venv.max_episode_steps or _LONGEST, _LONGEST)
    rows = np.random.default_rng(seed).integers(len(world.starts), size=_EPISODES)

    def returns(policy: PolicyFn | None) -> np.ndarray:
        return rollout(world, policy, world.starts[rows], seed, max_episode_steps=limit)[0]

    (now,) = as_policies(model).values()
    before, after = returns(began), returns(now)
    lost, error = (before - after).mean(), (before - after).std() / math.sqrt(_EPISODES)
    if lost > 3 * error and lost > _SMALL * abs(before.mean() - returns(None).mean()):
        other = "" if isinstance(model, DynaSAC) else ", or take algorithm='DynaSAC'"
        warnings.warn(
            f"the training made the policy worse: imagined episodes return {after.mean():.4g}, before it "
            f"{before.mean():.4g}; of SAC or TD3 raise the hyperparameter gradient_steps towards num_envs, "
            f"lower the learning_rate{other}",
            stacklevel=3,
        )


def new_agent(env: Any, config: TrainConfig, seed: int = 0) -> BaseAlgorithm:
    """A fresh, untrained agent for ``env``, real or imagined; ``seed`` decides its networks and draws.

    Raises:
        ValueError: an algorithm that does not take the env's actions, or what its class refuses.
    """
    kind = type(env.action_space).__name__
    name = config.algorithm or usual_algorithm(env.action_space)
    usable = {"Box": BOX_ALGORITHMS, "Discrete": DISCRETE_ALGORITHMS}.get(kind, ("PPO", "A2C"))
    if name not in usable:
        raise ValueError(f"{name} takes no {kind} actions; algorithms that do: {', '.join(usable)}")
    if 0 in (env.action_space.shape or ()):
        raise ValueError("no action has a number here, so there is no policy to train")
    if name not in DISCRETE_ALGORITHMS:
        refuse_fixed(env.action_space, name)
    home = sb3_contrib if hasattr(sb3_contrib, name) else stable_baselines3
    build = DynaSAC if name == "DynaSAC" else getattr(home, name)
    keywords = copy.deepcopy(dict(config.hyperparameters))  # SB3 writes into policy_kwargs
    for key, reason in _OWN.items():
        if key in keywords:
            raise ValueError(f"leave {key} out of hyperparameters: {reason}")
    for key in ("learning_rate", "clip_range"):
        value = keywords.get(key)
        if isinstance(value, str):
            keywords[key] = _linear(key, value)
    if isinstance(frequency := keywords.get("train_freq"), list):  # of JSON
        keywords["train_freq"] = tuple(frequency)
    least = max(_LEAST_BUFFER, getattr(env, "num_envs", 1))
    size = keywords.get("buffer_size", least)
    if not isinstance(size, int) or size < least:  # SB3 would make the most of any number
        raise ValueError(f"buffer_size has to be a whole number of at least {least}, got {size!r}")
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    model: BaseAlgorithm = build(policy, env, seed=seed, device="cpu", **keywords)
    return model


def usual_algorithm(space: spaces.Space[Any]) -> str:
    """The algorithm that is taken for actions where none is named."""
    return "SAC" if isinstance(space, spaces.Box) else "PPO"


def _linear(key: str, value: str) -> LinearSchedule:
    prefix, _, start = value.partition("lin_")
    try:
        if prefix:
            raise ValueError
        return LinearSchedule(float(start), 0.0, 1.0)
    except ValueError:
        raise ValueError(f"{key} must be a number or such as 'lin_1e-3', got {value!r}") from None


def agent_arrays(model: BaseAlgorithm) -> dict[str, np.ndarray]:
    """All weights of the agent ``model`` as arrays, without pickle; optimiser moments are left out."""
    state = model.policy.state_dict()
    arrays = {f"policy.{key}": np.array(value.cpu().numpy()) for key, value in state.items()}
    entropy = getattr(model, "log_ent_coef", None)
    if entropy is not None:
        arrays["log_ent_coef"] = np.array(entropy.detach().cpu().numpy())
    return arrays


def load_agent(model: BaseAlgorithm, arrays: Mapping[str, np.ndarray]) -> None:
    """Put the weights of ``agent_arrays`` into ``model``, an agent of the same architecture.

    Raises:
        ValueError: the architecture is another one, or a weight is not finite.
    """
    own = agent_arrays(model)
    check_arrays(arrays, {key: ArraySpec(array.shape, str(array.dtype)) for key, array in own.items()})
    state = {key[7:]: torch.tensor(value) for key, value in arrays.items() if key.startswith("policy.")}
    model.policy.load_state_dict(state)
    if "log_ent_coef" in own:
        with torch.no_grad():
            model.log_ent_coef.copy_(torch.tensor(arrays["log_ent_coef"]))  # type: ignore[attr-defined]


def check_agent(env: Any, config: TrainConfig) -> None:
    """Find out before hours of training whether SB3 takes the keywords and the agent can be exported.

    Raises:
        ValueError: it does not or cannot; says in one line what SB3 or the export says.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training itself will repeat them
        try:
            to_policy(new_agent(env, config, 0))
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"{config.algorithm or 'SB3'} refuses: {reason[0]}") from error


class _Progress(BaseCallback):
    """Moves the bar, and logs returns and what SB3 says of losses 100 times in all."""

    def __init__(self, advance: Advance, config: TrainConfig, log: LearningLog | None) -> None:
        super().__init__()
        self._advance, self._num_envs, self._log = advance, config.num_envs, log
        self._every, self._logged = max(1, config.steps // _ROWS), 0

    def _on_step(self) -> bool:
        self._advance(self._num_envs)
        if self._log is not None and self.num_timesteps // self._every > self._logged:
            self._logged = self.num_timesteps // self._every
            self._log.add(self._row())
        return True

    def _row(self) -> dict[str, float]:
        row = {"imagined_steps": float(self.num_timesteps)}
        if episodes := list(self.model.ep_info_buffer or ()):
            means = (float(sum(each[key] for each in episodes) / len(episodes)) for key in "rl")
            row |= zip(("return", "length"), means, strict=True)
        for name, value in self.model.logger.name_to_value.items():
            if isinstance(value, (int, float, np.floating)) and math.isfinite(value):
                row[name] = float(value)
        return row

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
