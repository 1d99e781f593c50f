"""Worlds that several test files share, fitted once a session."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from wmgym.calibration.calibrate import calibrate
from wmgym.data.collect import collect
from wmgym.evaluation import speed
from wmgym.models.config import FitConfig
from wmgym.models.fit import fit
from wmgym.models.world import WorldModel

if sys.platform == "linux" and not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # no test imports mujoco before this file

TINY = FitConfig(members=2, width=32, depth=2, max_updates=100, eval_every=50)


@pytest.fixture(scope="session", autouse=True)
def brief_timing() -> Iterator[None]:
    """Every report times both simulators; no test needs to know their speed to a few percent."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(speed, "_SECONDS", 0.002)
        patched.setattr(speed, "_WARM_UP", 1)
        yield


@pytest.fixture(scope="session")
def pendulum_world() -> WorldModel:
    """A small calibrated world of InvertedPendulum-v5."""
    data = collect("InvertedPendulum-v5", steps=800, seed=0, workers=1)
    train, calib = data.split((0.8, 0.2), seed=0)
    return calibrate(fit(train, TINY), calib)


@pytest.fixture(scope="session")
def pendulum_dir(pendulum_world: WorldModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where that world is saved."""
    return str(pendulum_world.save(tmp_path_factory.mktemp("worlds") / "pendulum"))


@pytest.fixture(scope="session")
def cartpole_world() -> WorldModel:
    """A small world of CartPole-v1: Discrete actions, reward and termination learned."""
    data = collect("CartPole-v1", steps=2_000, seed=0, workers=1)
    return fit(data, FitConfig(members=2, width=64, depth=2, max_updates=300, learning_rate=0.01))
