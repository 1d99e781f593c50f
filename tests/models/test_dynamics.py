"""Open models: anything with the protocol's few attributes goes all the way, memory included."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import wmgym
from tests import toy
from wmgym.data.transitions import Transitions
from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.io.artifacts import StoreError
from wmgym.models import dynamics as registry
from wmgym.models.config import FitConfig
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import (
    PROPAGATIONS,
    Carry,
    Prediction,
    Propagation,
    predict_assigned,
    register_dynamics,
    targets,
)
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.state import WorldState
from wmgym.models.step import predict_step
from wmgym.models.world import WorldModel
from wmgym.tasks.geometry import Geometry

TINY = FitConfig(members=2, width=16, depth=1, max_updates=20, eval_every=10)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names registered in a test go with it."""
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))


class Counting:
    """Remembers how many steps an episode has had and the sum of its actions; both enter the prediction.

    No assigned prediction, no pair, no pack: the least that the protocol asks for, plus a carry.
    """

    def __init__(self, num_members: int = 3) -> None:
        self.num_members, self.target_dim = num_members, 3

    def predict(self, core: Tensor, action: Tensor, carry: Carry = None) -> Prediction:
        if carry is None:
            carry = torch.zeros(len(core), dtype=torch.int64), torch.zeros(len(core), 2)
        assert isinstance(carry, tuple)
        age, total = carry
        assert len(age) == len(total) == len(core)
        total = total + action
        own = torch.arange(1.0, self.num_members + 1)[:, None, None] / 100
        mean = own * torch.stack([age.float(), total[:, 0], core[:, 2]], 1)
        return Prediction(mean, torch.full_like(mean, 0.01), carry=(age + 1, total))


def bounded(world: WorldModel) -> WorldModel:
    """With bounds of one step, so that the env may ask for trust."""
    one = {propagation: np.ones((1, 3), np.float32) for propagation in PROPAGATIONS}
    steps = {propagation: np.ones(1, np.float32) for propagation in PROPAGATIONS}
    table = replace(toy.blank_calibration(3), windows=np.ones(1, np.int64), power=steps)
    return world.with_calibration(replace(table, half_width=one, per_disagreement=one))


def driven(env: ImaginedVectorEnv, steps: int, seed: int = 0) -> list[np.ndarray]:
    """Observations under drawn actions."""
    rng = np.random.default_rng(seed)
    return [env.step(rng.uniform(-1, 1, (env.num_envs, 2)).astype(np.float32))[0] for _ in range(steps)]


def path(start: np.ndarray, actions: np.ndarray, member: int) -> np.ndarray:
    """What ``Counting`` does to one episode, by hand: ``(steps, 3)``."""
    core, total, found = start.astype(np.float64), np.zeros(2), []
    for age, action in enumerate(actions):
        total = total + action
        core = core + (member + 1) / 100 * np.array([age, total[0], core[2]])
        found.append(core)
    return np.array(found)


# The defaults


def test_assigned_and_pair_follow_from_predict() -> None:
    model, core, action = Counting(), torch.randn(7, 3), torch.randn(7, 2)
    member = torch.tensor([0, 1, 2, 0, 1, 2, 1])
    carry = torch.arange(7), torch.randn(7, 2)
    other = torch.arange(7) + 5, torch.randn(7, 2)
    every, beside = model.predict(core, action, carry), model.predict(core + 1, action, other)
    state = WorldState(core, core[:, :0], member, core + 1, torch.zeros(7, 3), carry, other)
    own, companion = predict_step(model, state, action, "member", trust=True)
    assert companion is not None
    rows = torch.arange(7)
    assert torch.equal(own.mean, every.mean[member, rows])
    assert torch.equal(own.std, every.std[member, rows])
    assert torch.equal(companion.mean, beside.mean[(member + 1) % 3, rows])
    assert torch.equal(own.carry[0], carry[0] + 1)  # type: ignore[index]
    assert torch.equal(companion.carry[0], other[0] + 1)  # type: ignore[index]
    assert torch.equal(predict_assigned(model, core, action, member, carry).mean, own.mean)


def test_a_model_without_memory_need_not_take_a_carry() -> None:
    class Plain:
        num_members, target_dim = 2, 3

        def predict(self, core: Tensor, action: Tensor) -> Prediction:
            mean = torch.stack([core + 1, core - 1])
            return Prediction(mean, torch.ones_like(mean))

    env = ImaginedVectorEnv(bounded(toy.world(Plain())), 4, trust=True)
    env.reset(seed=0)
    assert np.isfinite(driven(env, 5)).all()
    assert env.snapshot().state.carry is None


