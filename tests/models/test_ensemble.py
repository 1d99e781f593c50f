"""EnsembleMLP: what one row is told does not depend on its neighbours."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from wmgym.models.config import EnsembleConfig
from wmgym.models.ensemble import EnsembleMLP
from wmgym.tasks.geometry import Geometry

CONFIG = EnsembleConfig(
    geometry=Geometry(5, angles=(1, 3)),
    action_dim=2,
    target_dim=6,
    learns_termination=True,
    members=5,
    width=64,
    depth=2,
)


@pytest.fixture(scope="module")
def model() -> EnsembleMLP:
    made = EnsembleMLP(CONFIG, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    made.input_mean.normal_(generator=generator)
    made.input_std.uniform_(0.5, 2, generator=generator)
    made.target_mean.normal_(generator=generator)
    made.target_std.uniform_(0.5, 2, generator=generator)
    return made.requires_grad_(False)


def batch(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    core = torch.randn(rows, 5, generator=generator)
    action = torch.randn(rows, 2, generator=generator)
    return core, action, torch.randint(5, (rows,), generator=generator)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 64, 100])
@pytest.mark.parametrize("members", ["random", "one", "last"])
def test_assigned_rows_equal_their_slice_of_all_members(model: EnsembleMLP, rows: int, members: str) -> None:
    core, action, member = batch(rows)
    member = {"random": member, "one": torch.full_like(member, 2), "last": torch.full_like(member, 4)}[
        members
    ]
    every, own = model.predict(core, action), model.predict_assigned(core, action, member)
    pick = (member, torch.arange(rows))
    assert every.mean.shape == (5, rows, 6)
    assert every.end_logit is not None
    assert own.end_logit is not None
    torch.testing.assert_close(own.mean, every.mean[pick], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own.std, every.std[pick], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own.end_logit, every.end_logit[pick], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 8, 64])
def test_a_row_is_bit_equal_in_a_larger_batch(model: EnsembleMLP, rows: int) -> None:
    core, action, _ = batch(128)
    few, many = (model.predict(core[:n], action[:n]) for n in (rows, 128))
    assert torch.equal(few.mean, many.mean[:, :rows])
    assert torch.equal(few.std, many.std[:, :rows])


@pytest.mark.parametrize("rows", [1, 3, 8, 64])
def test_an_assigned_row_is_bit_equal_in_a_larger_batch(model: EnsembleMLP, rows: int) -> None:
    core, action, member = batch(128)
    few, many = (model.predict_assigned(core[:n], action[:n], member[:n]) for n in (rows, 128))
    assert torch.equal(few.mean, many.mean[:rows])
    assert torch.equal(few.std, many.std[:rows])


def test_an_assigned_row_does_not_depend_on_its_place(model: EnsembleMLP) -> None:
    core, action, member = batch(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    straight = model.predict_assigned(core, action, member).mean
    shuffled = model.predict_assigned(core[order], action[order], member[order]).mean
    assert torch.equal(straight[order], shuffled)


def test_angles_enter_as_cosine_and_sine(model: EnsembleMLP) -> None:
    core, action, _ = batch(4)
    features = model.features(core, action)
    assert features.shape == (4, model.input_dim)
    assert torch.equal(features[:, :3], core[:, [0, 2, 4]])
    assert torch.equal(features[:, 3:5], core[:, [1, 3]].cos())
    assert torch.equal(features[:, 5:7], core[:, [1, 3]].sin())
    assert torch.equal(features[:, 7:], action)


def test_a_full_turn_changes_nothing(model: EnsembleMLP) -> None:
    core, action, _ = batch(4)
    turned = core.clone()
    turned[:, 1] += 2 * math.pi
    torch.testing.assert_close(
        model.predict(core, action).mean, model.predict(turned, action).mean, rtol=1e-4, atol=1e-4
    )
    assert torch.equal(core, batch(4)[0])  # features() leaves its argument alone


def test_bfloat16_stays_near_and_does_not_depend_on_the_batch(model: EnsembleMLP) -> None:
    low = copy.deepcopy(model)
    low.use_precision("bfloat16")
    core, action, member = batch(64)
    exact, rough = model.predict(core, action).mean, low.predict(core, action).mean
    assert exact.dtype == rough.dtype == torch.float32
    assert 0 < (exact - rough).std() < 0.02 * exact.std()
    for n in (1, 3, 13):
        assert torch.equal(low.predict(core[:n], action[:n]).mean, rough[:, :n])
        mine = low.predict_assigned(core, action, member).mean[:n]
        assert torch.equal(low.predict_assigned(core[:n], action[:n], member[:n].clone()).mean, mine)
    low.use_precision("float32")
    assert torch.equal(low.predict(core, action).mean, exact)


def test_std_is_positive_and_bounded(model: EnsembleMLP) -> None:
    core, action, _ = batch(64)
    std = model.predict(1e3 * core, action).std / model.target_std
    assert (std >= 0.999e-3).all()
    assert (std <= 2.01).all()


def test_equal_generators_give_equal_weights() -> None:
    first, again, other = (EnsembleMLP(CONFIG, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    for a, b, c in zip(first.weights, again.weights, other.weights, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert not torch.equal(a[0], a[1])  # members start apart


def test_gradients_reach_core_and_action(model: EnsembleMLP) -> None:
    core, action, member = batch(5)
    core.requires_grad_()
    action.requires_grad_()
    model.predict_assigned(core, action, member).mean.sum().backward()
    for leaf in (core, action):
        assert leaf.grad is not None
        assert (leaf.grad != 0).any(1).all()


@pytest.mark.parametrize("inference", [False, True])
def test_members_changed_in_place_are_noticed(model: EnsembleMLP, inference: bool) -> None:
    with torch.inference_mode(inference):
        core, action, member = batch(20)
        before = model.predict_assigned(core, action, member).mean.clone()
        torch.testing.assert_close(model.predict_assigned(core, action, member).mean, before, rtol=0, atol=0)
        member[:] = 4
        expected = model.predict(core, action).mean[4]
        torch.testing.assert_close(
            model.predict_assigned(core, action, member).mean, expected, rtol=1e-5, atol=1e-6
        )


def test_the_std_is_the_exponential_of_the_bounded_log_std(model: EnsembleMLP) -> None:
    core, action, _ = batch(64)
    outputs = 30 * model.network(model.encode(core, action).expand(5, -1, -1))
    _, log_std, _ = model.split(outputs)
    found = model._std(outputs[..., 6:12])
    torch.testing.assert_close(found, log_std.exp() * model.target_std, rtol=1e-5, atol=1e-7)
    assert (log_std.max() - log_std.min()) > 5  # both ends of the range


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("alone", [False, True])
def test_a_pair_is_a_member_and_the_next_one_for_the_companion(
    model: EnsembleMLP, rows: int, alone: bool
) -> None:
    core, action, member = batch(64)
    core, action, member = core[:rows], action[:rows], member[:rows].clone()
    if alone:  # every row has the last member, whose next is the first
        member[:] = model.num_members - 1
    companion = core + 0.5
    own, other = model.predict_pair(core, companion, action, member)
    every, beside = model.predict(core, action), model.predict(companion, action)
    index = torch.arange(rows)
    torch.testing.assert_close(own.mean, every.mean[member, index], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own.std, every.std[member, index], rtol=1e-5, atol=1e-6)
    following = (member + 1) % model.num_members
    torch.testing.assert_close(other.mean, beside.mean[following, index], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(other.std, beside.std[following, index], rtol=1e-5, atol=1e-6)
