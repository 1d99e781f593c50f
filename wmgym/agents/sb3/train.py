"""Train an SB3 agent, unmodified, in imagination."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import stable_baselines3
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule

from wmgym.agents.sb3.agent_state import load_agent
from wmgym.agents.sb3.export import to_policy
from wmgym.agents.sb3.vec_env import ImaginedVecEnv
from wmgym.envs.trust import OnExceed, Trust
from wmgym.io.progress import Advance, track
from wmgym.models.dynamics import PROPAGATIONS, Propagation
from wmgym.models.world import WorldModel

ALGORITHMS = ("SAC", "PPO", "TD3", "DQN", "A2C", "DDPG")


@dataclass(frozen=True)
class TrainConfig:
    """How to train in imagination.

    Attributes:
        algorithm: SB3 class; None takes SAC for Box actions and PPO for Discrete ones.
        steps: imagined env steps, over all envs; SB3 finishes the rollout that it is in.
        num_envs: imagined episodes side by side.
        horizon: imagined steps an episode; None takes the real env's time limit.
        prefill: of these steps, how many fill the replay buffer before the first update (off-policy
            algorithms).
        propagation: of the imagined env. MuJoCo is deterministic, so what the ensemble calls noise is its own disagreement,
            and the default leaves it out. Take "sample" where the real env is noisy.
        halt: count leaving the range of the data as failure; see ``ImaginedVecEnv``.
        hyperparameters: keywords of the SB3 class; what is not named keeps SB3's default. A
            ``learning_rate`` or ``clip_range`` such as ``"lin_1e-3"`` falls linearly to zero over the
            training, as in RL Baselines3 Zoo.
        on_distrust: what becomes of steps that the model is unsure of; see ``ImaginedVectorEnv``, as for
            ``tolerance`` and ``penalty``. All but "ignore" need a calibrated world and cost about twice as
            much a step.
    """

    algorithm: str | None = None
    steps: int = 200_000
    num_envs: int = 64
    horizon: int | None = None
    prefill: int = 0
    propagation: Propagation = "member"
    halt: bool = False
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    on_distrust: OnExceed = "ignore"
    tolerance: float = 0.75
    penalty: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what SB3 cannot run."""
        if self.algorithm is not None and self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {self.algorithm!r}")
        if self.steps < 1 or self.num_envs < 1 or self.prefill < 0:
            raise ValueError("steps and num_envs must be at least 1, and prefill at least 0")
        if self.propagation not in PROPAGATIONS:
            raise ValueError(
                f"propagation must be one of {', '.join(PROPAGATIONS)}, got {self.propagation!r}"
            )


def train(
    world: WorldModel,
    config: TrainConfig | None = None,
    seed: int = 0,
    *,
    starts: np.ndarray | None = None,
    agent: Mapping[str, np.ndarray] | None = None,
    progress: bool = False,
) -> BaseAlgorithm:
    """Train an SB3 agent on imagined episodes and return it.

    Args:
        world: where to train.
        config: algorithm, budget and hyperparameters.
        seed: decides SB3's networks and draws, and the imagined episodes.
        starts: ``(n, state_dim)`` start states; real states from anywhere in the data make short horizons
            cover it (branched rollouts, Janner et al. 2019, arXiv:1906.08253). None takes the world's bank of
            true starts.
        agent: arrays of ``agent_arrays`` to continue from.
        progress: show a bar on a terminal.
    """
    config = config or TrainConfig()
    trust = Trust(config.on_distrust, config.tolerance, config.penalty)
    venv = ImaginedVecEnv(
        world,
        config.num_envs,
        max_episode_steps=config.horizon,
        starts=starts,
        propagation=config.propagation,
        divergence_is_terminal=config.halt,
        trust=trust if trust.on_exceed != "ignore" else None,
    )
    model = new_agent(venv, config, seed)
    if agent is not None:
        load_agent(model, agent)
    prefill = min(config.prefill, config.steps) if isinstance(model, OffPolicyAlgorithm) else 0
    with track("train", config.steps, show=progress) as advance:
        report = _Progress(advance, config.num_envs)
        if prefill:
            # A warm agent that updates on a nearly empty buffer forgets what it knew.
            updates, model.gradient_steps = model.gradient_steps, 0  # type: ignore[attr-defined]
            _learn(model, prefill, report)
            model.gradient_steps = updates  # type: ignore[attr-defined]
        if config.steps > model.num_timesteps:
            _learn(model, config.steps - model.num_timesteps, report)
    return model


def _learn(model: BaseAlgorithm, steps: int, report: BaseCallback) -> None:
    # SB3 takes None for "never", though it annotates an int.
    model.learn(steps, callback=report, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]


def new_agent(env: Any, config: TrainConfig, seed: int) -> BaseAlgorithm:
    """A fresh SB3 agent for an env of either kind."""
    discrete = isinstance(env.action_space, spaces.Discrete)
    name = config.algorithm or ("PPO" if discrete else "SAC")
    build = getattr(stable_baselines3, name)
    keywords = copy.deepcopy(dict(config.hyperparameters))  # SB3 writes into policy_kwargs
    for key in ("learning_rate", "clip_range"):
        value = keywords.get(key)
        if isinstance(value, str):
            keywords[key] = _linear(key, value)
    model: BaseAlgorithm = build("MlpPolicy", env, seed=seed, device="cpu", **keywords)
    return model


def _linear(key: str, value: str) -> LinearSchedule:
    prefix, _, start = value.partition("lin_")
    try:
        if prefix:
            raise ValueError
        return LinearSchedule(float(start), 0.0, 1.0)
    except ValueError:
        raise ValueError(f"{key} must be a number or such as 'lin_1e-3', got {value!r}") from None


def check_agent(env: Any, config: TrainConfig) -> None:
    """Refuse, before hours of training, keywords that SB3 does not take and agents that cannot be saved.

    Raises:
        ValueError: what SB3 or the export says, in one line.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training itself will repeat them
        try:
            agent = new_agent(env, config, 0)
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"{config.algorithm or 'SB3'} refuses: {reason[0]}") from error
        to_policy(agent)


class _Progress(BaseCallback):
    def __init__(self, advance: Advance, num_envs: int) -> None:
        super().__init__()
        self._advance, self._num_envs = advance, num_envs

    def _on_step(self) -> bool:
        self._advance(self._num_envs)
        return True