def test_changes_may_be_in_coordinates_of_the_models_own() -> None:
    class Halved(Coordinates):
        def difference(self, core: Any, next_core: Any, displacement: Any) -> Any:
            return 2 * super().difference(core, next_core, displacement)

        def move(self, core: Any, change: Any) -> tuple[Any, Any]:
            return super().move(core, change / 2)

    class Model(toy.Stub):
        coordinates = Halved(Geometry(3))

    data = toy.episodes(1, 0)
    assert torch.equal(targets(data, Model.coordinates), 2 * targets(data))
    world = toy.world(Model([1.0, 1.0, 1.0]))
    after = world.step(world.init(torch.zeros(2, 3), torch.Generator()), torch.zeros(2, 2))
    assert after.state.core.tolist() == [[0.5] * 3] * 2


# Memory in the env


@pytest.mark.parametrize("propagation", ["member", "mean"])
def test_each_episode_remembers_its_own_past_and_starts_without(propagation: Propagation) -> None:
    world = bounded(toy.world(Counting(1 if propagation == "mean" else 3)))
    env = ImaginedVectorEnv(world, 5, max_episode_steps=9, propagation=propagation, trust=True)
    obs, _ = env.reset(seed=0)
    rng = np.random.default_rng(1)
    start, acted, members = obs.copy(), [[] for _ in range(5)], env.snapshot().state.member.clone()
    for t in range(30):
        if t == 4:  # one episode begins beside four that go on
            mask = np.array([False, True, False, False, False])
            obs, _ = env.reset(options={"reset_mask": mask})
            start[1], acted[1], members = obs[1], [], env.snapshot().state.member.clone()
        action = rng.uniform(-1, 1, (5, 2)).astype(np.float32)
        obs, _, _, truncated, infos = env.step(action)
        for i in range(5):
            acted[i].append(action[i])
            seen = infos["final_obs"][i] if truncated[i] else obs[i]
            expected = path(start[i], np.array(acted[i]), int(members[i]))[-1]
            np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-5)
            if truncated[i]:
                start[i], acted[i] = obs[i], []
        members = env.snapshot().state.member.clone()


