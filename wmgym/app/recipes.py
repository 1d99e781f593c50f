"""Settings of a whole run, and recipes: settings measured to work on an env."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_type_hints

from gymnasium import spaces

from wmgym.agents.config import TrainConfig
from wmgym.io.deprecation import renamed
from wmgym.io.schema import STRICT, read_settings, to_json
from wmgym.models.config import FitConfig
from wmgym.tasks.schema import rebuild_kwargs, record_kwargs
from wmgym.tasks.task import make_task

OLD_KEYS = {
    "calibration_steps": "collect.calibration_steps",
    "collect_limit": "collect.max_episode_steps",
    "algorithm": "train.algorithm",
    "num_envs": "train.num_envs",
    "horizon": "train.max_episode_steps",
    "prefill": "train.learning_starts",
    "mode": "train.propagation",
    "halt": "train.divergence_is_terminal",
    "hyperparameters": "train.hyperparameters",
    "score_episodes": "evaluate.episodes",
}
"""Settings of version 0.1, when ``RunConfig`` was flat, and where they are now."""


@dataclass(frozen=True)
class Round:
    """Budgets of one round: collect, fit to all data so far, train.

    Attributes:
        real_steps: real env steps, random ones in the first round, by the policy so far in later ones.
        fit_updates: gradient steps of the fit at most; every round fits a fresh world.
        imagined_steps: imagined env steps; the agent continues from the round before.
    """

    __pydantic_config__ = STRICT

    real_steps: int
    fit_updates: int
    imagined_steps: int

    def __post_init__(self) -> None:
        """Refuse a round without work."""
        if min(self.real_steps, self.fit_updates, self.imagined_steps) < 1:
            raise ValueError(f"a round needs at least 1 of each of its budgets, got {self}")


@dataclass(frozen=True)
class CollectConfig:
    """How a run takes steps in the real env.

    Attributes:
        max_episode_steps: end real episodes after this many steps, so that few steps hold several episodes;
            None takes the env's time limit. Episodes of the policy alternate between its exploration noise
            and none, since a policy can get stuck where its noisy self does not.
        calibration_steps: real steps at the end, by the final policy, that only calibrate.
    """

    __pydantic_config__ = STRICT

    max_episode_steps: int | None = 125
    calibration_steps: int = 1_000

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to calibrate on."""
        limit = self.max_episode_steps
        if self.calibration_steps < 1 or (limit is not None and limit < 1):
            raise ValueError("calibration_steps and max_episode_steps must be at least 1")


@dataclass(frozen=True)
class EvaluateConfig:
    """How a run scores its final policy.

    Attributes:
        episodes: real episodes, and as many imagined ones.
    """

    __pydantic_config__ = STRICT

    episodes: int = 20

    def __post_init__(self) -> None:
        """Refuse what gives no interval."""
        if self.episodes < 2:
            raise ValueError(f"an interval needs at least 2 episodes, got {self.episodes}")


_FROM_RECIPE: Any = None


@renamed(**OLD_KEYS)
@dataclass(frozen=True)
class RunConfig:
    """What ``run`` does. Whatever is not given comes from the env's recipe.

    Attributes:
        env_id: the real env.
        seed: decides everything random.
        rounds: collect, fit and train, in this order. Early rounds only lead the data towards what the policy
            will do and can be short; later ones pay for a good fit and a long training, and the data in
            between corrects the world where the policy learned to exploit it.
        collect: real steps; a mapping of some of its fields goes on top of the recipe's, here and below.
        fit: how each world is fitted; a round's ``fit_updates`` takes the place of its ``max_updates``.
        train: how the agent is trained; ``hyperparameters`` of the recipe's own algorithm go on top of the
            recipe's, one by one. A round's ``imagined_steps`` takes the place of its ``steps``;
            ``propagation`` also holds for the final score.
        evaluate: the final score.
        branch: start imagined episodes from all real states seen so far, not from start states alone.
        env_kwargs: keywords for ``gym.make``; JSON values and infinite numbers only.
        max_episode_steps: time limit of the env, real and imagined; None takes its own.

    Raises:
        ValueError: an unknown field, or a value outside its range.
    """

    env_id: str
    seed: int = 0
    rounds: tuple[Round, ...] = _FROM_RECIPE
    collect: CollectConfig = _FROM_RECIPE
    fit: FitConfig = _FROM_RECIPE
    train: TrainConfig = _FROM_RECIPE
    evaluate: EvaluateConfig = _FROM_RECIPE
    branch: bool = True
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_episode_steps: int | None = None

    def __post_init__(self) -> None:
        """Fill in the recipe, and refuse a run that leaves nothing to do."""
        hints = get_type_hints(RunConfig)
        env_kwargs = rebuild_kwargs(read_settings(hints["env_kwargs"], self.env_kwargs, "env_kwargs"))
        base = {**_DEFAULTS, **_RECIPES.get(self.env_id, {})}
        if self.env_id not in _RECIPES and not isinstance(self.train, TrainConfig):
            base["train"] = _general(self.env_id, env_kwargs)
        for name, kind in hints.items():
            given = getattr(self, name)
            if name in base and (given is None or isinstance(given, Mapping)):
                given = _changed(base[name], given or {})
            object.__setattr__(self, name, read_settings(kind, given, name))
        object.__setattr__(self, "env_kwargs", env_kwargs)
        if not self.rounds:
            raise ValueError("rounds must hold at least one round")
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1, got {self.max_episode_steps}")

    @property
    def real_steps(self) -> int:
        """Real env steps in all, calibration included, scoring not."""
        return sum(each.real_steps for each in self.rounds) + self.collect.calibration_steps

    def to_dict(self) -> dict[str, Any]:
        """JSON values only; ``RunConfig(**config.to_dict())`` is equal to ``config``."""
        return {**to_json(self), "env_kwargs": record_kwargs(self.env_kwargs)}


