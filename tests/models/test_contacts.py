"""Contacts of a robot's own model: MuJoCo's distances and velocities are the oracle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

import wmgym
from wmgym.models.contacts import ContactFeatures
from wmgym.models.ensemble import EnsembleMLP
from wmgym.tasks.contacts import Contacts
from wmgym.tasks.mjcf.contacts import find_contacts
from wmgym.tasks.mjcf.layout import ModelLayout

ROOT = Path(__file__).parents[2]

FIXED = """
<mujoco><option gravity="0 0 -9.81"/>
  <worldbody>
    <geom name="wall" type="plane" size="3 3 .1" pos=".1 0 -.2" euler="0 10 20"/>
    <body pos=".1 .2 .3" euler="10 20 30">
      <joint name="a" type="hinge" axis=".2 .5 1" pos=".05 .1 0" range="-60 60"/>
      <geom name="upper" type="capsule" fromto="0 0 0 .3 .1 0" size=".03"/>
      <body pos=".3 .1 0" euler="0 30 0">
        <joint name="s" type="slide" axis="0 1 1" ref=".05"/><joint name="b" type="ball" pos="0 .02 0"/>
        <geom name="tip" type="sphere" size=".04" pos=".1 .05 .02"/>
      </body>
    </body>
    <body name="loose" pos=".4 .1 .2">
      <freejoint/><geom name="brick" type="box" size=".1 .06 .04" pos=".02 0 0" euler="0 0 40"/>
    </body>
    <body name="rod" pos=".2 .3 .3">
      <joint type="hinge" axis="1 0 0"/><geom name="rod" type="capsule" fromto="0 0 0 0 .1 .3" size=".02"/>
    </body>
  </worldbody>
</mujoco>"""


def _states(model: mujoco.MjModel, count: int, seed: int = 0) -> np.ndarray:
    """Physical states ``(count, nq + nv)`` near the model's own place."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        qpos = model.qpos0.copy()
        mujoco.mj_integratePos(model, qpos, rng.normal(size=model.nv) * 0.3, 1.0)
        found.append(np.concatenate([qpos, rng.normal(size=model.nv)]))
    return np.array(found)


def _set(model: mujoco.MjModel, state: np.ndarray) -> mujoco.MjData:
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = state[: model.nq], state[model.nq :]
    mujoco.mj_forward(model, data)
    return data


@pytest.mark.parametrize(
    ("one", "other"), [("tip", "brick"), ("tip", "rod"), ("upper", "rod"), ("tip", "wall")]
)
def test_distances_are_mujocos(one: str, other: str) -> None:
    model = mujoco.MjModel.from_xml_string(FIXED)
    states = _states(model, 200)
    wanted = np.array(
        [
            mujoco.mj_geomDistance(model, _set(model, s), model.geom(one).id, model.geom(other).id, 9.0, None)
            for s in states
        ]
    )
    said = ContactFeatures(_between(model, states, one, other), ())._measured(states)[0].T
    # Inside of a box the nearest way out is another question.
    apart = wanted > (1e-3 if other == "brick" else -np.inf)
    assert apart.mean() > 0.5
    np.testing.assert_allclose(said[apart].min(1), wanted[apart], atol=1e-5)


def test_points_of_long_shapes_above_a_plane_are_mujocos() -> None:
    model = mujoco.MjModel.from_xml_string(FIXED)
    states = _states(model, 50)
    for name in ("upper", "brick"):
        pair = model.geom(name).id, model.geom("wall").id
        wanted = [mujoco.mj_geomDistance(model, _set(model, s), *pair, 9.0, None) for s in states]
        said = ContactFeatures(_between(model, states, name, "wall"), ())._measured(states)[0].T
        wanted = np.array(wanted)
        np.testing.assert_allclose(said.min(1)[wanted > 0], wanted[wanted > 0], atol=1e-6)


def test_velocities_are_mujocos() -> None:
    """Of a ball's surface against a box that itself moves and turns."""
    model = mujoco.MjModel.from_xml_string(FIXED)
    states = _states(model, 30)
    touch = ContactFeatures(_between(model, states, "tip", "brick"), ())
    _, rate, _, _ = touch._measured(states)
    for k, state in enumerate(states):
        data, wanted = _set(model, state), np.zeros((2, 3))
        at = data.geom("tip").xpos
        for row, name in enumerate(("tip", "brick")):
            jacobian = np.zeros((3, model.nv))
            mujoco.mj_jac(model, data, jacobian, None, at, model.geom(name).bodyid[0])
            wanted[row] = jacobian @ data.qvel
        there = data.geom("brick").xmat.reshape(3, 3)
        np.testing.assert_allclose(rate[:, 0, k], there.T @ (wanted[0] - wanted[1]), atol=1e-4)


def _between(model: mujoco.MjModel, states: np.ndarray, one: str, other: str) -> Contacts:
    """As if these two shapes alone were solid, and near each other wherever they are."""
    for name in ("wall", "upper", "tip", "brick", "rod"):
        model.geom(name).contype = model.geom(name).conaffinity = int(name in (one, other))
    model.geom_margin[:] = 5.0
    found = find_contacts(model, states, frozenset(), None)
    model.geom_margin[:] = 0.0
    assert len(found.pairs) == 1
    return found


