"""Planners: as good as the known optimum, the same for rows as for batches, and honest about what ends."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

import wmgym
from tests import toy
from wmgym.agents.planning.search import Plans, Search
from wmgym.models.dynamics import Prediction
from wmgym.models.world import WorldModel
from wmgym.plan import CEM, MPPI

PLANNERS: list[Any] = [MPPI, CEM]
START = np.array([1.0, -0.5, 0.8])


def exact() -> WorldModel:
    return toy.world(toy.LinearGaussian(sigma=0.0))


def after(x: np.ndarray, action: np.ndarray) -> np.ndarray:
    return x @ toy.A.T + action @ toy.B.T


def closed_loop(planner: Any, steps: int, x: np.ndarray = START) -> float:
    total = 0.0
    for _ in range(steps):
        x = after(x, planner(x))
        total -= float((x**2).sum())
    return total


def optimum(steps: int) -> float:
    """The best return from ``START``: least squares in the actions, within their bounds."""
    powers = [np.linalg.matrix_power(toy.A, k) for k in range(steps + 1)]
    effect = np.zeros((3 * steps, 2 * steps))
    for t in range(steps):
        for k in range(t + 1):
            effect[3 * t : 3 * t + 3, 2 * k : 2 * k + 2] = powers[t - k] @ toy.B
    drift = np.concatenate([powers[t + 1] @ START for t in range(steps)])
    return -2 * float(lsq_linear(effect, -drift, (-1, 1)).cost)


@pytest.mark.parametrize("planner", PLANNERS)
def test_it_is_nearly_as_good_as_the_optimum(planner: Any) -> None:
    best, nothing = optimum(12), closed_loop(lambda x: np.zeros(2), 12)
    found = closed_loop(planner(exact(), 8, 128, iterations=6), 12)
    assert nothing < 1.5 * best
    assert 1.05 * best < found <= best + 1e-6


@pytest.mark.parametrize("planner", PLANNERS)
def test_rows_of_a_batch_are_planned_as_if_alone_while_rows_come_and_go(planner: Any) -> None:
    world = exact()
    together, alone = planner(world, 6, 32), [planner(world, 6, 32) for _ in range(3)]
    x = np.array([[9.0, 0.0, 0.0], [-9.0, 9.0, 0.0], [0.0, -9.0, 9.0]])  # too far apart to swap plans
    for rows in ([0, 1, 2], [0, 1, 2], [2, 0], [2, 0, 1], [1]):
        actions = together(x[rows])
        assert actions.shape == (len(rows), 2)
        assert actions.dtype == np.float32
        if rows == [2, 0, 1]:
            alone[1].reset()  # it was not there in the call before
        for row, action in zip(rows, actions, strict=True):
            np.testing.assert_allclose(alone[row](x[row]), action, atol=1e-4)
            x[row] = after(x[row], action)


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_plan_goes_on_where_it_led_and_is_dropped_elsewhere(planner: Any) -> None:
    world, other = exact(), np.array([-2.0, 3.0, 1.0])

    def fresh(x: np.ndarray) -> np.ndarray:
        return np.asarray(planner(world, 6, 16)(x))

    plans = planner(world, 6, 16)
    action = plans(START)
    np.testing.assert_array_equal(action, fresh(START))
    assert not np.array_equal(plans(after(START, action)), fresh(after(START, action)))
    np.testing.assert_array_equal(plans(other), fresh(other))  # as at an episode's start
    plans(START)
    plans.reset()
    np.testing.assert_array_equal(plans(after(START, action)), fresh(after(START, action)))


def test_a_plan_is_found_by_the_state_it_led_to() -> None:
    mean = torch.arange(12.0).view(2, 3, 2)
    expected = torch.tensor([[0.0, 3.1, 5.0], [0.0, 0.0, 5.0]])
    plans = Plans(mean, mean[:, None], expected, torch.tensor([[1.0, 1.0, 0.0]]).expand(2, 3))
    # The second number is an angle, the third one nothing moves.
    seen = torch.tensor([[0.1, 0.1, 5.0], [0.0, -3.1, 5.0], [0.0, 0.0, 5.1], [2.0, 0.5, 5.0]])
    resumed, best, found = plans.resumed(seen, (1,))
    assert found.tolist() == [True, True, False, False]
    assert resumed[1].tolist() == [[2, 3], [4, 5], [0, 0]]
    assert best[0, 0].tolist() == [[8, 9], [10, 11], [0, 0]]


@pytest.mark.parametrize("planner", PLANNERS)
def test_the_seed_decides_everything(planner: Any) -> None:
    world = exact()
    torch.manual_seed(1)
    first = closed_loop(planner(world, 5, 16), 5)
    torch.manual_seed(2)
    again, other = (closed_loop(planner(world, 5, 16, seed=seed), 5) for seed in (0, 1))
    assert first == again != other


@dataclass
class Integrator(toy.LinearGaussian):
    """Moves the first two numbers by 0.3 of the action."""

    def _predict(self, core: torch.Tensor, action: torch.Tensor, member: torch.Tensor) -> Prediction:
        mean = torch.cat([0.3 * action, torch.zeros_like(action[..., :1])], -1)
        mean = mean.expand(*member.shape, 3)
        return Prediction(mean, torch.zeros_like(mean), None)


def scores(world: WorldModel, sequences: list[list[list[float]]], start: float = 0.0) -> list[float]:
    plans = torch.tensor([sequences])
    search = Search(world, plans.shape[2], 2, 1, 0.5, 0, torch.clone)
    at = world.init(torch.full((1, 3), start), torch.Generator())
    return search.scores(at, plans)[0][0].tolist()  # type: ignore[no-any-return]


def test_what_ended_earns_no_more() -> None:
    heads = {
        "reward_fn": lambda obs, action, next_obs: next_obs[..., 0],
        "terminated_fn": lambda obs, action, next_obs: next_obs[..., 0] > 2.5,
    }
    world = toy.world(toy.Stub([1.0, 0.0, 0.0]), toy.task(**heads))
    assert scores(world, [[[0.0, 0.0]] * 5]) == [1 + 2 + 3]
    assert scores(world, [[[0.0, 0.0]] * 5], start=-2.0) == [-1 + 0 + 1 + 2 + 3]


def test_what_diverges_is_not_followed_unless_all_does() -> None:
    world = toy.world(toy.LinearGaussian(sigma=0.0), low=-0.35, high=0.35)
    still, push = [[0.0, 0.0]] * 3, [[1.0, -1.0]] * 3
    assert scores(world, [still, push]) == [0, -np.inf]
    assert np.isfinite(scores(world, [push, push])).all()
    for planner in PLANNERS:
        assert np.isfinite(planner(world, 4, 16)(np.full((2, 3), 0.3))).all()


def test_sequences_are_judged_by_all_members() -> None:
    """A single member believes that x drifts up; the mean of all knows better than it alone."""
    world = toy.world(toy.LinearGaussian(sigma=0.0, offset=(0.0, 0.0, 0.0, 1.0)))
    found = scores(world, [[[0.0, 0.0]]] * 8)
    assert found == [0, 0, 0, -3] * 2


def test_ties_for_the_best_return_go_to_what_ends_nearer_to_the_middle() -> None:
    search = Search(toy.world(toy.Stub([0.0] * 3), low=-1.0, high=3.0), 1, 2, 1, 0.5, 0, torch.clone)
    returns = torch.tensor([[5.0, 2.0, 5.0, 5.0, -math.inf], [1.0, 2.0, 3.0, 4.0, 5.0], [7.0] * 5])
    ends = torch.tensor([3.0, 1.0, 1.5, -0.5, 1.0])[:, None].expand(3, 5, 3)
    found = search.untied(returns, ends)
    assert found[0].argsort(descending=True).tolist() == [2, 3, 0, 1, 4]
    assert found[0, [0, 1, 4]].tolist() == [5, 2, -math.inf]  # what tied is raised from its farthest on
    assert torch.equal(found[1], returns[1])
    assert found[2, 1] == found[2, 4] > found[2, 2] > found[2, 3] > found[2, 0] == 7
    unbounded = Search(exact(), 1, 2, 1, 0.5, 0, torch.clone)
    assert torch.equal(unbounded.untied(returns, ends), returns)


@pytest.mark.parametrize("planner", PLANNERS)
def test_where_all_survivors_earn_the_same_it_stays_in_the_middle(planner: Any) -> None:
    """Paid for each step within 1.9 of the origin: every plan that survives returns its horizon."""

    def survives(core: torch.Tensor) -> torch.Tensor:
        return core[..., 0].abs() < 1.9

    heads = {
        "reward_fn": lambda obs, action, next_obs: survives(next_obs).float(),
        "terminated_fn": lambda obs, action, next_obs: ~survives(next_obs),
    }
    still = toy.world(toy.Stub([0.0] * 3), toy.task(**heads), low=-2.0, high=2.0)
    plan = planner(replace(still, dynamics=Integrator()), 5, 32, iterations=2)
    x, farthest = np.array([1.5, 0.0, 0.0]), 0.0
    for step in range(60):
        x = x + 0.3 * np.append(plan(x), 0.0)
        farthest = max(farthest, float(np.abs(x[:2]).max())) if step > 8 else 0.0
    assert farthest < 0.8


def test_learned_rewards_and_actions_of_any_range(pendulum_world: WorldModel) -> None:
    obs = np.zeros((2, 4))
    actions = MPPI(pendulum_world, 3, 8, noise=5.0)(obs)
    assert actions.shape == (2, 1)
    assert np.abs(actions).max() <= 3  # the pendulum's own bounds
    described = toy.task(reward_fn=None, terminated_fn=toy.never)
    learned = toy.world(toy.Stub([0.0, 0.0, 0.0, 2.5]), described)
    assert scores(learned, [[[0.0, 0.0]] * 4]) == [10]


def test_it_is_a_policy_like_any_other() -> None:
    report = wmgym.score(exact(), {"plan": CEM(exact(), 5, 16)}, 2, max_episode_steps=8, workers=1)
    assert report["plan"].real_mean > report["random"].real_mean
    data = wmgym.collect(toy.task(), MPPI(exact(), 3, 8), episodes=3, max_episode_steps=4, workers=1)
    assert data.episode_policy == ("MPPI",) * 3


def test_discrete_actions_are_refused(cartpole_world: WorldModel) -> None:
    for planner in PLANNERS:
        with pytest.raises(ValueError, match=r"takes Discrete\(2\); train a policy in it: wmgym.train"):
            planner(cartpole_world)


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"horizon": 0}, "horizon must be a whole number of at least 1, got 0"),
        ({"samples": 1}, "samples must be a whole number of at least 2"),
        ({"iterations": 1.5}, "iterations must be a whole number"),
        ({"noise": 0}, "noise must be above 0"),
        ({"noise": float("nan")}, "noise must be above 0"),
        ({"temperature": 0}, "temperature must be above 0, got 0"),
        ({"elites": 0}, "elites must be a share"),
        ({"elites": 2}, "elites must be a share"),
    ],
)
def test_bad_numbers_are_refused(keywords: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        (CEM if "elites" in keywords else MPPI)(exact(), **keywords)  # type: ignore[arg-type]


def test_bad_observations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"have shape \(3,\) or \(n, 3\), got \(4,\)"):
        MPPI(exact())(np.zeros(4))
    with pytest.raises(ValueError, match="must be finite"):
        MPPI(exact())(np.array([[0.0, 0, 0], [np.nan, 0, 0]]))


@pytest.mark.parametrize("planner", PLANNERS)
def test_no_rows_need_no_plan_and_whole_floats_are_counts(planner: Any) -> None:
    plan = planner(exact(), 3.0, 8.0, iterations=1.0)
    assert plan(np.zeros((0, 3))).shape == (0, 2)
    assert plan(START).shape == (2,)


def test_planning_needs_no_sb3() -> None:
    code = "import sys, wmgym.plan; sys.exit('stable_baselines3' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