def test_the_companion_has_a_memory_of_its_own() -> None:
    env = ImaginedVectorEnv(bounded(toy.world(Counting())), 3, trust=True)
    start, _ = env.reset(seed=0)
    members = env.snapshot().state.member
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (12, 3, 2)).astype(np.float32)
    for action in actions:
        env.step(action)
    state = env.snapshot().state
    for i, member in enumerate(members.tolist()):
        expected = path(start[i], actions[:, i], (member + 1) % 3)[-1]
        np.testing.assert_allclose(state.companion[i].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_snapshots_and_forks_hold_the_memory_to_the_last_bit() -> None:
    env = ImaginedVectorEnv(bounded(toy.world(Counting())), 4, trust=True)
    env.reset(seed=0)
    driven(env, 6)
    here = env.snapshot()
    ahead = driven(env, 8, seed=1)
    env.restore(here)
    np.testing.assert_array_equal(driven(env, 8, seed=1), ahead)
    env.restore(here)
    copies = env.fork(2)
    rng = np.random.default_rng(1)
    for wanted in ahead:
        action = rng.uniform(-1, 1, (4, 2)).astype(np.float32).repeat(2, 0)
        np.testing.assert_array_equal(copies.step(action)[0], wanted.repeat(2, 0))
    assert here.state.carry[0].tolist() == [6] * 4  # type: ignore[index]  # snapshots are copies


def test_rows_of_a_state_may_be_put_beside_others_whatever_they_remember() -> None:
    world = toy.world(Counting())
    generator = torch.Generator().manual_seed(0)
    fresh = world.init(torch.zeros(2, 3), generator)
    old = world.step(world.init(torch.ones(5, 3), generator), torch.ones(5, 2)).state
    rows = torch.tensor([True, False, False, True, False])
    assert old.put(rows, fresh).carry[0].tolist() == [0, 1, 1, 0, 1]  # type: ignore[index]
    stepped = world.step(fresh, torch.ones(2, 2)).state
    begun = world.init(torch.ones(5, 3), generator).put(rows, stepped)
    assert begun.carry[0].tolist() == [1, 0, 0, 1, 0]  # type: ignore[index]


# Fit, calibrate, save, load


@register_dynamics("test-linear")
class Linear:
    """Least squares on core and action; one member."""

    num_members = 1

    def __init__(self, matrix: Tensor, std: Tensor) -> None:
        self.matrix, self.std, self.target_dim = matrix, std, matrix.shape[1]

    @classmethod
    def fit(cls, train: Transitions, config: FitConfig, seed: int) -> Linear:
        inputs = torch.cat([torch.tensor(train.core), torch.tensor(train.action)], 1)
        wanted = targets(train)
        matrix = torch.linalg.lstsq(inputs, wanted).solution.contiguous()
        return cls(matrix, (wanted - inputs @ matrix).std(0))

    def predict(self, core: Tensor, action: Tensor) -> Prediction:
        mean = torch.cat([core, action], 1) @ self.matrix
        return Prediction(mean[None], self.std.expand(1, *mean.shape))

    def pack(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {"matrix": self.matrix.numpy(), "std": self.std.numpy()}, {}

    @classmethod
    def unpack(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Linear:
        return cls(torch.tensor(arrays["matrix"]), torch.tensor(arrays["std"]))


@pytest.fixture(scope="module")
def fitted_linear() -> WorldModel:
    world = wmgym.fit(toy.episodes(40, 0), TINY, dynamics=Linear)
    return wmgym.calibrate(world, toy.episodes(20, 1), horizon=16)


@pytest.fixture
def linear(fitted_linear: WorldModel) -> WorldModel:
    register_dynamics("test-linear")(Linear)
    return fitted_linear


def test_a_linear_model_finds_the_linear_toy_and_its_noise(linear: WorldModel) -> None:
    model = linear.dynamics
    assert isinstance(model, Linear)
    np.testing.assert_allclose(model.matrix[:3].T, toy.A - np.eye(3), atol=0.02)
    np.testing.assert_allclose(model.matrix[3:].T, toy.B, atol=0.02)
    table = linear.calibration
    assert table is not None
    np.testing.assert_allclose(table.half_width["mean"][7], 1.645 * toy.open_loop_std(8), rtol=0.15)
    np.testing.assert_allclose(table.std_scale, 1.0, atol=0.1)


def test_it_is_saved_and_found_again_under_its_name(linear: WorldModel, tmp_path: Path) -> None:
    linear.save(tmp_path / "world")
    loaded = wmgym.load(tmp_path / "world", task=toy.task())
    assert isinstance(loaded.dynamics, Linear)
    envs = [ImaginedVectorEnv(world, 3, trust=True) for world in (linear, loaded)]
    for env in envs:
        env.reset(seed=0)
    np.testing.assert_array_equal(*(driven(env, 20) for env in envs))


def test_a_single_member_never_disagrees_and_its_bounds_hold(linear: WorldModel) -> None:
    env = ImaginedVectorEnv(linear, 4, trust=True)
    env.reset(seed=0)
    infos = env.step(np.zeros((4, 2), np.float32))[4]
    assert np.isfinite(infos["distrust"]).all()
    np.testing.assert_allclose(infos["error_bound"], infos["error_bound"][:1].repeat(4, 0), rtol=1e-5)
    assert env.snapshot().state.lasting_disagreement.max() == 0


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_every_propagation_steps_it(linear: WorldModel, propagation: Propagation) -> None:
    env = ImaginedVectorEnv(linear, 3, propagation=propagation, trust=True)
    env.reset(seed=0)
    assert np.isfinite(driven(env, 10)).all()


def test_a_function_may_fit_it_too() -> None:
    world = wmgym.fit(
        toy.episodes(5, 0), TINY, dynamics=lambda train, config, seed: Linear.fit(train, config, 0)
    )
    assert isinstance(world.dynamics, Linear)


def test_it_stands_in_for_mujoco(tmp_path: Path) -> None:
    data = wmgym.collect("InvertedPendulum-v5", steps=1_000, workers=1)
    train, calib = data.split((0.8, 0.2), seed=0)
    wmgym.calibrate(wmgym.fit(train, TINY, dynamics=Linear), calib).save(tmp_path / "world")
    env = gym.make("wmgym/InvertedPendulum-v5", world=tmp_path / "world", trust=True)
    _, info = env.reset(seed=0)
    assert info["error_bound"].shape == (4,)
    assert np.isfinite(env.step(np.zeros(1, np.float32))[0]).all()
    report = wmgym.score(tmp_path / "world", {"push": lambda obs: 2 * obs[:, 1:2]}, real_episodes=5)
    assert report["push"].imagined_mean > 3 * report["random"].imagined_mean  # as in MuJoCo


def test_a_module_needs_no_pack(tmp_path: Path) -> None:
    @register_dynamics("test-module")
    class Module(torch.nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.num_members, self.target_dim, self.settings = 1, 3, {"scale": scale}
            self.layer = torch.nn.Linear(5, 3)

        def predict(self, core: Tensor, action: Tensor) -> Prediction:
            mean = self.settings["scale"] * self.layer(torch.cat([core, action], 1))[None]
            return Prediction(mean, torch.ones_like(mean))

    world = toy.world(Module(0.25))
    world.save(tmp_path / "world")
    loaded = wmgym.load(tmp_path / "world", task=toy.task()).dynamics
    core, action = torch.randn(4, 3), torch.randn(4, 2)
    assert torch.equal(loaded.predict(core, action).mean, world.dynamics.predict(core, action).mean)
    assert not any(p.requires_grad for p in loaded.parameters())  # type: ignore[attr-defined]


_STRANGER = """
import sys, wmgym
try:
    wmgym.load(sys.argv[1])
except wmgym.StoreError as error:
    print(error)
"""


def test_a_name_that_nobody_registered_is_one_line_that_says_what_to_import(
    linear: WorldModel, tmp_path: Path
) -> None:
    linear.save(tmp_path / "world")
    child = subprocess.run(
        [sys.executable, "-c", _STRANGER, str(tmp_path / "world")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert child.stdout.count("\n") == 1
    assert "'test-linear'" in child.stdout
    assert "import" in child.stdout


def test_what_a_class_makes_of_foreign_arrays_is_refused(linear: WorldModel, tmp_path: Path) -> None:
    wrong = replace(linear, dynamics=Linear(torch.zeros(4, 3), torch.ones(3)), calibration=None)
    wrong.save(tmp_path / "world")
    with pytest.raises(StoreError, match="not a world of this version"):
        wmgym.load(tmp_path / "world", task=toy.task())


def test_two_classes_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="registered as 'test-linear' already"):
        register_dynamics("test-linear")(Counting)


# Networks of another kind


class Tanh(EnsembleMLP):
    def activate(self, hidden: Tensor) -> Tensor:
        return torch.tanh(hidden)


class Squared(EnsembleMLP):
    def loss(self, outputs: Tensor, labels: Tensor, ends: Tensor) -> Tensor:
        return (labels - self.split(outputs)[0]).square().mean((1, 2)).sum()


class Constrained(EnsembleMLP):
    def layers(self) -> tuple[tuple[Tensor, Tensor], ...]:
        return tuple((0.5 * weight, bias) for weight, bias in super().layers())


@pytest.mark.parametrize("kind", [Tanh, Squared, Constrained])
def test_a_network_changed_in_one_place_is_trained_and_predicts_with_it(kind: type[EnsembleMLP]) -> None:
    train = toy.episodes(20, 0, sigma=0.02, steps=30)
    config = replace(TINY, max_updates=150, learning_rate=0.01, layer_norm=False)
    world, plain = (wmgym.fit(train, config, dynamics=each) for each in (kind, None))
    model, usual = world.dynamics, plain.dynamics
    assert type(model) is kind
    assert isinstance(usual, EnsembleMLP)
    history = world.provenance.fit["rollout_error"]
    assert history[-1] < 0.5 * history[0] or history[-1] < 0.3
    core, action = torch.tensor(train.core[:8]), torch.tensor(train.action[:8])
    raw, _, _ = model.split(model.network(model.encode(core, action).expand(2, -1, -1)))
    expected = raw * model.target_std + model.target_mean
    torch.testing.assert_close(model.predict(core, action).mean, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model.predict(core, action).mean, usual.predict(core, action).mean)
    with pytest.raises(ValueError, match="no name"):
        world.pack()


def test_a_network_may_see_other_coordinates() -> None:
    class Shifted(Coordinates):
        def features(self, core: Any) -> Any:
            return super().features(core) + 100.0

    class Net(EnsembleMLP):
        coordinates_type = Shifted

    world = wmgym.fit(toy.episodes(10, 0), TINY, dynamics=Net)
    assert isinstance(world.coordinates, Shifted)
    assert float(world.dynamics.input_mean[:3].min()) > 90  # type: ignore[attr-defined]
