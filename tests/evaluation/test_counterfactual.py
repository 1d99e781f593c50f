"""Other actions: right under the exact model, found wrong under one that ignores or mistakes actions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import wmgym
from tests import toy
from wmgym.calibration.calibrate import calibrate
from wmgym.data.collect import collect
from wmgym.data.transitions import Transitions
from wmgym.evaluation.counterfactual import counterfactual
from wmgym.evaluation.findings import Alternative
from wmgym.models.dynamics import Prediction
from wmgym.models.world import WorldModel


def idle(obs: np.ndarray) -> np.ndarray:
    return np.zeros((len(obs), 2), np.float32)


def push(obs: np.ndarray) -> np.ndarray:
    return np.ones((len(obs), 2), np.float32)


class Gain(toy.LinearGaussian):
    """The toy's dynamics with the action multiplied."""

    gain = 0.0

    def _predict(self, core: Any, action: Any, member: Any) -> Prediction:
        return super()._predict(core, self.gain * action, member)


@pytest.fixture(scope="module")
def data() -> dict[str, Transitions]:
    made = {"idle": idle, "push": push, "random": None}
    return {n: collect(toy.task(), {n: p}, episodes=6, seed=1, workers=1) for n, p in made.items()}


def kinds(world: WorldModel, data: dict[str, Transitions], how: Any = "member") -> dict[str, Alternative]:
    found = counterfactual(world, data, how)
    assert (found.steps, found.skipped) == (8, "")
    assert list(each.actions for each in found.alternatives) == [
        "logged",
        "random",
        "another policy",
        "noise",
    ]
    return {each.actions: each for each in found.alternatives}


@pytest.mark.parametrize("propagation", ["member", "sample"])
def test_the_exact_model_knows_what_other_actions_do(data: dict[str, Transitions], propagation: Any) -> None:
    """The env repeats its noise, and so does the world: differences are exact."""
    found = kinds(toy.world(), data, propagation)
    for name, each in found.items():
        assert each.branches == 12
        assert each.coverage is None
        assert 0.1 < each.error < 0.6  # the noise of eight steps
        if name != "logged":
            assert each.cosine == pytest.approx(1.0, abs=1e-4)
            assert each.difference_error == pytest.approx(0.0, abs=1e-2)


def test_a_world_that_ignores_or_inverts_actions_is_found(data: dict[str, Transitions]) -> None:
    ignoring, inverting = Gain(), Gain()
    inverting.gain = -1.0
    for name, each in kinds(toy.world(ignoring), data).items():
        assert name == "logged" or each.difference_error == pytest.approx(1.0, abs=1e-4)
    for name, each in kinds(toy.world(inverting), data).items():
        assert name == "logged" or each.cosine == pytest.approx(-1.0, abs=1e-4)


def test_bounds_are_checked_where_there_are_some(data: dict[str, Transitions]) -> None:
    found = kinds(calibrate(toy.world(), toy.episodes(40, 0, steps=20)), data)
    for each in found.values():
        assert each.coverage == pytest.approx(0.9, abs=0.12)


def test_an_env_that_does_not_repeat_itself_is_skipped(data: dict[str, Transitions]) -> None:
    other = {name: replace(own, episode_seed=(5,) * 6) for name, own in data.items()}
    found = counterfactual(toy.world(), other)
    assert found.alternatives == ()
    assert found.skipped == "the real env does not repeat an episode exactly"
    short = {"idle": collect(toy.task(), idle, episodes=2, max_episode_steps=5, workers=1)}
    assert counterfactual(toy.world(), short).skipped == "no real episode has 8 steps"


def test_mujoco_is_branched_and_may_end_a_branch_early() -> None:
    world = wmgym.load("InvertedPendulum-v5")
    real = {"random": collect(world.task, episodes=6, seed=0, workers=1)}
    found = counterfactual(world, real)
    logged, *others = found.alternatives
    assert [each.actions for each in others] == ["random", "noise"]  # one policy alone has no other
    assert logged.cosine is None
    assert all(each.cosine is not None and each.cosine > 0.9 for each in others)
    assert logged.error < 0.2
