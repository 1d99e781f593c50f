"""The verdict on the toy: "trust" with its exact model, and never with one made wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from tests import toy
from wmgym.calibration.calibrate import calibrate
from wmgym.data.policy import PolicyFn
from wmgym.envs.rollout import rollout
from wmgym.evaluation.findings import Verdict
from wmgym.evaluation.score import score
from wmgym.models.dynamics import Prediction
from wmgym.models.world import WorldModel

GAIN = np.array([[0.7, 0.7, 1.4], [0.4, 2.1, -0.2]])
SIGMA = 0.02


def exact() -> WorldModel:
    """The toy's own dynamics, with bounds."""
    task = toy.task(SIGMA)
    world = toy.world(toy.LinearGaussian(SIGMA), task)
    world = calibrate(world, toy.episodes(60, 0, sigma=SIGMA, steps=32, described=task))
    assert world.calibration is not None
    return world.with_calibration(replace(world.calibration, std_scale=np.ones(3)))  # its noise is right


@dataclass
class Wrong(toy.LinearGaussian):
    """The toy's dynamics, the action or the change mistaken."""

    sigma: float = SIGMA
    act: Callable[[Tensor], Tensor] = lambda action: action
    change: Callable[[Tensor], Tensor] = lambda mean: mean

    def _predict(self, core: Any, action: Any, member: Any) -> Prediction:
        found = super()._predict(core, self.act(action), member)
        return replace(found, mean=self.change(found.mean))


def linear(scale: float) -> PolicyFn:
    return lambda obs: np.clip(-scale * (obs @ GAIN.T), -1, 1).astype(np.float32)


def judge(world: WorldModel) -> Verdict:
    policies: dict[str, Any] = {f"gain {k}": linear(k) for k in (1.0, 0.6, 0.3, 0.1, 0.0, -0.1)}
    gains = np.linspace(0.2, 1.2, 6)
    starts = np.random.default_rng(3).normal(size=(30, 3)).astype(np.float32)
    imagined = [rollout(world, linear(k), starts, propagation="sample")[0].mean() for k in gains]
    policies["trained"] = linear(float(gains[np.argmax(imagined)]))  # in this very world
    report = score(world, policies, 30, seed=4, propagation="sample", trained_in_world={"trained"}, workers=1)
    assert report.verdict is not None
    return report.verdict


def rewarded(world: WorldModel, factor: float) -> WorldModel:
    def reward(core: Tensor, action: Tensor, next_core: Tensor, moved: Tensor) -> Tensor:
        return -factor * (next_core**2).sum(-1)

    return replace(world, task=replace(world.task, reward=reward))


def changed(world: WorldModel, **how: Any) -> WorldModel:
    return replace(world, dynamics=Wrong(**how))


def narrowed(world: WorldModel, factor: float) -> WorldModel:
    table = world.calibration
    assert table is not None
    return world.with_calibration(
        replace(table, per_disagreement={how: factor * rows for how, rows in table.per_disagreement.items()})
    )


def ended(world: WorldModel) -> WorldModel:
    def early(core: Tensor, action: Tensor, next_core: Tensor, moved: Tensor) -> Tensor:
        return next_core[:, 0] > 1.5

    return replace(world, task=replace(world.task, terminated=early))


def column(number: int, factor: float) -> Callable[[Tensor], Tensor]:
    def scaled(values: Tensor) -> Tensor:
        values = values.clone()
        values[..., number] *= factor
        return values

    return scaled


WRONG: dict[str, Callable[[WorldModel], WorldModel]] = {
    "reward +10 %": lambda world: rewarded(world, 1.1),
    "reward -10 %": lambda world: rewarded(world, 0.9),
    "actions ignored": lambda world: changed(world, act=lambda action: 0 * action),
    "actions x0.5": lambda world: changed(world, act=lambda action: 0.5 * action),
    "an action inverted": lambda world: changed(world, act=column(0, -1.0)),
    "time step +20 %": lambda world: changed(world, change=lambda mean: 1.2 * mean),
    "a dimension that damps half as much": lambda world: changed(world, change=column(2, 0.5)),
    "noise of three times the size": lambda world: replace(world, dynamics=Wrong(factor=3.0)),
    "no noise": lambda world: replace(world, dynamics=Wrong(factor=0.0)),
    "bounds of half the width": lambda world: narrowed(world, 0.5),
    "bounds of twice the width": lambda world: narrowed(world, 2.0),
    "no bounds": toy.uncalibrated,
    "an end that is none": ended,
}


def test_the_exact_model_is_trusted() -> None:
    found = judge(exact())
    assert found.level == "trust", str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_no_wrong_world_is_trusted(name: str) -> None:
    found = judge(WRONG[name](exact()))
    assert found.level != "trust", str(found)
    assert any(reason.passed is False for reason in found.reasons) or name == "no bounds", str(found)
