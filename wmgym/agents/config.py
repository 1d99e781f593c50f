"""Settings of a training in imagination."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wmgym.envs.conventions import one_of
from wmgym.envs.trust import OLD_TRUST, Trust
from wmgym.io.arguments import whole_number
from wmgym.io.deprecation import renamed
from wmgym.io.schema import STRICT
from wmgym.models.dynamics import PROPAGATIONS, Propagation

BOX_ALGORITHMS = ("DynaSAC", "SAC", "TQC", "CrossQ", "TD3", "DDPG", "PPO", "A2C")
DISCRETE_ALGORITHMS = ("PPO", "A2C", "DQN")
ALGORITHMS = tuple(dict.fromkeys((*BOX_ALGORITHMS, *DISCRETE_ALGORITHMS)))


@renamed(
    horizon="max_episode_steps",
    prefill="learning_starts",
    mode="propagation",
    halt="divergence_is_terminal",
    **OLD_TRUST,
)
@dataclass(frozen=True)
class TrainConfig:
    """How to train an agent in imagination.

    Attributes:
        algorithm: class of Stable-Baselines3 or sb3-contrib, or "DynaSAC"; None takes SAC for Box actions and
            PPO for Discrete ones.
        steps: imagined env steps, over all envs; SB3 finishes the rollout that it is in.
        num_envs: imagined episodes side by side.
        max_episode_steps: imagined steps per episode; None takes the real env's time limit.
        learning_starts: how many of the steps fill the replay buffer before the first update, the agent
            acting; off-policy algorithms only.
        propagation: how the imagined env uses the ensemble. MuJoCo is deterministic, so what the ensemble
            calls noise is its own disagreement, and the default leaves it out. Take "sample" where the real
            env is noisy. See ``WorldModel.step``.
        divergence_is_terminal: count leaving the range of the data as failure; see ``ImaginedVecEnv``.
        hyperparameters: keywords of the algorithm's class; what is not named keeps its default. A
            ``learning_rate`` or ``clip_range`` such as ``"lin_1e-3"`` falls linearly to zero over the
            training, as in RL Baselines3 Zoo.
        trust: what to do about steps that the model is unsure of; needs a calibrated world and costs about
            twice as much per step. None does not ask.

    Raises:
        ValueError: a value outside its range.
    """

    __pydantic_config__ = STRICT

    algorithm: str | None = None
    steps: int = 200_000
    num_envs: int = 64
    max_episode_steps: int | None = None
    learning_starts: int = 0
    propagation: Propagation = "member"
    divergence_is_terminal: bool = False
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    trust: Trust | None = None

    def __post_init__(self) -> None:
        """Refuse what SB3 cannot run."""
        if self.algorithm is not None:
            one_of("algorithm", self.algorithm, ALGORITHMS)
        for name, least in (("steps", 1), ("num_envs", 1), ("max_episode_steps", 1), ("learning_starts", 0)):
            given = getattr(self, name)
            if given is not None or name != "max_episode_steps":
                object.__setattr__(self, name, whole_number(name, given, least))
        one_of("propagation", self.propagation, PROPAGATIONS)
        object.__setattr__(self, "trust", Trust.of(self.trust))  # also from True and from JSON
