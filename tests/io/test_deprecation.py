"""Names of version 0.1 go on working for one release, each with a warning that says the new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import wmgym
from tests import toy
from wmgym.calibration.calibrate import calibrate
from wmgym.envs.registration import make_env, make_vector_env
from wmgym.models.world import WorldModel


@pytest.fixture(scope="module")
def toy_world() -> WorldModel:
    return calibrate(toy.world(), toy.episodes(4, 0, steps=4), horizon=2)


MAKERS: list[Callable[..., Any]] = [
    wmgym.ImaginedVectorEnv,
    wmgym.ImaginedEnv,
    lambda world, **kwargs: make_env(world.task.env_id, world, **kwargs),
    lambda world, **kwargs: make_vector_env(world.task.env_id, world, **kwargs),
    lambda world, **kwargs: wmgym.sb3.ImaginedVecEnv(world, 2, **kwargs).venv,
]


@pytest.mark.parametrize("make", MAKERS)
def test_trust_was_four_keywords_of_an_env(make: Callable[..., Any], toy_world: WorldModel) -> None:
    old: dict[str, Any] = {"on_distrust": "truncate", "tolerance": 0.5}
    for trust in ({}, {"trust": True}):
        with pytest.warns(DeprecationWarning, match=r"on_distrust, tolerance= is trust=wmgym\.Trust\(on_ex"):
            assert make(toy_world, **old, **trust).trust == wmgym.Trust("truncate", 0.5)
    with pytest.warns(DeprecationWarning, match=r"penalty= is trust=wmgym\.Trust\(penalty=2\.0\) now"):
        assert make(toy_world, penalty=2.0).trust is None  # as it was: nothing but a number kept
    with pytest.raises(TypeError, match=r"pass trust=wmgym\.Trust\(threshold=0\.5\) alone"):
        make(toy_world, tolerance=0.5, trust=wmgym.Trust())


@pytest.mark.parametrize("make", MAKERS)
def test_propagation_was_mode(make: Callable[..., Any], toy_world: WorldModel) -> None:
    with pytest.warns(DeprecationWarning, match="mode= is propagation= now"):
        env = make(toy_world, mode="mean")
    assert getattr(env, "_venv", env).propagation == "mean"


def test_divergence_is_terminal_was_halt() -> None:
    with pytest.warns(DeprecationWarning, match="halt= is divergence_is_terminal= now"):
        env = wmgym.sb3.ImaginedVecEnv(toy.world(), 2, halt=True)
    assert env._divergence_is_terminal