FLOATING = """
<mujoco><worldbody><geom type="plane" size="9 9 .1"/>
  <body pos="0 0 .3"><freejoint/><geom type="box" size=".2 .1 .05" mass="1"/>
    <body pos=".2 0 0"><joint name="leg" type="hinge" axis="0 1 0"/>
      <geom type="capsule" fromto="0 0 0 .1 0 -.2" size=".03" mass=".2"/></body></body>
</worldbody></mujoco>"""


def test_heading_and_place_of_a_floating_base_do_not_show() -> None:
    model = mujoco.MjModel.from_xml_string(FLOATING)
    states = _states(model, 60)
    states[:, 2] = 0.2
    touch = ContactFeatures(find_contacts(model, states, frozenset(), 3), (0, 1))
    turned, quarter = states.copy(), np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)])
    for row in turned:
        row[:2] += 1_000.0
        mujoco.mju_mulQuat(row[3:7], quarter, row[3:7].copy())
        row[8:10] = -row[9], row[8]
    assert touch.feature_dim > 0
    np.testing.assert_allclose(touch(turned), touch(states), atol=1e-6)


def test_arrays_tensors_and_batches_agree() -> None:
    model = mujoco.MjModel.from_xml_string(FIXED)
    states = _states(model, 33).astype(np.float32)
    touch = ContactFeatures(find_contacts(model, states.astype(np.float64), frozenset(), None), ())
    whole = touch(states)
    assert whole.dtype == np.float32
    assert np.array_equal(whole[:1], touch(states[:1]))
    np.testing.assert_allclose(touch(torch.tensor(states)).numpy(), whole, atol=1e-3)
    core = torch.tensor(states, dtype=torch.float64, requires_grad=True)
    touch(core).sum().backward()
    assert core.grad is not None
    assert core.grad.isfinite().all()
    assert core.grad.abs().max() > 0


@pytest.fixture(scope="module")
def push_bot_data() -> wmgym.Transitions:
    """600 steps of the arm that pushes a box."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples" / "own_robot"))
        from push_bot import chase

        return wmgym.collect(
            "push_bot:lab/PushBot-v0", {"chase": chase, "random": None}, steps=600, seed=0, workers=1
        )


def test_contacts_are_found_in_the_data(push_bot_data: wmgym.Transitions) -> None:
    found = push_bot_data.task.core.geometry.contacts
    assert found.pairs
    assert {(pair.part, pair.solid) for pair in found.pairs} <= {(0, 2), (1, 2)}  # never its table
    assert all(pair.axes == (0, 1) for pair in found.pairs)  # it moves in a plane


def test_a_world_that_sees_contacts_is_stored_and_compiled(
    push_bot_data: wmgym.Transitions, tmp_path: Path
) -> None:
    config = wmgym.FitConfig(members=2, width=16, max_updates=10)
    world = wmgym.fit(push_bot_data, config, 0)
    world.save(tmp_path / "world")
    loaded = wmgym.load(tmp_path / "world")
    assert loaded.task.core.geometry == world.task.core.geometry
    one, many = wmgym.ImaginedEnv(loaded), wmgym.ImaginedVectorEnv(loaded, 1)
    obs, batch = one.reset(seed=3)[0], many.reset(seed=3)[0]
    for _ in range(20):
        np.testing.assert_allclose(obs, batch[0], atol=1e-4)
        action = one.action_space.sample()
        obs, batch = one.step(action)[0], many.step(action[None])[0]
    many.close()


def test_less_of_the_same_robots_data_is_read_as_the_world_reads_it(
    push_bot_data: wmgym.Transitions, tmp_path: Path
) -> None:
    """Random actions alone touch less and press nothing, so that they tell of fewer contacts and readouts."""
    less = wmgym.collect("push_bot:lab/PushBot-v0", {"random": None}, steps=1_200, seed=5, workers=1)
    world = wmgym.fit(push_bot_data, wmgym.FitConfig(members=2, width=16, max_updates=5), 0)
    assert less.task.core.layout != world.task.core.layout
    further = wmgym.fit(less, wmgym.FitConfig(max_updates=5), begin=world)
    further.save(tmp_path / "world")
    assert wmgym.load(tmp_path / "world").task.core.layout == world.task.core.layout


def test_what_is_seldom_touched_is_not_seen_as_a_large_number(push_bot_data: wmgym.Transitions) -> None:
    world = wmgym.fit(push_bot_data, wmgym.FitConfig(members=1, width=16, max_updates=1), 0)
    model = world.dynamics
    assert isinstance(model, EnsembleMLP)
    contact = [k for k, (kind, _) in enumerate(model.coordinates.feature_labels) if kind == "contact"]
    assert contact
    assert model.input_std[contact].min() >= 0.3
    assert model.input_std[: contact[0]].min() < 0.3


def test_contacts_that_contradict_themselves_are_refused(push_bot_data: wmgym.Transitions) -> None:
    core = push_bot_data.task.core
    layout, contacts = core.layout, core.geometry.contacts
    assert isinstance(layout, ModelLayout)
    part, pair = contacts.parts[0], contacts.pairs[0]
    for wrong in (
        replace(contacts, base=9),
        replace(contacts, parts=(replace(part, parent=0), *contacts.parts[1:])),
        replace(contacts, parts=(replace(part, place=6), *contacts.parts[1:])),
        replace(contacts, pairs=(replace(pair, solid=9),)),
        replace(contacts, pairs=(replace(pair, points=()),)),
    ):
        with pytest.raises(ValueError, match="layout"):
            replace(layout, geometry=replace(layout.geometry, contacts=wrong)).check(11, 3)
