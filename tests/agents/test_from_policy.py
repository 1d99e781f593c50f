"""``train(world, policy=..., callback=...)``: cloning, schedules, callbacks and what is refused."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback

from tests import toy
from tests.families import Line
from wmgym.agents.config import TrainConfig
from wmgym.agents.sb3 import ImaginedVecEnv, train
from wmgym.agents.sb3.from_policy import clone
from wmgym.agents.sb3.train import new_agent
from wmgym.models.world import WorldModel
from wmgym.tasks.task import make_task

OFF_POLICY: dict[str, Any] = {"learning_starts": 16, "batch_size": 16, "policy_kwargs": {"net_arch": [16]}}
ON_POLICY: dict[str, Any] = {"n_steps": 8, "batch_size": 16, "n_epochs": 1}


def lean(obs: np.ndarray) -> np.ndarray:
    return -obs[:, :1]


@pytest.mark.parametrize(
    ("space", "algorithm"),
    [
        (spaces.Box(-2, 4, (1, 1)), "SAC"),
        (spaces.Box(-2, 4, (1, 1)), "PPO"),
        (spaces.Box(-1, 1, (2, 2), np.float64), "SAC"),
        (spaces.Box(-1, 1, (2, 2), np.float64), "PPO"),
        (spaces.Box(np.float32([-1, 0.5]), np.float32([1, 0.5])), "PPO"),
    ],
    ids=str,
)
def test_actions_of_any_shape_and_without_a_range_are_cloned(space: spaces.Box, algorithm: str) -> None:
    described = make_task(lambda: Line(space), reward_fn=toy.paid, terminated_fn=toy.never)
    venv = ImaginedVecEnv(toy.world(toy.Stub([0.0]), described), 64)
    model = new_agent(venv, TrainConfig(algorithm, hyperparameters={"policy_kwargs": {"net_arch": [32]}}))

    def teacher(obs: np.ndarray) -> np.ndarray:
        signs = (-1.0) ** np.arange(np.prod(space.shape)).reshape(space.shape)
        return np.clip(np.tanh(obs).reshape(-1, *[1] * len(space.shape)) * signs, space.low, space.high)

    clone(model, teacher, venv, steps=1_500)
    obs = np.linspace(-1, 1, 50, dtype=np.float32)[:, None]
    np.testing.assert_allclose(model.predict(obs, deterministic=True)[0], teacher(obs), atol=0.25)


class Watch(BaseCallback):
    """Counts how often a training begins and ends, and keeps its learning rates."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = self.ended = 0
        self.rates: list[float] = []

    def _on_training_start(self) -> None:
        self.begun += 1

    def _on_step(self) -> bool:
        self.rates.append(self.model.logger.name_to_value.get("train/learning_rate", 1.0))
        return True

    def _on_training_end(self) -> None:
        self.ended += 1


@pytest.mark.filterwarnings("ignore:the agent does not act as", "ignore:the training made")  # so short
@pytest.mark.parametrize("algorithm", ["DynaSAC", "PPO"])
def test_a_schedule_falls_once_and_a_callback_begins_and_ends_once(
    pendulum_world: WorldModel, algorithm: str
) -> None:
    keywords = ON_POLICY if algorithm == "PPO" else OFF_POLICY
    if algorithm == "DynaSAC":
        keywords = keywords | {"train_freq": 8, "gradient_steps": 1}
    watch = Watch()
    model = train(
        pendulum_world,
        algorithm=algorithm,
        steps=320,
        num_envs=4,
        learning_starts=32,
        hyperparameters=keywords | {"learning_rate": "lin_1e-2"},
        policy=lean,
        callback=watch,
    )
    assert (watch.begun, watch.ended, model.num_timesteps) == (1, 1, 320)
    rates = watch.rates[-60:]  # of 80 calls; the first updates come later
    assert rates[0] == pytest.approx(1e-2 * (1 - 20 / 80), abs=1.2e-3)
    assert rates[-1] == pytest.approx(0, abs=1.2e-3)
    assert (np.diff(rates) <= 0).all()


@pytest.mark.parametrize("given", ["eval", 3, (Watch,), object(), dict], ids=lambda each: type(each).__name__)
def test_what_is_no_callback_is_refused_before_anything_is_learned(
    pendulum_world: WorldModel, given: Any
) -> None:
    def unasked(obs: np.ndarray) -> np.ndarray:
        raise AssertionError("the policy was asked")

    for callback in (given, [given]):
        with pytest.raises(ValueError, match=r"callback must be a callback of Stable-Baselines3.*, got \S+"):
            train(pendulum_world, steps=10, policy=unasked, callback=callback)
    with pytest.raises(ValueError, match=r"callback is the class Watch; make one, Watch\("):
        train(pendulum_world, steps=10, policy=unasked, callback=Watch)


def test_classes_models_and_keywords_in_the_wrong_place_are_refused(pendulum_world: WorldModel) -> None:
    with pytest.raises(ValueError, match=r"PPO is a class; pass a trained or loaded instance"):
        train(pendulum_world, steps=10, policy=PPO)
    model = new_agent(ImaginedVecEnv(pendulum_world, 2), TrainConfig("PPO"))
    with pytest.raises(ValueError, match=r"agent takes the arrays of agent_arrays\(model\), got a model"):
        train(pendulum_world, steps=10, agent=model)  # type: ignore[arg-type]
    for key, hint in (
        ("device", "on the CPU"),
        ("seed", "pass seed="),
        ("policy", "net_arch"),
        ("env", "is"),
    ):
        with pytest.raises(ValueError, match=f"leave {key} out of hyperparameters: .*{hint}"):
            train(pendulum_world, steps=10, hyperparameters={key: None})


def test_a_callback_that_would_never_act_is_named(pendulum_world: WorldModel, tmp_path: Path) -> None:
    keywords = {"steps": 64, "num_envs": 4, "hyperparameters": ON_POLICY, "algorithm": "PPO"}
    late, last = CheckpointCallback(17, str(tmp_path)), CheckpointCallback(16, str(tmp_path))
    with pytest.warns(UserWarning, match="never acts") as caught:
        train(pendulum_world, **keywords, callback=[CallbackList([last, late]), lambda *_: True])
    (said,) = [str(each.message) for each in caught]
    assert said == (
        "CheckpointCallback never acts: save_freq=17 counts calls of step, of 4 envs each, and 64 steps "
        "make 16; divide it by num_envs"
    )
    assert [path.name for path in tmp_path.glob("*.zip")] == ["rl_model_64_steps.zip"]


def test_a_lesson_too_short_is_named_and_one_that_is_not_is_silent(pendulum_world: WorldModel) -> None:
    def swing(obs: np.ndarray) -> np.ndarray:
        return np.clip(obs @ np.array([[0.5], [4.0], [0.1], [0.5]], np.float32), -3, 3)

    for steps, short in ((64, True), (3_000, False)):
        venv = ImaginedVecEnv(pendulum_world, 32)
        model = new_agent(venv, TrainConfig("SAC", hyperparameters={"policy_kwargs": {"net_arch": [128]}}))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            clone(model, swing, venv, steps=steps)
        said = [str(each.message) for each in caught if "does not act as swing does" in str(each.message)]
        assert len(said) == short, said
        assert not short or re.search(r"\d+% of variance .* more steps=, up to 20,000 help$", said[0])
