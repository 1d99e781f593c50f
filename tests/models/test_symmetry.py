"""Symmetries against MuJoCo: a mirrored or turned robot does what it would have done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from wmgym.models.coordinates import Coordinates
from wmgym.models.symmetry import mapped, placed, views
from wmgym.tasks.layout import Symmetry
from wmgym.tasks.task import make_task

ENVS = {"Swimmer-v5": 1, "Walker2d-v5": 1, "Ant-v5": 7}


@pytest.mark.parametrize("excluded", [True, False])
@pytest.mark.parametrize("env_id", ENVS)
def test_mujoco_agrees(env_id: str, excluded: bool) -> None:
    kwargs = {"exclude_current_positions_from_observation": excluded}
    core = make_task(env_id, env_kwargs=kwargs).core
    assert len(core.symmetries) == ENVS[env_id]
    env: Any = gym.make(env_id).unwrapped
    rng = np.random.default_rng(0)
    positions = core.geometry.displacement_dim

    def step(start: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        env.reset(seed=0)
        qpos, qvel = core.to_mujoco(start)  # type: ignore[misc]
        env.set_state(qpos, qvel)
        before = env.data.qpos[:3].copy()
        env.do_simulation(action, env.frame_skip)
        after = core.from_mujoco(env.data.qpos, env.data.qvel)  # type: ignore[misc]
        return after, (env.data.qpos[:3] - before)[:positions]

    env.reset(seed=1)
    for trial in range(8):
        for _ in range(3 + trial):
            action = rng.uniform(env.action_space.low, env.action_space.high)
            env.do_simulation(action, env.frame_skip)
        start = core.from_mujoco(env.data.qpos.copy(), env.data.qvel.copy())  # type: ignore[misc]
        saved = env.data.qpos.copy(), env.data.qvel.copy()
        after, moved = step(start, action)
        for symmetry in core.symmetries:
            there, shift = step(
                map_one(symmetry, core, start), placed(symmetry.action, torch.tensor(action)).numpy()
            )
            np.testing.assert_allclose(
                there, same_sign(core, map_one(symmetry, core, after), there), atol=1e-6
            )
            expected = placed(symmetry.displacement, torch.tensor(moved)).numpy()
            np.testing.assert_allclose(shift[: len(expected)], expected, atol=1e-6)
        env.set_state(*saved)
    env.close()


def map_one(symmetry: Symmetry, core: Any, values: np.ndarray) -> np.ndarray:
    return mapped(symmetry, core.geometry, torch.tensor(values)[None]).numpy()[0]


def same_sign(core: Any, values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A quaternion and its negative are one orientation."""
    if core.geometry.quaternion is None:
        return values
    at = slice(core.geometry.quaternion, core.geometry.quaternion + 4)
    values[at] *= np.sign(values[at] @ like[at])
    return values


@pytest.mark.parametrize("excluded", [True, False])
@pytest.mark.parametrize("env_id", ENVS)
def test_views_are_what_the_network_would_be_shown(env_id: str, excluded: bool) -> None:
    task = make_task(env_id, env_kwargs={"exclude_current_positions_from_observation": excluded})
    g, coordinates = task.core.geometry, Coordinates(task.core.geometry)
    found = views(task.core.symmetries, coordinates, task.action_dim)
    assert found is not None
    generator = torch.Generator().manual_seed(3)

    def draw(dim: int) -> torch.Tensor:
        return torch.randn(5, dim, generator=generator, dtype=torch.float64)

    core, then, action, shift = (draw(n) for n in (g.dim, g.dim, task.action_dim, g.displacement_dim))
    for x in (core, then):
        if g.root is not None:  # feet near the ground, where what is seen of them is not flat
            x[:, g.root[0]] -= coordinates.feet(x)[: len(g.feet)].mean(0)
    inputs = torch.cat([coordinates.features(core), action], 1)
    targets = coordinates.difference(core, then, shift)
    for k, symmetry in enumerate(task.core.symmetries, start=1):
        x, y = found.of(inputs[None], targets[None], torch.full((1, len(inputs)), k))
        here, there = mapped(symmetry, g, core), mapped(symmetry, g, then)
        shown = torch.cat([coordinates.features(here), placed(symmetry.action, action)], 1)
        torch.testing.assert_close(x[0], shown)
        torch.testing.assert_close(
            y[0], coordinates.difference(here, there, placed(symmetry.displacement, shift))
        )
    x, y = found.of(inputs[None], targets[None], torch.zeros((1, len(inputs)), dtype=torch.int64))
    assert torch.equal(x[0], inputs)
    assert torch.equal(y[0], targets)


def test_moments_are_those_of_all_views_together() -> None:
    task = make_task("Ant-v5")
    found = views(task.core.symmetries, Coordinates(task.core.geometry), task.action_dim)
    assert found is not None
    x = torch.randn(500, found.inputs.shape[1]) * torch.rand(found.inputs.shape[1]) + 1.0
    every = torch.cat([found.of(x[None], x[None, :, : found.targets.shape[1]], torch.full((1, 500), k))[0][0]
                       for k in range(8)])  # fmt: skip
    mean, std = found.moments(x.mean(0), x.std(0, correction=0), targets=False)
    torch.testing.assert_close(mean, every.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(std, every.std(0, correction=0), atol=1e-5, rtol=1e-4)
    upright, level = torch.ones(len(x[0])), torch.full((len(x[0]),), 2e-6)  # of a base that hardly tilts
    alike = found.moments(upright, level, targets=False)[1]
    assert (alike >= 2e-6 * (1 - 1e-4)).all()


def exchanged(places: Any, one: int, other: int) -> Any:
    """The same places but for two."""
    found = list(places)
    found[one], found[other] = found[other], found[one]
    return tuple(found)


@pytest.mark.parametrize(
    ("env_id", "change", "why"),
    [
        ("Ant-v5", lambda symmetry: {"turn": 1.0}, "no permutation with signs"),
        ("Walker2d-v5", lambda symmetry: {"core": exchanged(symmetry.core, 2, 3)}, "a foot to where"),
        ("Walker2d-v5", lambda symmetry: {"core": (*symmetry.core[:-1], (13, -1))}, "different senses"),
        (
            "Swimmer-v5",
            lambda symmetry: {"core": ((0, -1), *symmetry.core[:1], *symmetry.core[2:])},
            "does not see it",
        ),
        ("Swimmer-v5", lambda symmetry: {"core": ((0, 1), *symmetry.core[1:])}, "heading"),
    ],
)
def test_what_is_no_symmetry_of_the_coordinates_is_refused(env_id: str, change: Any, why: str) -> None:
    task = make_task(env_id)
    symmetry = task.core.symmetries[0]
    with pytest.raises(ValueError, match=why):
        views((replace(symmetry, **change(symmetry)),), Coordinates(task.core.geometry), task.action_dim)
