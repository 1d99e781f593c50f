"""Settings of a whole run, and recipes: settings measured to work on an env."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_type_hints

from gymnasium import spaces

from wmgym.agents.config import TrainConfig
from wmgym.app.config import CollectConfig, EvaluateConfig, Round
from wmgym.io.deprecation import renamed
from wmgym.io.schema import read_settings, to_json
from wmgym.models.config import FitConfig
from wmgym.tasks.schema import rebuild_kwargs, record_kwargs
from wmgym.tasks.task import make_task

ONLINE = "DynaSAC"
"""The algorithm that learns from real steps while it takes them; others learn in rounds."""

MAX_SEED = 4_000_000
"""A thousand times this, which stages count on from, is a seed that NumPy's global generator still takes."""

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


_FROM_RECIPE: Any = None


@renamed(**OLD_KEYS)
@dataclass(frozen=True)
class RunConfig:
    """What ``run`` does. Whatever is not given comes from the env's recipe.

    Attributes:
        env_id: the real env.
        seed: decides everything random.
        rounds: collect, fit and train, in this order, for algorithms other than DynaSAC. Early rounds only
            lead the data towards what the policy will do and can be short; later ones pay for a good fit and
            a long training, and the data in between corrects the world where the policy learned to exploit
            it. Where rounds are given and no algorithm, it is SAC, or PPO for Discrete actions.
        collect: real steps; a mapping of some of its fields goes on top of the recipe's, here and below.
        fit: how the world of each round is fitted; ``fit_updates`` takes the place of its ``max_updates``.
        train: how the agent is trained; ``hyperparameters`` of the recipe's own algorithm go on top of the
            recipe's, one by one. DynaSAC, the default for Box actions, learns online from ``steps`` real
            steps, without rounds. Others train in rounds, whose ``imagined_steps`` take the place of
            ``steps``. ``propagation`` also holds for the final score.
        evaluate: the final score.
        branch: start a round's imagined episodes from all real states so far, not from start states alone.
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
        base = _base(self, env_kwargs)
        for name, kind in hints.items():
            given = getattr(self, name)
            if name in base and (given is None or isinstance(given, Mapping)):
                given = _changed(base[name], given or {})
            object.__setattr__(self, name, read_settings(kind, given, name))
        object.__setattr__(self, "env_kwargs", env_kwargs)
        if self.online:
            if unused := _unused(self):
                raise ValueError(
                    f"{', '.join(unused)}: DynaSAC learns online, where this has no meaning; leave it out, "
                    "or set train.algorithm to 'SAC' to train in rounds"
                )
        elif not self.rounds:
            raise ValueError("rounds must hold at least one round")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed must lie in 0..{MAX_SEED}, got {self.seed}")
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1, got {self.max_episode_steps}")

    @property
    def online(self) -> bool:
        """Whether the agent learns while it collects; others train in rounds."""
        return self.train.algorithm == ONLINE

    @property
    def real_steps(self) -> int:
        """Real env steps in all, calibration included, scoring not."""
        learned = self.train.steps if self.online else sum(each.real_steps for each in self.rounds)
        return learned + self.collect.calibration_steps

    def to_dict(self) -> dict[str, Any]:
        """JSON values only; ``RunConfig(**config.to_dict())`` is equal to ``config``."""
        return {**to_json(self), "env_kwargs": record_kwargs(self.env_kwargs)}


@renamed(**OLD_KEYS)
def recipe(env_id: str, *, seed: int = 0, real_steps: int | None = None, **changes: Any) -> RunConfig:
    """Settings measured to work on ``env_id``, or the general ones, with ``changes`` on top.

    Args:
        env_id: the real env.
        seed: decides everything random.
        real_steps: real env steps in all, calibration included. DynaSAC learns from the rest; rounds are
            left out from the end, or the last one is repeated, to meet it. None keeps the recipe's.
        changes: fields of ``RunConfig``; ``collect``, ``fit``, ``train``, ``evaluate`` and each of ``rounds``
            may be dictionaries of their fields.

    Raises:
        ValueError: an unknown field, or too few real steps for the calibration and something to learn from.
    """
    unknown = changes.keys() - get_type_hints(RunConfig).keys()
    if unknown:
        raise ValueError(f"unknown settings {sorted(unknown)}; see wmgym.RunConfig for the known ones")
    config = RunConfig(env_id, seed, **changes)
    if real_steps is None:
        return config
    learned = real_steps - config.collect.calibration_steps
    least = 1 if config.online else config.rounds[0].real_steps
    if learned < least:
        first = "nothing to learn from" if config.online else "less than the first round takes"
        raise ValueError(
            f"real_steps={real_steps} less calibration_steps={config.collect.calibration_steps} is {first}"
        )
    if config.online:
        return replace(config, train=replace(config.train, steps=learned))
    return replace(config, rounds=_meeting(config, learned))


def _base(config: RunConfig, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe that the given settings go on top of: that of the env and of the algorithm."""
    train: Any = config.train
    in_rounds = {**_ROUNDS, **_IN_ROUNDS.get(config.env_id, {})}
    online = {**_ONLINE, **_RECIPES.get(config.env_id, {})}
    if isinstance(train, TrainConfig):
        return online if train.algorithm == ONLINE else in_rounds
    if config.env_id not in _IN_ROUNDS:
        space = make_task(config.env_id, env_kwargs=env_kwargs).action_space
        if not isinstance(space, spaces.Box):
            in_rounds["train"] = replace(_TRAIN, algorithm="PPO", hyperparameters=_PPO)
    usual = ONLINE if config.rounds is None and in_rounds["train"] == _TRAIN else None
    asked = train.get("algorithm", usual) if isinstance(train, Mapping) else usual
    return online if asked == ONLINE else in_rounds


def _unused(config: RunConfig) -> list[str]:
    """Settings that only training in rounds reads, and that are not at their defaults."""
    named: dict[str, tuple[Any, Any]] = {
        "rounds": (config.rounds, ()), "fit": (config.fit, FitConfig()), "branch": (config.branch, True),
    }  # fmt: skip
    for name in ("num_envs", "max_episode_steps", "learning_starts", "divergence_is_terminal"):
        named[f"train.{name}"] = getattr(config.train, name), getattr(TrainConfig(), name)
    return [name for name, (given, default) in named.items() if given != default]


def _meeting(config: RunConfig, left: int) -> tuple[Round, ...]:
    """The rounds that collect so many real steps."""
    rounds = list[Round]()
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


_ONLINE: dict[str, Any] = {
    "rounds": (), "collect": CollectConfig(calibration_steps=4_000), "fit": FitConfig(),
    "train": TrainConfig(ONLINE, steps=10_000), "evaluate": EvaluateConfig(),
}  # fmt: skip
_RECIPES: dict[str, dict[str, Any]] = {
    "InvertedPendulum-v5": {
        "collect": CollectConfig(max_episode_steps=50, calibration_steps=500),
        "train": TrainConfig(ONLINE, steps=500),
    },
}
_EARLY, _LATE = Round(500, 400, 48_000), Round(1_500, 1_500, 130_000)
_ALL_ROUNDS = (
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
_ROUNDS: dict[str, Any] = {
    "rounds": _ALL_ROUNDS, "collect": CollectConfig(), "fit": FitConfig(), "train": _TRAIN,
    "evaluate": EvaluateConfig(),
}  # fmt: skip
_IN_ROUNDS: dict[str, dict[str, Any]] = {
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
