"""Derivatives: of the toy against their closed form, of MuJoCo against MuJoCo's own."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import mujoco
import numpy as np
import pytest

import wmgym
from benchmarks.harness import gradients, pages
from benchmarks.harness.derivatives import (
    Derivatives,
    MujocoPath,
    Units,
    cosine,
    finite_differences,
    of_world,
    ratio,
    transition_differences,
    units_of,
    with_steered,
)
from benchmarks.harness.results import result_rows
from benchmarks.harness.worlds import TASKS
from tests import toy
from wmgym.models.coordinates import Coordinates
from wmgym.tasks import ground_truth

HORIZONS = (1, 3)
UNITS = Units(np.array([2.0, 1.0, 0.5]), np.array([1.0, 0.5]))


@dataclass
class ToyPath:
    """The toy without noise, from a core ``(3,)``."""

    cores: np.ndarray
    actions: np.ndarray

    def run(self, at: int, core: np.ndarray | None, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, path = self.cores[at] if core is None else core, []
        for action in actions[at:]:
            path.append(x := toy.A @ x + toy.B @ action)
        return np.array(path), -(np.array(path) ** 2).sum(1)


def toy_paths() -> list[ToyPath]:
    rng, found = np.random.default_rng(0), []
    for _ in range(4):
        path = ToyPath(rng.normal(size=(1, 3)), rng.uniform(-0.8, 0.8, (3, 2)))
        path.cores = np.concatenate([path.cores, path.run(0, None, path.actions)[0]])
        found.append(path)
    return found


def closed_form(path: ToyPath, h: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Derivatives after ``h`` steps, in ``UNITS``."""
    power = np.linalg.matrix_power
    core = power(toy.A, h) * UNITS.core / UNITS.core[:, None]
    action, returns = np.zeros((3, 3, 2)), np.zeros((3, 2))
    for k in range(h):
        action[:, k] = power(toy.A, h - 1 - k) @ toy.B * UNITS.action / UNITS.core[:, None]
        for t in range(k, h):
            returns[k] -= 2 * path.cores[t + 1] @ power(toy.A, t - k) @ toy.B * UNITS.action
    return core, action, returns


@pytest.mark.parametrize("source", ["finite differences", "mean", "member"])
def test_derivatives_of_the_toy_are_those_of_its_closed_form(source: str) -> None:
    paths, world = toy_paths(), toy.world()
    if source == "finite differences":
        found, near = finite_differences(paths, world.coordinates, UNITS, HORIZONS, 1e-4), 1e-8
    else:
        cores, actions = np.stack([p.cores[0] for p in paths]), np.stack([p.actions for p in paths])
        found, near = of_world(world, cores, actions, UNITS, HORIZONS, source, 1), 1e-5
    for i, path in enumerate(paths):
        for k, h in enumerate(HORIZONS):
            core, action, returns = closed_form(path, h)
            np.testing.assert_allclose(found.core[i, k], core, atol=near)
            np.testing.assert_allclose(found.action[i, k], action, atol=near)
            np.testing.assert_allclose(found.returns[i, k], returns, atol=near)


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Ant-v5"])
def test_finite_differences_in_flight_are_those_of_mjd_transition_fd(env_id: str) -> None:
    """Ant has a floating base, and RK4, which MuJoCo cannot differentiate: it gets Euler's integrator."""
    task, rng = wmgym.make_task(env_id), np.random.default_rng(0)
    coordinates = Coordinates(task.core.geometry)
    with contextlib.closing(task.make()) as env:
        env.reset(seed=0)
        simulation = env.unwrapped
        simulation.model.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER
        simulation.data.qpos[1 if env_id == "HalfCheetah-v5" else 2] += 2.0
        simulation.data.qvel[:] = rng.normal(size=simulation.model.nv)
        mujoco.mj_forward(simulation.model, simulation.data)
        action = rng.uniform(-0.5, 0.5, (1, simulation.model.nu))
        path = MujocoPath(task, env, ground_truth.snapshot(env), action)
        assert not ground_truth.inspect(task, path.cores).contact.any()
        visited = path.cores[:1] + rng.normal(size=(50, task.core.dim))
        units = units_of(task, coordinates, visited)
        found = finite_differences([path], coordinates, units, [1], 1e-6)
        by_core, by_action = transition_differences(path, coordinates, units)
    assert np.linalg.norm(by_core - np.eye(len(by_core))) > 0.1
    np.testing.assert_allclose(found.core[0, 0], by_core, atol=1e-6)
    np.testing.assert_allclose(found.action[0, 0, :, 0], by_action, atol=1e-6)


def test_a_run_from_the_paths_own_cores_is_the_path() -> None:
    task = wmgym.make_task("Hopper-v5")
    with contextlib.closing(task.make()) as env:
        env.reset(seed=0)
        path = MujocoPath(task, env, ground_truth.snapshot(env), np.full((3, 3), 0.1))
        for at in range(3):
            again, rewards = path.run(at, path.cores[at], path.actions)
            np.testing.assert_array_equal(again, path.cores[at + 1 :])
            assert rewards.shape == (3 - at,)


def test_steered_leaves_out_the_cost_of_actions() -> None:
    task, rng = wmgym.make_task("HalfCheetah-v5"), np.random.default_rng(0)
    units, actions = Units(np.ones(17), np.ones(6)), rng.uniform(-0.9, 0.9, (2, 3, 6))
    whole = rng.normal(size=(2, 2, 3, 6))
    found = with_steered(Derivatives(whole, whole, whole), task, actions, units, HORIZONS)
    assert found.steered is not None
    cost = found.steered - whole  # 0.1 |a|^2 of every action up to the horizon
    np.testing.assert_allclose(cost[:, 1], 0.2 * actions, atol=1e-12)
    np.testing.assert_allclose(cost[:, 0, 0], 0.2 * actions[:, 0], atol=1e-12)
    np.testing.assert_array_equal(cost[:, 0, 1:], 0)


def test_cosine_and_ratio_of_what_is_zero_are_undefined() -> None:
    some, none = np.ones((2, 3)), np.zeros((2, 3))
    np.testing.assert_allclose(cosine(-2 * some, some), -1)
    np.testing.assert_allclose(ratio(2 * some, some), 2)
    assert np.isnan(cosine(some, none)).all()
    assert np.isnan(ratio(some, none)).all()


def test_the_page_shows_every_task() -> None:
    assert {row["env"] for row in result_rows("jacobians")} == set(TASKS)
    text = pages.filled("gradients", pages.BLOCKS)
    for env_id in TASKS:
        assert f"| {env_id.removesuffix('-v5')} |" in text


@pytest.mark.parametrize(
    ("medians", "tenths", "horizon"),
    [
        ([0.9, 0.8, 0.7], [0.5, 0.4, 0.1], 4),
        ([0.9, 0.8, 0.7], [0.5, -0.1, 0.1], 1),
        ([0.9, 0.4, 0.7], [0.5, 0.1, 0.1], 1),
        ([0.3, 0.9, 0.9], [0.1, 0.5, 0.5], 0),
    ],
)
def test_trust_ends_at_the_first_horizon_that_fails(
    medians: list[float], tenths: list[float], horizon: int
) -> None:
    rows = [
        {"h": h, "steered_median": m, "steered_p10": p}
        for h, m, p in zip((1, 2, 4), medians, tenths, strict=True)
    ]
    assert gradients.trusted(rows) == horizon
