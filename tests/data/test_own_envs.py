"""What a process is told of envs that another one has registered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import pytest

import wmgym
from tests.toy import LinearGaussianEnv
from wmgym.data.own_envs import own_envs, register_own


@pytest.fixture
def registry() -> Iterator[dict[str, Any]]:
    kept = dict(gym.registry)
    yield gym.registry
    gym.registry.clear()
    gym.registry.update(kept)


@pytest.mark.parametrize("entry", [LinearGaussianEnv, "tests.toy:LinearGaussianEnv"])
def test_an_env_of_ones_own_is_registered_where_it_was_not(entry: Any, registry: dict[str, Any]) -> None:
    gym.register("own/Thing-v0", entry, max_episode_steps=7, kwargs={"sigma": 0.5})
    (mine,) = (env for env in own_envs() if env.env_id == "own/Thing-v0")
    del registry["own/Thing-v0"]
    register_own([mine])
    env = gym.make("own/Thing-v0")
    assert env.unwrapped.sigma == 0.5  # type: ignore[attr-defined]
    assert env.spec is not None
    assert env.spec.max_episode_steps == 7
    assert not [env for env in own_envs() if env.entry_point.startswith(("gymnasium", "wmgym"))]


def test_what_cannot_be_imported_elsewhere_stays_behind(registry: dict[str, Any]) -> None:
    class Local(LinearGaussianEnv):
        """Of a function."""

    gym.register("own/Local-v0", Local)
    gym.register("own/Lambda-v0", lambda: Local())
    assert not {"own/Local-v0", "own/Lambda-v0"} & {env.env_id for env in own_envs()}
    gym.register("own/Gone-v0", "no_such_module:Env")
    register_own(own_envs())  # raises nothing


def test_one_env_is_one_env_however_it_was_named(registry: dict[str, Any]) -> None:
    gym.register("own/Thing-v0", "tests.toy:LinearGaussianEnv", max_episode_steps=7, kwargs={"sigma": 0.5})
    live = gym.make("own/Thing-v0")
    names: list[Any] = ["own/Thing-v0", "tests.toy:own/Thing-v0", wmgym.make_task(live)]
    parts = [wmgym.collect(name, steps=14, seed=k, workers=1) for k, name in enumerate(names)]
    assert wmgym.concat(parts).num_episodes == 6
    other = wmgym.make_task(gym.make("own/Thing-v0", sigma=0.1))
    assert other.env_kwargs == {"sigma": 0.1}
    with pytest.raises(ValueError, match=r"env_kwargs .* and .*sigma"):
        wmgym.concat([parts[2], wmgym.collect(other, steps=14, workers=1)])
