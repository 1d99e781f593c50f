"""Recipes: settings of a whole run, and how a budget of real steps is met."""

from __future__ import annotations

import json

import pytest

from wmgym.app.recipes import Round, RunConfig, config_dict, recipe
from wmgym.models.config import FitConfig

ROUNDS = (Round(200, 20, 512), Round(100, 30, 1_024))


@pytest.mark.parametrize(
    ("steps", "expected"), [(250, [200]), (251, [200, 1]), (350, [200, 100]), (575, [200, 100, 100, 100, 25])]
)
def test_rounds_are_cut_or_the_last_one_repeated_to_meet_the_real_steps(
    steps: int, expected: list[int]
) -> None:
    config = recipe("HalfCheetah-v5", real_steps=steps, rounds=ROUNDS, calibration_steps=50)
    assert [each.real_steps for each in config.rounds] == expected
    assert config.real_steps == steps
    assert all(each.imagined_steps == 1_024 for each in config.rounds[1:])


def test_the_targets_budgets_are_kept() -> None:
    assert recipe("HalfCheetah-v5").real_steps == 10_000
    assert recipe("InvertedPendulum-v5").real_steps == 1_000


@pytest.mark.parametrize(
    ("env_id", "algorithm"), [("Hopper-v5", "SAC"), ("CartPole-v1", "PPO"), ("InvertedPendulum-v5", "PPO")]
)
def test_the_algorithm_can_act_in_the_env(env_id: str, algorithm: str) -> None:
    assert recipe(env_id).algorithm == algorithm


def test_another_algorithm_does_not_inherit_hyperparameters() -> None:
    assert not recipe("HalfCheetah-v5", algorithm="TD3").hyperparameters
    assert recipe("HalfCheetah-v5", algorithm="SAC").hyperparameters
    assert recipe("Hopper-v5", algorithm="TD3", hyperparameters={"tau": 0.1}).hyperparameters == {"tau": 0.1}


def test_settings_survive_json() -> None:
    config = recipe("InvertedPendulum-v5", seed=3)
    again = json.loads(json.dumps(config_dict(config)))
    assert recipe(again.pop("env_id"), **again) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hue": 1}, "RunConfig"), ({"fit": {"hue": 1}}, "FitConfig"), ({"rounds": [{"hue": 1}]}, "Round"),
        ({"rounds": []}, "at least one"), ({"calibration_steps": 0}, "calibration_steps"),
        ({"rounds": ROUNDS, "real_steps": 1_199}, "real_steps=1199"),
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


def test_the_defaults_are_a_run() -> None:
    assert RunConfig("Hopper-v5").fit == FitConfig()
