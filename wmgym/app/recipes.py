"""Settings of the whole line, and recipes: settings measured to work on an env."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gymnasium import spaces

from wmgym.models.config import FitConfig
from wmgym.models.dynamics import Propagation
from wmgym.tasks.task import make_task


@dataclass(frozen=True)
class Round:
    """Budgets of one round: collect, fit to all there is, train.

    Attributes:
        real_steps: real env steps, random ones in the first round, by the policy of the moment later.
        fit_updates: gradient steps of a fresh world at most.
        imagined_steps: imagined env steps; the agent continues from the round before.
    """

    real_steps: int
    fit_updates: int
    imagined_steps: int

    def __post_init__(self) -> None:
        """Refuse a round without work."""
        if min(self.real_steps, self.fit_updates, self.imagined_steps) < 1:
            raise ValueError(f"a round needs at least 1 of each of its budgets, got {self}")


_EARLY, _LATE = Round(500, 400, 48_000), Round(1_500, 1_500, 130_000)
_ROUNDS = (
    replace(_EARLY, real_steps=1_000),
    *[_EARLY] * 7,
    *[_LATE] * 2,
    replace(_LATE, imagined_steps=250_000),
)


@dataclass(frozen=True)
class RunConfig:
    """What ``run`` does.

    Attributes:
        env_id: the real env.
        seed: decides everything.
        rounds: collect, fit and train, in this order. Early rounds only lead the data on and can be short;
            later ones pay for a good fit and a long training, and the data in between corrects the world
            where the policy went to exploit it.
        calibration_steps: real steps at the end, taken by the final policy, that only calibrate.
        collect_limit: cut real episodes after this many steps, so that few steps hold several episodes.
            Episodes of the policy alternate between its exploration noise and none, since a policy can get
            stuck where its noisy self does not.
        fit: how each world is fitted; a round's ``fit_updates`` goes over its ``max_updates``.
        algorithm: SB3 class.
        num_envs: imagined episodes side by side.
        horizon: steps of an imagined episode; None takes the real time limit.
        prefill: of the imagined steps, how many fill the replay buffer before the first update.
        branch: start imagined episodes from all real states, not from start states alone.
        propagation: of the imagined env, in training and in the score; see ``WorldModel.step``.
        halt: count leaving the range of the data as failure; see ``wmgym.sb3.ImaginedVecEnv``.
        hyperparameters: keywords of the SB3 class; see ``wmgym.sb3.TrainConfig``.
        score_episodes: real episodes of the final score.
    """

    env_id: str
    seed: int = 0
    rounds: tuple[Round, ...] = _ROUNDS
    calibration_steps: int = 1_000
    collect_limit: int = 125
    fit: FitConfig = field(default_factory=FitConfig)
    algorithm: str = "SAC"
    num_envs: int = 128
    horizon: int | None = 100
    prefill: int = 5_120
    branch: bool = True
    propagation: Propagation = "member"
    halt: bool = False
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    score_episodes: int = 20

    def __post_init__(self) -> None:
        """Refuse a budget that leaves nothing to do."""
        if not self.rounds or self.calibration_steps < 1:
            raise ValueError("rounds must hold at least one, and calibration_steps must be at least 1")

    @property
    def real_steps(self) -> int:
        """Real env steps in all, calibration included, scoring not."""
        return sum(each.real_steps for each in self.rounds) + self.calibration_steps


def recipe(env_id: str, *, seed: int = 0, real_steps: int | None = None, **changes: Any) -> RunConfig:
    """Settings measured to work on ``env_id``, or the general ones, with ``changes`` on top.

    Args:
        env_id: the real env.
        seed: decides everything.
        real_steps: real env steps in all; rounds are left out from the end, or the last one is repeated, to
            meet it. None keeps the recipe's.
        changes: fields of ``RunConfig``; ``fit`` and each of ``rounds`` may be dictionaries of their fields.

    Raises:
        ValueError: an unknown field, or fewer real steps than the first round and the calibration take.
    """
    chosen = dict(_RECIPES.get(env_id) or _general(env_id))
    if changes.get("algorithm", chosen.get("algorithm")) != chosen.get("algorithm"):
        del chosen["hyperparameters"]  # they are another algorithm's
    chosen |= changes
    _require(chosen, RunConfig)
    if isinstance(chosen.get("fit"), Mapping):
        chosen["fit"] = _record(FitConfig, chosen["fit"])
    if "rounds" in chosen:
        chosen["rounds"] = tuple(
            _record(Round, each) if isinstance(each, Mapping) else each for each in chosen["rounds"]
        )
    config = RunConfig(env_id=env_id, seed=seed, **chosen)
    if real_steps is None:
        return config
    return replace(config, rounds=_meeting(config, real_steps))


def _general(env_id: str) -> dict[str, Any]:
    """SAC as it works on HalfCheetah, and PPO where it cannot go."""
    if isinstance(make_task(env_id).action_space, spaces.Discrete):
        return {"algorithm": "PPO", "hyperparameters": _PPO}
    return {"algorithm": "SAC", "hyperparameters": _SAC}


def config_dict(config: RunConfig) -> dict[str, Any]:
    """Settings as JSON values, so that they compare equal to what a file gives back."""
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return settings


def _meeting(config: RunConfig, real_steps: int) -> tuple[Round, ...]:
    """The rounds that collect ``real_steps`` less the calibration's."""
    least = config.rounds[0].real_steps + config.calibration_steps
    if real_steps < least:
        raise ValueError(
            f"real_steps={real_steps} is less than the first round and calibration_steps take = {least}"
        )
    left, rounds = real_steps - config.calibration_steps, list[Round]()
    while left > 0:
        each = config.rounds[min(len(rounds), len(config.rounds) - 1)]
        rounds.append(replace(each, real_steps=min(each.real_steps, left)))
        left -= rounds[-1].real_steps
    return tuple(rounds)


def _record(kind: type, values: Mapping[str, Any]) -> Any:
    _require(values, kind)
    return kind(**values)


def _require(values: Mapping[str, Any], kind: type) -> None:
    unknown = set(values) - {entry.name for entry in dataclasses.fields(kind)}
    if unknown:
        raise ValueError(f"unknown settings {sorted(unknown)}; see wmgym.{kind.__name__} for the known ones")


_SAC: dict[str, Any] = {
    "learning_rate": "lin_1e-3",
    "learning_starts": 0,
    "train_freq": 1,
    "gradient_steps": 8,
    "gamma": 0.98,
    "tau": 0.02,
    "buffer_size": 200_000,
    "policy_kwargs": {"net_arch": [128, 128], "optimizer_kwargs": {"fused": True}},
}
_PPO: dict[str, Any] = {"n_steps": 32, "batch_size": 1_024, "n_epochs": 8, "learning_rate": 1e-3}
_RECIPES: dict[str, dict[str, Any]] = {
    "HalfCheetah-v5": {
        "fit": FitConfig(learning_rate=8e-3),
        "algorithm": "SAC",
        "hyperparameters": _SAC,
    },
    "InvertedPendulum-v5": {
        "rounds": (Round(300, 400, 300_000), *[Round(200, 400, 300_000)] * 2, Round(200, 400, 600_000)),
        "calibration_steps": 100,
        "collect_limit": 100,
        "fit": FitConfig(eval_every=50, margin=0.1),
        "algorithm": "PPO",
        "hyperparameters": _PPO,
        "num_envs": 256,
        "horizon": 200,
        # Else the cart drifts, unpunished, to the end of its rail, which random data never shows.
        "halt": True,
    },
}
