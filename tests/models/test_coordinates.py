"""Tests of wmgym.chart: MuJoCo's own kinematics are the oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
import pytest
import torch

from wmgym.data.collect import collect
from wmgym.models.coordinates import Coordinates
from wmgym.models.rotations import compose, rotation_between, rotation_matrix
from wmgym.tasks.geometry import Geometry
from wmgym.tasks.registry import TABLE
from wmgym.tasks.task import make_task

WORLD_VIEWS = [*((env_id, {}) for env_id in TABLE), *(
    (env_id, {"exclude_current_positions_from_observation": False})
    for env_id in ("Swimmer-v5", "HalfCheetah-v5", "Ant-v5", "Humanoid-v5")
)]  # fmt: skip


def quaternions(n: int, seed: int) -> torch.Tensor:
    drawn = torch.tensor(np.random.default_rng(seed).normal(size=(n, 4)))
    return drawn / drawn.norm(dim=1, keepdim=True)


def test_composition_is_mujocos_integration_of_a_free_joint() -> None:
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"
    )
    rng = np.random.default_rng(0)
    start = quaternions(200, seed=1)
    turns = torch.tensor(rng.normal(size=(200, 3)) * np.logspace(-12, 0.5, 200)[:, None])
    found = compose(start, turns)
    for quaternion, turn, ours in zip(start.numpy(), turns.numpy(), found.numpy(), strict=True):
        qpos, qvel = np.concatenate([np.zeros(3), quaternion]), np.concatenate([np.zeros(3), turn])
        mujoco.mj_integratePos(model, qpos, qvel, 1.0)
        np.testing.assert_allclose(ours, qpos[3:], atol=1e-12)


def test_rotation_between_undoes_composition_for_either_sign() -> None:
    start = quaternions(300, seed=2)
    turns = torch.tensor(np.random.default_rng(3).normal(size=(300, 3)))
    turns *= torch.logspace(-9, 0.4, 300, dtype=torch.float64)[:, None] / turns.norm(dim=1, keepdim=True)
    for sign in (1, -1):
        found = rotation_between(start, sign * compose(start, turns))
        torch.testing.assert_close(found, turns, rtol=1e-6, atol=1e-14)


def test_matrices_and_gradients_are_mujocos_and_finite() -> None:
    for quaternion in quaternions(20, seed=4):
        expected = np.zeros(9)
        mujoco.mju_quat2Mat(expected, quaternion.numpy())
        np.testing.assert_allclose(rotation_matrix(quaternion[None])[0].flatten(), expected, atol=1e-12)
    still = torch.zeros(1, 3, requires_grad=True)
    unit = torch.tensor([[1.0, 0.0, 0.0, 0.0]], requires_grad=True)
    rotation_between(unit, compose(unit, still)).sum().backward()
    assert still.grad is not None
    assert torch.isfinite(still.grad).all()
    torch.testing.assert_close(still.grad, torch.ones(1, 3))


@pytest.mark.parametrize(("env_id", "kwargs"), WORLD_VIEWS)
def test_moving_inverts_the_difference(env_id: str, kwargs: dict[str, Any]) -> None:
    data = collect(make_task(env_id, env_kwargs=kwargs), steps=200, seed=0, workers=1)
    coordinates = Coordinates(data.task.core.geometry)
    core, next_core = (torch.tensor(x, dtype=torch.float64) for x in (data.core, data.next_core))
    displacement = torch.tensor(data.displacement)
    change = coordinates.difference(core, next_core, displacement)
    assert change.shape == (200, coordinates.change_dim)
    assert coordinates.features(core).shape == (200, coordinates.feature_dim)
    found, moved = coordinates.move(core, change)
    torch.testing.assert_close(moved, displacement, rtol=0, atol=1e-12)
    torch.testing.assert_close(found, next_core, rtol=0, atol=2e-6)  # a float32 quaternion has no unit length


@pytest.mark.parametrize("env_id", ["Swimmer-v5", "Ant-v5", "Humanoid-v5"])
def test_neither_heading_nor_place_changes_what_the_network_sees_and_predicts(env_id: str) -> None:
    """The same robot, turned and moved in MuJoCo: equal features, and equal changes after a real step."""
    env = make_task(env_id).make().unwrapped
    task, rng = make_task(env_id), np.random.default_rng(1)
    coordinates = Coordinates(task.core.geometry)
    seen, changes = [], []
    joints = rng.uniform(-0.3, 0.3, env.model.nq)  # type: ignore[attr-defined]
    velocity = rng.normal(size=env.model.nv)  # type: ignore[attr-defined]
    action = rng.uniform(env.action_space.low, env.action_space.high)
    for turn in (0.0, 2.0):
        qpos, qvel = env.init_qpos + joints, velocity.copy()  # type: ignore[attr-defined]
        cos, sin = np.cos(turn), np.sin(turn)
        qvel[:2] = [cos * qvel[0] - sin * qvel[1], sin * qvel[0] + cos * qvel[1]]
        if env_id == "Swimmer-v5":
            qpos[2] += turn
        else:
            qpos[2] += 2.0  # in free flight, where no solver's tolerance shows
            yaw, turned = np.array([np.cos(turn / 2), 0, 0, np.sin(turn / 2)]), np.zeros(4)
            mujoco.mju_mulQuat(turned, yaw, qpos[3:7] / np.linalg.norm(qpos[3:7]))
            qpos[3:7] = turned
        qpos[:2] += turn
        env.reset(seed=0)
        env.set_state(qpos, qvel)  # type: ignore[attr-defined]
        core, before = task.read_core(env, np.zeros(task.obs_dim)), task.read_unobserved(env)
        obs = env.step(action)[0]
        moved = (task.read_unobserved(env) - before)[: task.core.displacement_dim]
        rows = [torch.tensor(x[None]) for x in (core, task.read_core(env, obs), moved)]
        seen.append(coordinates.features(rows[0]))
        changes.append(coordinates.difference(*rows))
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=1e-9)
    torch.testing.assert_close(changes[0], changes[1], rtol=0, atol=1e-7)


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Swimmer-v5"])
def test_a_planar_frame_is_the_torsos(env_id: str) -> None:
    task = make_task(env_id)
    env: Any = task.make().unwrapped
    env.reset(seed=0)
    qpos = env.init_qpos.copy()
    qpos[2] += 0.7
    env.set_state(qpos, np.arange(1.0, env.model.nv + 1))
    axes = [0, 1] if env_id == "Swimmer-v5" else [0, 2]
    velocity = np.zeros(3)
    velocity[axes] = env.data.qvel[:2]
    expected = (env.data.body(1).xmat.reshape(3, 3).T @ velocity)[axes]
    core = torch.tensor(task.read_core(env, np.zeros(task.obs_dim))[None])
    geometry = replace(task.core.geometry, stops=())
    if env_id != "Swimmer-v5":  # as an ablation would have it: the pitch turns z towards x
        at = env.model.nv - 1
        geometry = replace(geometry, pitch=(1, -1), velocities=((at, at + 1),), positions=((2 * at + 1, 0),))
    np.testing.assert_allclose(Coordinates(geometry).features(core)[0, -2:], expected, atol=1e-12)


def test_a_fixed_dimension_never_moves_and_a_free_one_is_not_seen() -> None:
    coordinates = Coordinates(Geometry(4, fixed=(1,), free=(2,)))
    core = torch.arange(8.0).view(2, 4)
    assert torch.equal(coordinates.features(core), core[:, [0, 1, 3]])
    moved, _ = coordinates.move(core, torch.ones(2, coordinates.change_dim))
    assert torch.equal(moved - core, torch.tensor([[1.0, 0.0, 1.0, 1.0]] * 2))


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_a_joint_is_seen_at_its_stops_and_a_mirrored_one_mirrored(kind: Any) -> None:
    coordinates = Coordinates(Geometry(2, stops=((1, -1.0, 3.0),)))
    places = np.float32([-1.0, 3.0, 1.0, 0.0, 2.99, -2.0])
    core = kind(np.stack([np.full(6, 7.0, np.float32), places], 1))
    seen = np.asarray(coordinates.features(core))
    assert seen.shape == (6, coordinates.feature_dim) == (6, len(coordinates.feature_labels))
    np.testing.assert_array_equal(seen[:, :2], np.asarray(core))
    np.testing.assert_allclose(seen[:4, 2], [-1, 1, 0, 0], atol=1e-6)
    assert 0.5 < seen[4, 2] < 1
    assert seen[5, 2] == pytest.approx(-2)
    mirrored = Coordinates(Geometry(2, stops=((1, -3.0, 1.0),)))
    core = kind(np.stack([np.full(6, 7.0, np.float32), -places], 1))
    np.testing.assert_allclose(np.asarray(mirrored.features(core))[:, 2], -seen[:, 2], atol=1e-5)
    moved, _ = coordinates.move(core, core)
    np.testing.assert_array_equal(np.asarray(moved), 2 * np.asarray(core))


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Walker2d-v5"])
@pytest.mark.parametrize("excluded", [True, False])
def test_feet_are_where_mujoco_has_them(env_id: str, excluded: bool) -> None:
    task = make_task(env_id, env_kwargs={"exclude_current_positions_from_observation": excluded})
    env: Any = task.make().unwrapped
    model, data, rng = env.model, env.data, np.random.default_rng(0)
    coordinates = Coordinates(task.core.geometry).double()
    feet = [
        i
        for i in range(model.ngeom)
        if "foot" in (mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_GEOM, i) or "")
    ]
    for _ in range(5):
        data.qpos[:], data.qvel[:] = rng.normal(size=model.nq), rng.normal(size=model.nv)
        mujoco.mj_forward(model, data)
        expected = []
        for geom in feet:
            for side in (1, -1):
                axis = data.geom_xmat[geom].reshape(3, 3)[:, 2]
                point = data.geom_xpos[geom] + side * model.geom_size[geom, 1] * axis
                jacobian = np.zeros((3, model.nv))
                mujoco.mj_jac(model, data, jacobian, None, point, model.geom_bodyid[geom])
                speed = jacobian @ data.qvel
                expected.append((point[2] - model.geom_size[geom, 0], speed[0], speed[2]))
        core = torch.tensor(task.core.from_mujoco(data.qpos, data.qvel))[None]
        found = coordinates.feet(core)[:, 0].reshape(3, -1).T.numpy()
        order = np.lexsort(np.round(found, 6).T), np.lexsort(np.round(expected, 6).T)
        np.testing.assert_allclose(found[order[0]], np.array(expected)[order[1]], atol=1e-6)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_feet_are_seen_on_every_scale(kind: Any) -> None:
    geometry = make_task("Hopper-v5").core.geometry
    fine, both = (replace(geometry, stops=(), foot_scales=scales) for scales in ((1.0,), (1.0, 8.0)))
    core = np.random.default_rng(0).normal(size=(6, geometry.dim)) * 0.1
    core[:, 0] += 1.25
    seen = {g.foot_scales: np.asarray(Coordinates(g).double().features(kind(core))) for g in (fine, both)}
    labels = Coordinates(both).feature_labels
    assert len(set(labels)) == len(labels) == seen[1.0, 8.0].shape[1]
    column = {label: k for k, label in enumerate(labels)}
    count = 0
    for label, k in {label: k for k, label in enumerate(Coordinates(fine).feature_labels)}.items():
        np.testing.assert_array_equal(seen[(1.0,)][:, k], seen[1.0, 8.0][:, column[label]])
        if label[0] in ("clearance", "forward", "upward"):
            coarse = seen[1.0, 8.0][:, column[label[0], label[1] + len(geometry.feet)]]
            shown = np.abs(seen[(1.0,)][:, k]) < 0.999  # not where the fine scale is flat
            np.testing.assert_allclose(np.arctanh(seen[(1.0,)][shown, k]), 8 * np.arctanh(coarse[shown]))
            count += shown.sum()
    assert count > 3


def test_walkers_were_seen_in_less_detail_and_other_robots_alike() -> None:
    geometry = make_task("Walker2d-v5").core.geometry
    before, now = Coordinates(geometry.coarser()), Coordinates(geometry)
    assert set(before.feature_labels) < set(now.feature_labels)
    arm = make_task("Reacher-v5").core.geometry
    assert arm.coarser() is arm
