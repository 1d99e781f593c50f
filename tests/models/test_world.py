"""WorldModel: sampling, heads, divergence, members."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from tests import toy
from wmgym import MUJOCO_IDS
from wmgym.models.config import EnsembleConfig
from wmgym.models.dynamics import PROPAGATIONS, Propagation
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.saving import load
from wmgym.models.state import WorldState, WorldStep, deal_members
from wmgym.models.world import WorldModel
from wmgym.tasks.geometry import Geometry
from wmgym.tasks.layout import identity_core
from wmgym.tasks.task import Task


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step(
    world: WorldModel, core: Tensor, action: Tensor, propagation: str = "sample", seed: int = 0
) -> WorldStep:
    generator = rng(seed)
    return world.step(world.init(core, generator), action, propagation, generator)  # type: ignore[arg-type]


def network_world() -> WorldModel:
    config = EnsembleConfig(Geometry(3), action_dim=2, target_dim=3, members=3, width=16, depth=2)
    return toy.world(EnsembleMLP(config, rng()).double())


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_step_is_differentiable_in_core_and_action(propagation: str) -> None:
    world = network_world()
    core = torch.randn(5, 3, generator=rng(1), dtype=torch.float64)
    action = torch.rand(5, 2, generator=rng(2), dtype=torch.float64) - 0.5

    def outcome(core: Tensor, action: Tensor) -> Tensor:
        after = step(world, core, action, propagation)
        return torch.cat([after.state.core, after.reward[:, None]], 1)

    assert torch.autograd.gradcheck(
        outcome, (core.requires_grad_(), action.requires_grad_()), eps=1e-5, atol=1e-4
    )


def test_equal_generators_give_equal_steps() -> None:
    world, core, action = network_world(), torch.zeros(9, 3), torch.zeros(9, 2)
    a, b, c = (step(world, core, action, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(a.state.core, b.state.core)
    assert torch.equal(a.state.member, b.state.member)
    assert not torch.equal(a.state.core, c.state.core)


def test_a_step_keeps_nothing_of_the_steps_before() -> None:
    world = toy.world(toy.LinearGaussian())
    state = world.init(torch.zeros(5, 3), rng())

    def tensors() -> int:
        return sum(type(each) is Tensor for each in gc.get_objects())

    state, before = world.step(state, torch.zeros(5, 2)).state, tensors()
    for _ in range(20):
        state = world.step(state, torch.zeros(5, 2)).state
    assert tensors() == before


def test_mean_mode_averages_members_and_the_others_follow_one() -> None:
    world = toy.world(toy.LinearGaussian(sigma=0.0, offset=(0.0, 1.0, 2.0)))
    core, action = torch.randn(30, 3, generator=rng()), torch.zeros(30, 2)
    plain = core @ torch.tensor(toy.A, dtype=torch.float32).T
    mean = step(world, core, action, "mean")
    torch.testing.assert_close(mean.state.core, plain + 1.0)
    for propagation in ("member", "sample"):  # there is no noise here
        after = step(world, core, action, propagation).state
        assert len(after.member.unique()) == 3
        torch.testing.assert_close(after.core, plain + after.member[:, None])


def test_member_mode_is_the_assigned_members_mean_and_draws_nothing() -> None:
    world = network_world()
    blank = toy.blank_calibration(3)
    scaled = world.with_calibration(replace(blank, std_scale=np.full(3, 9.0)))
    core = torch.randn(30, 3, generator=rng(), dtype=torch.float64)
    action = torch.zeros(30, 2, dtype=torch.float64)
    state = world.init(core, rng())
    every = world.dynamics.predict(core, action).mean
    for each in (world, scaled):  # calibrated noise is none of its business
        after = each.step(state, action, "member")
        torch.testing.assert_close(after.state.core, core + every[state.member, torch.arange(30)])
        assert torch.equal(after.state.member, state.member)
    generator = rng()
    before = generator.get_state()
    world.step(state, action, "member", generator)
    assert torch.equal(generator.get_state(), before)
    assert not torch.allclose(world.step(state, action, "sample", generator).state.core, after.state.core)


def test_actions_are_clipped_for_the_dynamics_but_not_for_the_reward() -> None:
    seen = {}

    def reward_fn(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        seen["action"] = action
        return action.sum(-1)

    world = toy.world(described=toy.task(reward_fn=reward_fn))
    core, action = torch.zeros(1, 3), torch.tensor([[3.0, -7.0]])
    far, near = (step(world, core, a, "mean") for a in (action, action.clip(-1, 1)))
    assert torch.equal(far.state.core, near.state.core)
    assert float(far.reward) == -4.0


@pytest.mark.parametrize("propagation", ["median", "", None])
def test_unknown_mode(propagation: str) -> None:
    with pytest.raises(ValueError, match="one of mean, member, sample"):
        step(toy.world(), torch.zeros(1, 3), torch.zeros(1, 2), propagation)


def test_sample_mode_needs_a_generator() -> None:
    world = toy.world()
    state = world.init(torch.zeros(2, 3), rng())
    with pytest.raises(ValueError, match="generator"):
        world.step(state, torch.zeros(2, 2), "sample")
    world.step(state, torch.zeros(2, 2))
    for propagation in ("mean", "member"):
        world.step(state, torch.zeros(2, 2), propagation)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 2, 3)])
def test_init_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="batch, 3"):
        toy.world().init(torch.zeros(shape), rng())


# Members


@pytest.mark.parametrize("batch", [1, 3, 4, 7, 64, 101])
def test_members_are_dealt_evenly(batch: int) -> None:
    for seed in range(20):
        member = toy.world().init(torch.zeros(batch, 3), rng(seed)).member
        counts = torch.bincount(member, minlength=4)
        assert counts.sum() == batch
        assert counts.max() - counts.min() <= 1


def test_a_single_episode_may_get_any_member() -> None:
    world = toy.world()
    drawn = [int(world.init(torch.zeros(1, 3), rng(seed)).member) for seed in range(800)]
    counts = np.bincount(drawn, minlength=4)
    assert (((counts - 200) ** 2 / 200).sum()) < 16.3  # chi-squared, 3 degrees of freedom, 0.1 %


def test_new_episodes_get_the_least_used_members() -> None:
    numbers = np.random.default_rng(0)
    for seed in range(50):
        held = torch.tensor(numbers.integers(0, 4, numbers.integers(0, 12)))
        count = int(numbers.integers(1, 9))
        dealt = deal_members(held, count, 4, rng(seed))
        greedy = np.bincount(held, minlength=4)
        for _ in range(count):
            greedy[greedy.argmin()] += 1
        together = torch.bincount(torch.cat([held, dealt]), minlength=4).numpy()
        assert len(dealt) == count
        assert sorted(together) == sorted(greedy)


# Divergence


@pytest.mark.parametrize("propagation", PROPAGATIONS)
@pytest.mark.parametrize(
    ("bad", "limit"),
    [(np.nan, 5.0), (np.nan, np.inf), (np.inf, 5.0), (-np.inf, np.inf), (1e30, 5.0), (-7.0, 5.0)],
)
def test_a_wild_prediction_diverges_and_stays_finite(bad: float, limit: float, propagation: str) -> None:
    world = toy.world(toy.Stub([0.1, bad, 0.1]), low=-limit, high=limit)
    after = step(world, torch.ones(4, 3), torch.zeros(4, 2), propagation)
    assert after.diverged.all()
    assert torch.isfinite(after.state.core).all()
    assert torch.isfinite(after.reward).all()
    torch.testing.assert_close(after.state.core[:, [0, 2]], torch.full((4, 2), 1.1))
    assert (after.state.core.abs() <= limit).all()


def test_only_the_wild_rows_diverge() -> None:
    world = toy.world(toy.LinearGaussian(sigma=0.0), low=-2.0, high=2.0)
    core = torch.tensor([[0.0, 0.0, 0.0], [2.0, 2.0, 0.0], [1.0, 1.0, 1.0]])
    after = step(world, core, torch.zeros(3, 2), "mean")
    assert after.diverged.tolist() == [False, True, False]
    assert after.state.core[1].tolist() == pytest.approx([2.0, 1.4, 0.0])


def test_a_wild_learned_reward_becomes_zero() -> None:
    world = toy.world(toy.Stub([0.0, 0.0, 0.0, float("nan")]), toy.task(reward_fn=None))
    assert step(world, torch.zeros(2, 3), torch.zeros(2, 2)).reward.tolist() == [0.0, 0.0]


# Heads


def test_learned_reward_is_the_last_target() -> None:
    world = toy.world(toy.Stub([0.0, 0.0, 0.0, 4.5]), toy.task(reward_fn=None))
    for propagation in PROPAGATIONS:
        assert step(world, torch.zeros(2, 3), torch.zeros(2, 2), propagation).reward.tolist() == [4.5, 4.5]


@pytest.mark.parametrize("propagation", ["mean", "member"])
@pytest.mark.parametrize(("logit", "ends"), [(2.0, True), (-2.0, False), (float("nan"), False)])
def test_learned_termination_without_noise(logit: float, ends: bool, propagation: str) -> None:
    world = toy.world(toy.Stub([0.0] * 3, logit=logit), toy.task(terminated_fn=None))
    assert step(world, torch.zeros(2, 3), torch.zeros(2, 2), propagation).terminated.tolist() == [ends] * 2


def test_learned_termination_is_drawn_in_sample_mode() -> None:
    world = toy.world(toy.Stub([0.0] * 3, logit=-1.0), toy.task(terminated_fn=None))
    share = step(world, torch.zeros(20_000, 3), torch.zeros(20_000, 2)).terminated.float().mean()
    assert float(share) == pytest.approx(0.2689, abs=0.012)


def test_no_termination_at_all_is_refused() -> None:
    world = toy.world(toy.Stub([0.0] * 3), toy.task(terminated_fn=None))
    with pytest.raises(ValueError, match="terminated_fn"):
        step(world, torch.zeros(2, 3), torch.zeros(2, 2))


def test_discrete_actions_count_from_their_start() -> None:
    paid_for: list[list[int]] = []

    def reward(core: Tensor, action: Tensor, next_core: Tensor, moved: Tensor) -> Tensor:
        paid_for.append(action.tolist())
        return action.float()

    described = Task(
        env_id="",
        env_kwargs={},
        observation_space=spaces.Box(-1, 1, (2,)),
        action_space=spaces.Discrete(3, start=5),
        dt=1.0,
        max_episode_steps=4,
        core=identity_core(2),
        reward=reward,
        terminated=lambda core, action, next_core, unobserved: next_core[..., 0] > 9,
    )
    stub = toy.Stub([0.0, 0.0])
    step(toy.world(stub, described), torch.zeros(3, 2), torch.tensor([5, 7, 6]))
    assert stub.action.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert paid_for == [[5, 7, 6]]  # the reward sees the action as the agent gave it


# Values


def test_arrays_are_read_only_and_the_callers_stay_writable() -> None:
    world = toy.world()
    mine = np.zeros((2, 3), np.float32)
    made = WorldModel(world.task, world.dynamics, mine, world.low, world.high, world.provenance)
    assert not made.starts.flags.writeable
    mine[0, 0] = 1.0
    assert made.starts[0, 0] == 0.0


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Swimmer-v5", "Reacher-v5", "Ant-v5"])
@pytest.mark.parametrize("propagation", ["mean", "member"])
def test_a_row_is_bit_equal_in_any_batch(env_id: str, propagation: Propagation) -> None:
    world, state, action = shipped(env_id, 300)
    every = world.step(state, action, propagation, trust=True)
    for n in (1, 2, 3, 7, 64, 257):
        rows = torch.randperm(300, generator=rng(n))[:n]
        some = world.step(state.map(lambda x: x[rows]), action[rows], propagation, trust=True)  # noqa: B023
        for mine, theirs in ((some.reward, every.reward), (some.displacement, every.displacement)):
            assert torch.equal(mine, theirs[rows])
        for name in ("core", "shown", "companion", "lasting_disagreement"):
            assert torch.equal(getattr(some.state, name), getattr(every.state, name)[rows])


@pytest.mark.parametrize("env_id", MUJOCO_IDS)
def test_a_step_that_is_differentiated_is_the_same(env_id: str) -> None:
    world, state, action = shipped(env_id, 50)
    plain, traced = (world.step(state, a, trust=True) for a in (action, action.clone().requires_grad_()))
    assert traced.state.core.requires_grad
    assert torch.equal(plain.terminated, traced.terminated)
    assert plain.reward.dtype == traced.reward.dtype
    torch.testing.assert_close(plain.reward, traced.reward, rtol=1e-5, atol=1e-4)
    for name in ("core", "shown"):
        torch.testing.assert_close(
            getattr(plain.state, name), getattr(traced.state, name), rtol=1e-4, atol=1e-4
        )


def shipped(env_id: str, rows: int) -> tuple[WorldModel, WorldState, Tensor]:
    """A world that ships, episodes of it under way, and actions."""
    world = load(env_id)
    start = torch.tensor(world.starts)[torch.randint(len(world.starts), (rows,), generator=rng())]
    action = 2 * torch.rand(rows, world.task.action_dim, generator=rng(1)) - 1
    return world, world.step(world.init(start, rng()), action).state, action


def test_to_gives_an_independent_copy() -> None:
    world = network_world()
    copy = world.to("cpu")
    with torch.no_grad():
        copy.dynamics.weights[0].zero_()  # type: ignore[attr-defined]
    assert world.dynamics.weights[0].abs().sum() > 0  # type: ignore[attr-defined]


def test_disagreement_of_a_path_that_is_not_finite_is_huge_and_of_equal_paths_is_none() -> None:
    world = toy.world().with_calibration(toy.blank_calibration(3))
    start = world.init(torch.zeros(3, 3), rng())
    lost = torch.tensor([[0.0] * 3, [float("nan")] * 3, [float("inf"), 0.0, 0.0]])
    disagreement = world.disagreement(
        replace(start, companion=lost, lasting_disagreement=lost), np.array([1, 1, 1])
    )
    assert disagreement[0].max() < 1e-3
    assert disagreement[1].min() > 9e8
    assert disagreement[2, 0] > 1e3
    assert np.isfinite(disagreement).all()


def test_a_joint_at_its_stop_is_put_back_and_nothing_diverges() -> None:
    core = replace(toy.task().core, joint_limits=((1, -0.5, 0.5),))
    described = replace(toy.task(), core=core)
    for pushed, diverges in ((1, False), (2, True)):
        target = [0.0, 0.0, 0.0]
        target[pushed] = 9.0
        world = toy.world(toy.Stub(target), described, low=-0.5, high=0.5)
        after = step(world, torch.zeros(2, 3), torch.zeros(2, 2), "mean")
        assert after.state.core[:, pushed].tolist() == [0.5, 0.5]
        assert after.diverged.tolist() == [diverges] * 2
    lost = toy.world(toy.Stub([0.0, float("nan"), 0.0]), described, low=-0.5, high=0.5)
    assert step(lost, torch.zeros(2, 3), torch.zeros(2, 2), "mean").diverged.all()


def test_a_world_is_told_in_a_line_and_names_its_dimensions() -> None:
    world = load("Hopper-v5")
    assert repr(world) == "WorldModel(Hopper-v5, EnsembleMLP of 8, 0.9 bounds for 1000 steps)"
    assert repr(world.calibration) == "Calibration(level=0.9, horizon=1000, episodes=348)"
    assert len(repr(world.support)) < 80
    assert repr(toy.world()).endswith("LinearGaussian of 4, no bounds)")
    assert len(world.core_names) == len(set(world.core_names)) == world.task.core.dim
    assert world.core_names[:2] == ("rootz", "rooty")
    assert toy.world().core_names == ("obs_0", "obs_1", "obs_2")


def test_one_observation_may_ask_for_the_nearest_real_states() -> None:
    world = load("Hopper-v5")
    obs = world.task.core.observe(world.starts[:2].astype(np.float64))
    one, both = world.nearest_real(obs[0], k=3), world.nearest_real(obs, k=3)
    assert one.core.shape == (1, 3, 11)
    np.testing.assert_array_equal(one.core[0], both.core[0])


def test_a_world_first_stepped_without_gradients_can_be_differentiated_later() -> None:
    _, state, action = shipped("Hopper-v5", 4)
    fresh = load("Hopper-v5")
    with torch.inference_mode():
        fresh.step(fresh.init(state.core.clone(), rng()), action.clone(), trust=True)
    given = action.clone().requires_grad_()
    fresh.step(state, given, "sample", rng(), trust=True).reward.sum().backward()
    assert given.grad is not None
