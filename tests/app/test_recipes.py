"""Recipes: settings of a whole run, and how a budget of real steps is met."""

from __future__ import annotations

import json

import pytest

import wmgym
from wmgym.agents.config import TrainConfig
from wmgym.app.config import CollectConfig, EvaluateConfig, Round
from wmgym.app.recipes import OLD_KEYS, RunConfig, recipe
from wmgym.envs.trust import Trust
from wmgym.models.config import FitConfig

SAC = {"algorithm": "SAC"}
ROUNDS = (Round(200, 20, 512), Round(100, 30, 1_024))


@pytest.mark.parametrize(
    ("steps", "expected"), [(250, [200]), (251, [200, 1]), (350, [200, 100]), (575, [200, 100, 100, 100, 25])]
)
def test_rounds_are_cut_or_the_last_one_repeated_to_meet_the_real_steps(
    steps: int, expected: list[int]
) -> None:
    config = recipe("HalfCheetah-v5", real_steps=steps, rounds=ROUNDS, collect={"calibration_steps": 50})
    assert [each.real_steps for each in config.rounds] == expected
    assert config.real_steps == steps
    assert all(each.imagined_steps == 1_024 for each in config.rounds[1:])


def test_the_targets_budgets_are_kept() -> None:
    assert recipe("HalfCheetah-v5").train.steps == 10_000
    assert recipe("HalfCheetah-v5", train=SAC).real_steps == 10_000
    assert recipe("InvertedPendulum-v5").real_steps <= 1_000


@pytest.mark.parametrize(
    ("env_id", "usual", "in_rounds"),
    [
        ("Hopper-v5", "DynaSAC", "SAC"), ("HalfCheetah-v5", "DynaSAC", "SAC"), ("CartPole-v1", "PPO", "PPO"),
        ("InvertedPendulum-v5", "PPO", "PPO"),
    ],
)  # fmt: skip
def test_the_algorithm_can_act_in_the_env(env_id: str, usual: str, in_rounds: str) -> None:
    assert recipe(env_id).train.algorithm == usual
    assert recipe(env_id, rounds=ROUNDS).train.algorithm == in_rounds


def test_dyna_sac_learns_from_real_steps_and_has_no_rounds() -> None:
    config = recipe("Hopper-v5", real_steps=7_000, collect={"calibration_steps": 1_500})
    assert (config.online, config.rounds, config.train.steps, config.real_steps) == (True, (), 5_500, 7_000)
    assert not recipe("Hopper-v5", train=SAC).online
    assert RunConfig("Hopper-v5", train={"steps": 300}).train == TrainConfig("DynaSAC", steps=300)
    assert RunConfig("Hopper-v5", train=TrainConfig("DynaSAC", steps=300)).train.steps == 300
    assert RunConfig("InvertedPendulum-v5", train={"algorithm": "DynaSAC"}).real_steps == 1_000
    assert not RunConfig("Hopper-v5", train=TrainConfig()).online  # SB3's default, as before


def test_another_algorithm_does_not_inherit_hyperparameters() -> None:
    def chosen(env_id: str, **train: object) -> object:
        return recipe(env_id, train=train).train.hyperparameters

    assert not chosen("HalfCheetah-v5", algorithm="TD3")
    assert chosen("HalfCheetah-v5", algorithm="SAC")
    assert chosen("Hopper-v5", algorithm="TD3", hyperparameters={"tau": 0.1}) == {"tau": 0.1}


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "InvertedPendulum-v5", "Hopper-v5", "CartPole-v1"])
def test_a_config_is_the_recipe(env_id: str) -> None:
    config = RunConfig(env_id)
    assert config == recipe(env_id) == wmgym.recipe(env_id)
    assert config.online or config.train.hyperparameters
    assert (config.seed, config.evaluate.episodes) == (0, 10)


def test_the_half_cheetahs_recipe_in_rounds() -> None:
    config = RunConfig("HalfCheetah-v5", 3, train=SAC)
    assert config.seed == 3
    assert config.fit == FitConfig(learning_rate=8e-3)
    assert (config.train.algorithm, config.train.num_envs, config.train.max_episode_steps) == (
        "SAC",
        128,
        100,
    )
    assert config.train.learning_starts == 5_120
    assert config.train.hyperparameters["gradient_steps"] == 8
    assert (config.collect.max_episode_steps, config.collect.calibration_steps) == (125, 1_000)
    assert sum(each.imagined_steps for each in config.rounds) == 48_000 * 8 + 130_000 * 2 + 250_000


def test_what_is_given_goes_on_top_of_the_recipe() -> None:
    base = RunConfig("HalfCheetah-v5", train=SAC)
    changed = RunConfig(
        "HalfCheetah-v5", fit={"members": 2}, train={**SAC, "num_envs": 4, "trust": {"penalty": 2.0}}
    )
    assert changed.fit == FitConfig(members=2, learning_rate=8e-3)
    assert changed.train.num_envs == 4
    assert changed.train.trust == Trust(penalty=2.0)
    assert changed.train.hyperparameters == base.train.hyperparameters
    assert changed.rounds == base.rounds
    whole = RunConfig("HalfCheetah-v5", train=TrainConfig("TD3"), collect=CollectConfig(10, 20))
    assert whole.train == TrainConfig("TD3")  # a whole value is taken as it is
    assert whole.real_steps == base.real_steps - 1_000 + 20


