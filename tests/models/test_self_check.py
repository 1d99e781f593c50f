"""A world that steps otherwise than when it was saved is refused when it is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import wmgym
from tests import toy
from wmgym.io import artifacts
from wmgym.models import self_check
from wmgym.models.dynamics import Prediction
from wmgym.models.saving import SHIPPED
from wmgym.models.world import WorldModel

SMALL = wmgym.FitConfig(members=2, width=16, depth=1, max_updates=20)
Arrays, Document = dict[str, np.ndarray], dict[str, Any]


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return wmgym.fit(toy.episodes(4, seed=0), SMALL)


def rewritten(path: Path, change: Callable[[Arrays, Document], Any]) -> WorldModel:
    """Loaded after a change of its files, whose checksums are right."""
    arrays, document = artifacts.read_directory(path, kind="world")
    arrays = {name: array.copy() for name, array in arrays.items()}
    change(arrays, document)
    artifacts.write_directory(path, kind="world", arrays=arrays, document=document)
    return wmgym.load(path, toy.task())


@pytest.mark.parametrize("half", [False, True])
def test_a_saved_world_is_loaded_as_it_was(world: WorldModel, tmp_path: Path, half: bool) -> None:
    world.save(tmp_path / "w", half=half)
    wmgym.load(tmp_path / "w", toy.task()).save(tmp_path / "again", half=half)
    documents = [artifacts.read_directory(tmp_path / name, kind="world")[1] for name in ("w", "again")]
    assert np.shape(documents[0]["check"]["core"]) == (8, 3)
    assert documents[0] == documents[1]
    wmgym.load(tmp_path / "again", toy.task())


@pytest.mark.parametrize("name", ["dynamics.weights.0", "dynamics.biases.1", "dynamics.target_std", "starts"])
def test_another_path_is_refused(world: WorldModel, tmp_path: Path, name: str) -> None:
    world.save(tmp_path / "w")
    with pytest.raises(wmgym.StoreError, match=r"steps otherwise .* or fit it again") as caught:
        rewritten(tmp_path / "w", lambda arrays, _: arrays[name].__imul__(1.05))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda check: check.pop("reward"),
        lambda check: check["core"].pop(),
        lambda check: check["action"][0].append(0.0),
        lambda check: check["action"][0].__setitem__(0, 1e9),
        lambda check: check["core"][0].__setitem__(0, 1e9),
        lambda check: check.update(core="much"),
        lambda check: check.update(action=[], core=[], reward=[]),
        lambda check: check.update(more=1),
    ],
)
def test_steps_that_are_none_of_its_are_refused(world: WorldModel, tmp_path: Path, change: Any) -> None:
    world.save(tmp_path / "w")
    with pytest.raises(wmgym.StoreError, match="fit it again"):
        rewritten(tmp_path / "w", lambda _, document: change(document["check"]))


def test_the_error_names_the_library_that_changed(
    world: WorldModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.save(tmp_path / "w")
    now = {**self_check.library_versions(), "torch": "9.9.9"}
    monkeypatch.setattr(self_check, "library_versions", lambda: now)
    wmgym.load(tmp_path / "w", toy.task())  # another version that steps alike will do
    with pytest.raises(wmgym.StoreError, match=r"made with torch .*, now 9\.9\.9"):
        rewritten(tmp_path / "w", lambda arrays, _: arrays["dynamics.weights.0"].__imul__(1.05))


def test_a_world_without_such_steps_is_loaded(world: WorldModel, tmp_path: Path) -> None:
    world.save(tmp_path / "w")
    rewritten(tmp_path / "w", lambda _, document: document.pop("check"))


def test_the_caller_may_pay_otherwise(world: WorldModel, tmp_path: Path) -> None:
    world.save(tmp_path / "w")
    wmgym.load(
        tmp_path / "w", toy.task(reward_fn=lambda obs, action, next_obs: toy.paid(obs, action, obs) + 7)
    )


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(2),
        spaces.Box(-2.0, 1.0, (2, 1), np.float64),
    ],
)
def test_every_kind_of_action_is_recorded(tmp_path: Path, space: spaces.Space[Any]) -> None:
    class Walk(gym.Env[np.ndarray, Any]):
        observation_space, action_space = spaces.Box(-9.0, 9.0, (2,), np.float64), space

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
            super().reset(seed=seed)
            self.x = self.np_random.normal(size=2)
            return self.x.copy(), {}

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            self.x = 0.9 * self.x + 0.1 * np.sum(action)
            return self.x.copy(), float(self.x[0]), False, False, {}

    task = wmgym.make_task(lambda: gym.wrappers.TimeLimit(Walk(), 20))
    wmgym.fit(wmgym.collect(task, None, steps=100, workers=1), SMALL).save(tmp_path / "w")
    wmgym.load(tmp_path / "w")


@pytest.mark.parametrize("env_id", sorted(path.parent.name for path in SHIPPED.glob("*/manifest.json")))
def test_shipped_worlds_have_them(env_id: str) -> None:
    _, document = artifacts.read_directory(SHIPPED / env_id, kind="world")
    world = wmgym.load(env_id)
    began = time.perf_counter()
    self_check.compare_check(world, document["check"], env_id, given=False)
    assert time.perf_counter() - began < 0.5  # 10 to 30 ms on a quiet machine


class Noisy(toy.LinearGaussian):
    """Steps otherwise every time."""

    def predict(self, core: torch.Tensor, action: torch.Tensor) -> Prediction:
        told = super().predict(core, action)
        return Prediction(told.mean + 0.1 * torch.randn_like(told.mean), told.std, None)


def test_a_model_that_draws_by_itself_is_not_asked_to_repeat_itself() -> None:
    assert self_check.record_check(toy.world(toy.LinearGaussian())) is not None
    assert self_check.record_check(toy.world(Noisy())) is None