@renamed(**OLD_KEYS)
def recipe(env_id: str, *, seed: int = 0, real_steps: int | None = None, **changes: Any) -> RunConfig:
    """Settings measured to work on ``env_id``, or the general ones, with ``changes`` on top.

    Args:
        env_id: the real env.
        seed: decides everything random.
        real_steps: real env steps in all; rounds are left out from the end, or the last one is repeated, to
            meet it. None keeps the recipe's.
        changes: fields of ``RunConfig``; ``collect``, ``fit``, ``train``, ``evaluate`` and each of ``rounds``
            may be dictionaries of their fields.

    Raises:
        ValueError: an unknown field, or fewer real steps than the first round and the calibration take.
    """
    unknown = changes.keys() - get_type_hints(RunConfig).keys()
    if unknown:
        raise ValueError(f"unknown settings {sorted(unknown)}; see wmgym.RunConfig for the known ones")
    config = RunConfig(env_id, seed, **changes)
    if real_steps is None:
        return config
    return replace(config, rounds=_meeting(config, real_steps))


def _general(env_id: str, env_kwargs: Mapping[str, Any]) -> TrainConfig:
    """SAC as it works on HalfCheetah, and PPO where SAC cannot act."""
    if isinstance(make_task(env_id, env_kwargs=env_kwargs).action_space, spaces.Discrete):
        return replace(_TRAIN, algorithm="PPO", hyperparameters=_PPO)
    return _TRAIN


def _meeting(config: RunConfig, real_steps: int) -> tuple[Round, ...]:
    """The rounds that collect ``real_steps`` less the calibration's."""
    least = config.rounds[0].real_steps + config.collect.calibration_steps
    if real_steps < least:
        raise ValueError(
            f"real_steps={real_steps} is less than the first round and calibration_steps take = {least}"
        )
    left, rounds = real_steps - config.collect.calibration_steps, list[Round]()
    while left > 0:
        each = config.rounds[min(len(rounds), len(config.rounds) - 1)]
        rounds.append(replace(each, real_steps=min(each.real_steps, left)))
        left -= rounds[-1].real_steps
    return tuple(rounds)


def _changed(record: Any, values: Mapping[str, Any]) -> Any:
    """JSON values of a record with some of them changed, hyperparameters one by one.

    Another algorithm inherits no hyperparameters, nor does a mapping of all fields, as ``to_dict`` makes it.
    """
    if not values or isinstance(record, tuple):
        return values or record
    base = dict(vars(record))
    own = base.get("algorithm")
    if values.keys() >= base.keys() or values.get("algorithm", own) != own:
        base.pop("hyperparameters", None)
    merged = {**base, **values}
    if isinstance(merged.get("hyperparameters"), Mapping):
        merged["hyperparameters"] = {**base.get("hyperparameters", {}), **merged["hyperparameters"]}
    return merged


_EARLY, _LATE = Round(500, 400, 48_000), Round(1_500, 1_500, 130_000)
_ROUNDS = (
    replace(_EARLY, real_steps=1_000),
    *[_EARLY] * 7,
    *[_LATE] * 2,
    replace(_LATE, imagined_steps=250_000),
)
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
_TRAIN = TrainConfig("SAC", num_envs=128, max_episode_steps=100, learning_starts=5_120, hyperparameters=_SAC)
_DEFAULTS: dict[str, Any] = {
    "rounds": _ROUNDS, "collect": CollectConfig(), "fit": FitConfig(), "train": _TRAIN,
    "evaluate": EvaluateConfig(),
}  # fmt: skip
_RECIPES: dict[str, dict[str, Any]] = {
    "HalfCheetah-v5": {"fit": FitConfig(learning_rate=8e-3)},
    "InvertedPendulum-v5": {
        "rounds": (Round(300, 400, 300_000), *[Round(200, 400, 300_000)] * 2, Round(200, 400, 600_000)),
        "collect": CollectConfig(max_episode_steps=100, calibration_steps=100),
        "fit": FitConfig(eval_every=50, margin=0.1),
        "train": replace(
            _TRAIN,
            algorithm="PPO",
            hyperparameters=_PPO,
            num_envs=256,
            max_episode_steps=200,
            # Else the cart drifts, unpunished, to the end of its rail, which random data never shows.
            divergence_is_terminal=True,
        ),
    },
}