def test_hyperparameters_go_on_top_of_the_recipes_one_by_one() -> None:
    base = RunConfig("HalfCheetah-v5", train=SAC).train.hyperparameters
    for given in ({}, {"rounds": ROUNDS}):
        algorithm = {} if given else SAC
        changed = RunConfig("HalfCheetah-v5", train={**algorithm, "hyperparameters": {"gamma": 0.9}}, **given)
        assert changed.train.hyperparameters == {**base, "gamma": 0.9}
        assert RunConfig(**json.loads(json.dumps(changed.to_dict()))) == changed
    whole = RunConfig("HalfCheetah-v5", train=TrainConfig("SAC", hyperparameters={"gamma": 0.9}))
    assert whole.train.hyperparameters == {"gamma": 0.9}
    assert RunConfig(**whole.to_dict()) == whole


def test_settings_survive_json() -> None:
    learns = {"steps": 500, "hyperparameters": {"world_kwargs": {"updates": 9}}}
    for config in (
        recipe("InvertedPendulum-v5", seed=3, train={"trust": Trust("truncate", 0.5)}, env_kwargs={"a": 1}),
        recipe("HalfCheetah-v5", seed=3, train=learns, collect={"calibration_steps": 9}),
    ):
        assert RunConfig(**json.loads(json.dumps(config.to_dict()))) == config


FLAT = {
    "calibration_steps": 7, "collect_limit": 8, "algorithm": "TD3", "num_envs": 3, "horizon": 9, "prefill": 1,
    "mode": "sample", "halt": True, "hyperparameters": {"tau": 0.1}, "score_episodes": 5,
}  # fmt: skip


@pytest.mark.parametrize("make", [RunConfig, recipe])
def test_flat_settings_of_version_0_1_still_work(make: type[RunConfig]) -> None:
    assert set(FLAT) == set(OLD_KEYS)
    with pytest.warns(DeprecationWarning, match="the old name goes in the next release") as seen:
        config = make("Hopper-v5", **FLAT)
    said = [str(each.message).partition(";")[0] for each in seen]
    assert said == [f"{old} is {OLD_KEYS[old]} now" for old in FLAT]
    assert all(each.filename == __file__ for each in seen)
    train = TrainConfig("TD3", 200_000, 3, 9, 1, "sample", True, {"tau": 0.1})
    assert (config.train, config.collect) == (train, CollectConfig(8, 7))
    assert config.evaluate == EvaluateConfig(5)
    for old, value in FLAT.items():
        with pytest.warns(DeprecationWarning, match=rf"RunConfig\.{old} is {OLD_KEYS[old]} now"):
            assert getattr(config, old) == value
    with pytest.raises(ValueError, match=r"horizon is train\.max_episode_steps now; pass that alone"):
        make("Hopper-v5", horizon=3, train={"max_episode_steps": 4})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hue": 1}, "RunConfig"), ({"fit": {"hue": 1}}, "fit.hue: "), ({"train": {"hue": 1}}, r"train\.hue"),
        ({"rounds": [{"hue": 1}]}, r"rounds\.0\.\w+: "), ({"collect": {"hue": 1}}, r"collect\.hue"),
        ({"fit": {"members": "two"}}, r"fit\.members: Input should"), ({"branch": 1}, "branch"),
        ({"rounds": []}, "at least one"), ({"collect": {"calibration_steps": 0}}, "calibration_steps"),
        ({"evaluate": {"episodes": 1}}, "at least 2 episodes"), ({"train": {"num_envs": 0}}, "num_envs"),
        ({"rounds": ROUNDS, "real_steps": 1_199}, "real_steps=1199"),
        ({"train": {"trust": {"hue": 1}}}, r"^train\.trust\.hue: Unexp"), ({"collect": 5}, "^collect: Input"),
        ({"rounds": [{"real_steps": 1}]}, r"^rounds\.0\.fit_updates: .* rounds\.0\.imagined_steps: Fiel"),
        ({"rounds": 5}, "^rounds: Input"), ({"rounds": {"real_steps": 1}}, "^rounds: Input"),
        ({"max_episode_steps": 0}, "max_episode_steps must be at least 1, got 0"),
        ({"collect": {"max_episode_steps": 0}}, "max_episode_steps must be at least 1"),
        ({"env_kwargs": {"a": object()}}, "env_kwargs is not JSON"),
        ({"env_kwargs": 3}, "^env_kwargs: Input"),
        ({"train": {"num_envs": 8}}, "^train.num_envs: DynaSAC learns online.*train.algorithm to 'SAC'"),
        ({"fit": {"members": 2}, "branch": False}, "^fit, branch: DynaSAC learns online"),
        ({"rounds": ROUNDS, "train": {"algorithm": "DynaSAC"}}, "^rounds: DynaSAC learns online"),
        ({"real_steps": 4_000}, "calibration_steps=4000 is nothing to learn from"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        recipe("HalfCheetah-v5", **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["real_steps", "fit_updates", "imagined_steps"])
def test_an_empty_round_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Round(**{"real_steps": 1, "fit_updates": 1, "imagined_steps": 1} | {field: 0})
