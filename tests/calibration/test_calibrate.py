"""Calibration against closed forms: the toy's exact model leaves nothing to guess."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests import toy
from wmgym.calibration.calibrate import calibrate
from wmgym.calibration.conformal import grouped_quantile
from wmgym.calibration.noise_scale import std_scale
from wmgym.calibration.open_loop import open_loop_errors, open_loop_steps
from wmgym.calibration.scoring_rules import pit
from wmgym.data.checks import check
from wmgym.data.collect import collect
from wmgym.data.joining import concat
from wmgym.data.logs import assembled
from wmgym.data.transitions import Transitions
from wmgym.envs.env import ImaginedEnv
from wmgym.envs.vector_env import ImaginedVectorEnv
from wmgym.evaluation.open_loop import score_open_loop
from wmgym.models.config import FitConfig
from wmgym.models.dynamics import PROPAGATIONS, Propagation
from wmgym.models.error_bounds import SMALLEST_DISAGREEMENT, Calibration
from wmgym.models.fit import fit
from wmgym.models.world import WorldModel
from wmgym.tasks.task import make_task

HORIZONS = (1, 8, 32)


def calibrated(model: WorldModel, data: Transitions, **options: float) -> Calibration:
    found = calibrate(model, data, **options).calibration  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.fixture(scope="module")
def calibrations() -> list[Calibration]:
    """Independent calibrations of the exact model."""
    return [calibrated(toy.world(), toy.episodes(128, s), horizon=32, seed=s) for s in range(8)]


@pytest.fixture(scope="module")
def fresh() -> Transitions:
    return toy.episodes(2_000, seed=10_000, steps=32)


def errors(
    model: WorldModel, real: Transitions, propagation: Propagation, last: int = max(HORIZONS)
) -> dict[int, np.ndarray]:
    steps: Iterator[np.ndarray] = open_loop_errors(model, real, real.first, last, propagation, seed=5)
    return {h: error for h, error in enumerate(steps, start=1) if h in HORIZONS}


# The oracle


def test_without_noise_imagination_equals_the_real_env() -> None:
    real, world = gym.make(toy.ENV_ID, sigma=0.0), toy.world(toy.LinearGaussian(sigma=0.0), toy.task(0.0))
    imagined = ImaginedEnv(world, propagation="mean")
    rng = np.random.default_rng(0)
    for seed in range(5):
        start, _ = real.reset(seed=seed)
        obs, _ = imagined.reset(options={"obs": start})
        np.testing.assert_allclose(obs, start, atol=1e-6)
        for _ in range(toy.LIMIT):
            action = rng.uniform(-1.5, 1.5, 2).astype(np.float32)
            now = real.step(action.clip(-1, 1))
            then = imagined.step(action)
            np.testing.assert_allclose(then[0], now[0], atol=1e-5)
            assert then[1] == pytest.approx(now[1], abs=1e-4)
            assert then[2:4] == now[2:4]
        assert now[3]
    real.close()


def test_replay_of_collected_episodes_without_noise_has_no_error() -> None:
    real = collect(toy.task(0.0), episodes=3, seed=0)
    assert real.lengths.tolist() == [toy.LIMIT] * 3
    world = toy.world(toy.LinearGaussian(sigma=0.0), toy.task(0.0))
    for propagation in PROPAGATIONS:
        for error in open_loop_errors(world, real, real.first, toy.LIMIT, propagation):
            assert np.nanmax(error) < 1e-5


def test_replay_stops_where_the_real_episode_did() -> None:
    real = toy.episodes(2, seed=0, steps=4)
    found = np.array(list(open_loop_errors(toy.world(), real, np.array([0, 3, 6]), 5, "sample")))
    steps = np.isfinite(found).sum(0)  # (starts, core_dim)
    assert steps.tolist() == [[4] * 3, [1] * 3, [2] * 3]
    assert np.isnan(found[1:, 1]).all()


def test_discrete_actions_are_replayed_from_their_start() -> None:
    class Counter(gym.Env[np.ndarray, np.int64]):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
        action_space = gym.spaces.Discrete(3, start=-1)

    real = assembled(
        make_task(Counter, reward_fn=toy.paid, terminated_fn=toy.never),
        obs=np.array([[0], [1], [1]]),
        action=np.array([1, 0, -1]),
        next_obs=np.array([[1], [1], [0]]),
        episode=np.zeros(3, int),
        terminated=np.zeros(3, bool),
    )

    class Exact(toy.Stub):
        def predict(self, core: torch.Tensor, action: torch.Tensor) -> toy.Prediction:
            change = action @ torch.tensor([[-1.0], [0.0], [1.0]])
            return toy.Prediction(change.expand(2, -1, -1), torch.full((2, len(core), 1), 0.1), None)

        def predict_assigned(
            self, core: torch.Tensor, action: torch.Tensor, member: torch.Tensor
        ) -> toy.Prediction:
            every = self.predict(core, action)
            return toy.Prediction(every.mean[0], every.std[0], None)

    bound = calibrated(toy.world(Exact([0.0]), real.task), real)
    assert bound.half_width["mean"].max() == 0.0
    assert bound.std_scale[0] <= 1e-3  # a perfect model's noise shrinks to nothing


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_half_width_has_its_closed_form(calibrations: list[Calibration], propagation: Propagation) -> None:
    noise = np.sqrt(2.0) if propagation == "sample" else 1.0  # a sampled path adds noise of its own
    for h in HORIZONS:
        found = np.mean([c.half_width[propagation][h - 1] for c in calibrations], 0)
        np.testing.assert_allclose(found, 1.645 * noise * toy.open_loop_std(h), rtol=0.05)


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_coverage_of_fresh_episodes_is_nominal(
    calibrations: list[Calibration], fresh: Transitions, propagation: Propagation
) -> None:
    for h, error in errors(toy.world(), fresh, propagation).items():
        share = np.mean([(error <= c.half_width[propagation][h - 1]).mean() for c in calibrations])
        assert share == pytest.approx(0.9, abs=0.015), h


@pytest.mark.parametrize(
    "propagation", [pytest.param(how, marks=[pytest.mark.slow] * (how != "member")) for how in PROPAGATIONS]
)
def test_coverage_is_nominal_where_members_disagree(fresh: Transitions, propagation: Propagation) -> None:
    world = toy.world(toy.LinearGaussian(offset=(-0.1, 0.0, 0.05, 0.2)))
    shares = []
    for seed in range(5):
        bounded = calibrate(world, toy.episodes(128, seed), horizon=8, seed=seed)
        assert bounded.calibration is not None
        error = errors(bounded, fresh, propagation, last=8)[8]
        shares.append((error <= bounded.calibration.half_width[propagation][7]).mean())
    assert np.mean(shares) == pytest.approx(0.9, abs=0.02)


def test_bounds_widen_with_the_members_disagreement_and_with_noise() -> None:
    world = toy.world(toy.LinearGaussian(offset=(-0.2, -0.1, 0.1, 0.2)))
    width = calibrated(world, toy.episodes(128, 0), horizon=8).half_width
    assert (1.1 * width["mean"][7] < width["member"][7]).all()
    width = calibrated(toy.world(), toy.episodes(128, 0), horizon=8).half_width
    assert (1.1 * width["member"][7] < width["sample"][7]).all()


def test_sampled_copies_of_one_start_cover_one_sigma_of_the_truth() -> None:
    """Members that err each their own way spread by themselves: noise on top of that would be too much."""
    real = toy.episodes(128, 0)
    for offset, most in (((0.0,) * 4, 1.05), ((-0.06, -0.02, 0.02, 0.06), 0.9)):
        world = calibrate(toy.world(toy.LinearGaussian(offset=offset)), real, horizon=8)
        assert world.calibration is not None
        assert (world.calibration.std_scale <= most).all()
        many = real.first.repeat(64)
        for h, step in enumerate(open_loop_steps(world, real, many, 8, "sample", seed=1), start=1):
            copies = step.core.reshape(128, 64, 3).swapaxes(0, 1)
            rank = pit(copies, real.next_core[real.first + h - 1], np.random.default_rng(0))
            if h in (1, 8):
                assert (np.abs(rank - 0.5) <= 0.6827 / 2).mean() == pytest.approx(0.6827, abs=0.2)


@pytest.mark.parametrize("level", [0.5, pytest.param(0.99, marks=pytest.mark.slow)])
def test_coverage_at_another_level(fresh: Transitions, level: float) -> None:
    made = [calibrated(toy.world(), toy.episodes(128, seed), horizon=8, level=level) for seed in range(4)]
    error = errors(toy.world(), fresh, "mean", last=8)[8]
    share = np.mean([(error <= c.half_width["mean"][7]).mean() for c in made])
    assert share == pytest.approx(level, abs=0.03)
    assert made[0].level == level


def test_left_out_coverage_says_what_fresh_episodes_will_say(calibrations: list[Calibration]) -> None:
    for propagation in PROPAGATIONS:
        for h in HORIZONS:
            shares = np.mean([c.coverage[propagation][:, h - 1] for c in calibrations], 0)
            np.testing.assert_allclose(shares, 0.9, atol=0.03)
    assert np.isnan(calibrated(toy.world(), toy.episodes(1, 0)).coverage["mean"]).all()


# One-step noise


@pytest.mark.parametrize("factor", [0.25, 1.0, 2.0])
def test_wrong_noise_is_found_and_mended(factor: float) -> None:
    world = calibrate(toy.world(toy.LinearGaussian(factor=factor)), toy.episodes(100, 0), horizon=1)
    assert world.calibration is not None
    np.testing.assert_allclose(world.calibration.std_scale, 1 / factor, rtol=0.04)
    generator = torch.Generator().manual_seed(0)
    state = world.init(torch.ones(20_000, 3), generator)
    after = world.step(state, torch.zeros(20_000, 2), "sample", generator).state.core
    np.testing.assert_allclose(after.std(0), toy.SIGMA, rtol=0.05)


def test_learned_reward_noise_is_scaled_too() -> None:
    described = toy.task(reward_fn=None)
    data = toy.episodes(20, 0, described=described)
    world = toy.world(toy.Stub([0.0, 0.0, 0.0, 0.0], std=2.0), described)
    found = calibrated(world, data, horizon=1).std_scale
    assert found.shape == (4,)
    assert found[3] == pytest.approx(np.quantile(np.abs(data.reward) / 2.0, 0.6827), rel=1e-3)


def test_std_scale_of_a_normal_is_one() -> None:
    z = np.random.default_rng(0).normal(size=(50_000, 2)) * [1.0, 3.0]
    np.testing.assert_allclose(std_scale(z), [1.0, 3.0], rtol=0.02)


# The bound


def test_bound_is_the_table_and_never_wider_than_knowing_nothing(calibrations: list[Calibration]) -> None:
    table, steps = calibrations[0], np.array([0, 1, 7, 32, 33, 1_000])
    assert table.horizon == 32
    far = np.full((6, 3), 50.0, np.float32)
    bound = table.error_bound(steps, "sample", far)
    assert bound.dtype == np.float32
    np.testing.assert_array_equal(bound[0], 0.0)
    np.testing.assert_array_equal(bound[1:4], table.half_width["sample"][[0, 6, 31]])
    nothing = table.reach + np.abs(50.0 - table.center)
    np.testing.assert_allclose(bound[4:], [nothing, nothing], rtol=1e-6)
    disagreement = np.array([1.0, 0.5, 0.0, 2.0, 0.0, 1e9])[:, None] * [1.0, 2.0, 3.0]
    widened_bound = table.error_bound(steps, "sample", far, disagreement)
    np.testing.assert_array_equal(widened_bound[0], 0.0)
    scale = np.maximum(disagreement[1:4], SMALLEST_DISAGREEMENT) ** table.power["sample"][[0, 6, 31]][:, None]
    expected = table.per_disagreement["sample"][[0, 6, 31]] * scale
    np.testing.assert_allclose(widened_bound[1:4], np.minimum(expected, nothing), rtol=1e-6)
    np.testing.assert_allclose(widened_bound[4:], [nothing, nothing], rtol=1e-6)


def test_knowing_nothing_holds_for_any_prediction(calibrations: list[Calibration]) -> None:
    real = toy.episodes(500, 3).core
    for guess in (-3.0, 0.0, 0.5):
        bound = calibrations[0].error_bound(np.full(len(real), 99), "mean", np.full_like(real, guess))
        assert (np.abs(real - guess) <= bound).mean() >= 0.89


def test_doubt_tells_good_episodes_from_bad_ones() -> None:
    """Members that disagree by as much as they are wrong: the bound given disagreement is right for each."""

    class TwoKinds(toy.LinearGaussian):
        def _predict(self, core: torch.Tensor, action: torch.Tensor, member: torch.Tensor) -> Any:
            said = super()._predict(core, action, member)
            wrong = torch.where(action[..., :1] > 0, 1.0, 0.05) * (2.0 * member[..., None] - 1.0)
            return replace(said, mean=said.mean + wrong.expand_as(said.mean))

    world = toy.world(TwoKinds(sigma=1e-6, offset=(0.0, 0.0)), toy.task(0.0))
    bounded = calibrate(world, toy.episodes(200, 0, sigma=0.0, steps=8), horizon=4)
    table = bounded.calibration
    assert table is not None
    test = toy.episodes(400, 1, sigma=0.0, steps=8)
    for h, step in enumerate(open_loop_steps(bounded, test, test.first, 4, "member", trust=True), start=1):
        hours = np.full(len(step.disagreement), h)
        by_step = table.error_bound(hours, "member", step.core)
        given = table.error_bound(hours, "member", step.core, step.disagreement)
        assert (step.error <= given).mean() > 0.84  # more where errors are multiples of disagreement: ties
        calm = step.disagreement[:, 0] < np.median(step.disagreement[:, 0])
        if h == 1:  # later, errors of one sign add up faster than disagreement
            assert (step.error <= given)[calm].mean() > 0.7  # nine in ten, all of them ties
            assert given[calm].mean() < 0.2 * by_step[calm].mean()


def test_a_tube_holds_for_whole_trajectories(calibrations: list[Calibration]) -> None:
    fresh, shares = toy.episodes(1_000, 77, steps=20), []
    for table in calibrations[:5]:  # one, from 128 episodes, is off by 0.03
        inside, world = np.ones(1_000, bool), toy.world().with_calibration(table)
        for h, step in enumerate(
            open_loop_steps(world, fresh, fresh.first, 20, "sample", trust=True), start=1
        ):
            bound = table.error_bound(np.full(1_000, h), "sample", step.core, step.disagreement)
            inside &= (step.error <= table.tube["sample"][19] * bound).all(1)
        shares.append(inside.mean())
        assert (np.diff(table.tube["sample"]) >= 0).all()
    assert np.mean(shares) == pytest.approx(0.9, abs=0.03), shares


def test_the_trust_horizon_is_where_the_median_bound_passes_the_tolerance(
    calibrations: list[Calibration],
) -> None:
    table = calibrations[0]
    within = table.distrust["mean"] <= 0.5
    assert 0 < table.trust_horizon(0.5, "mean") == int((~within).argmax()) < 32
    assert table.trust_horizon(1e-9, "mean") == 0
    assert table.trust_horizon(1e9, "mean") == 32


def test_policies_count_as_one_each_and_few_of_them_raise_the_level() -> None:
    """Errors of each policy have a spread of their own: bounds are to hold for a policy not among them."""
    rng, shares = np.random.default_rng(0), []
    for seed in range(12):
        parts = []
        for k, sigma in enumerate(np.exp(0.5 * rng.normal(size=6)) * toy.SIGMA):
            part = toy.episodes(20, 100 * seed + k, sigma=sigma, steps=4)
            parts.append(replace(part, task=toy.task(), episode_policy=(f"p{k}",) * part.num_episodes))
        *seen, unseen = parts
        table = calibrated(toy.world(), concat(seen), horizon=1)
        error = next(open_loop_errors(toy.world(), unseen, unseen.first, 1, "mean"))
        shares.append((error <= table.half_width["mean"][0]).mean())
    assert np.mean(shares) > 0.87


def test_bound_does_not_depend_on_the_number_of_envs(calibrations: list[Calibration]) -> None:
    world = toy.world().with_calibration(calibrations[0])
    seen = []
    for num_envs in (1, 8):
        env = ImaginedVectorEnv(world, num_envs, propagation="mean", starts=world.starts[:1], trust=True)
        infos = [env.reset(seed=0)[1]]
        infos += [env.step(np.zeros((num_envs, 2), np.float32))[4] for _ in range(35)]
        seen.append(np.array([info["error_bound"][0] for info in infos]))
    np.testing.assert_array_equal(*seen)


def test_horizon_defaults_to_the_longest_episode_and_evidence_is_kept() -> None:
    data = toy.episodes(6, 0, steps=20)
    found = calibrated(toy.world(), data)
    assert found.horizon == 20
    assert found.windows.tolist() == [6 * (20 - h) for h in range(20)]
    assert found.episodes == 6
    assert found.fingerprints == data.fingerprints()
    np.testing.assert_allclose(found.data_std, data.core.std(0))
    assert calibrated(toy.world(), data, horizon=500).horizon == 20
    assert set(found.half_width) == set(found.coverage) == {"mean", "member", "sample"}
    assert all(found.half_width[propagation].shape == (20, 3) for propagation in PROPAGATIONS)


def test_calibrating_twice_gives_the_same_bounds() -> None:
    data = toy.episodes(8, 0)
    once = calibrate(toy.world(toy.LinearGaussian(factor=2.0)), data, horizon=5)
    twice = calibrate(once, data, horizon=5)
    assert once.calibration is not None
    assert twice.calibration is not None
    for propagation in PROPAGATIONS:
        np.testing.assert_array_equal(
            once.calibration.half_width[propagation], twice.calibration.half_width[propagation]
        )


# Quantiles


def brute_force_quantile(values: np.ndarray, group: np.ndarray, level: float) -> np.ndarray:
    names = np.unique(group)
    target = min(level * (1 + 1 / len(values)), 1.0)
    found = []
    for column in values.T:
        for candidate in np.sort(column):
            if np.mean([(column[group == g] <= candidate).mean() for g in names]) >= target - 1e-9:
                break
        found.append(candidate)
    return np.array(found)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("groups", [1, 2, 7])
def test_grouped_quantile_by_brute_force(level: float, groups: int) -> None:
    rng = np.random.default_rng(groups)
    for n in (1, 2, 10, 57):
        values = rng.normal(size=(n, 3)).round(1)  # with ties
        group = rng.integers(0, groups, n)
        np.testing.assert_array_equal(
            grouped_quantile(values, group, level), brute_force_quantile(values, group, level)
        )


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_one_group_is_split_conformal(level: float) -> None:
    values = np.random.default_rng(0).normal(size=(99, 2))
    rank = int(np.ceil(level * 100))  # the textbook's ceil((n + 1) level)-th smallest
    expected = np.sort(values, 0)[rank - 1]
    np.testing.assert_array_equal(grouped_quantile(values, np.zeros(99), level), expected)
    by_numpy = np.quantile(values, level * 100 / 99, axis=0, method="inverted_cdf")
    np.testing.assert_array_equal(expected, by_numpy)


def test_a_long_group_weighs_no_more_than_a_short_one() -> None:
    values = np.array([[1.0]] * 99 + [[5.0]])
    group = np.array([0] * 99 + [1])
    assert grouped_quantile(values, group, 0.45)[0] == 1.0
    assert grouped_quantile(values, group, 0.55)[0] == 5.0


# Refusals


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 90])
def test_bad_level(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        calibrate(toy.world(), toy.episodes(2, 0), level=level)


@pytest.mark.parametrize("horizon", [0, -3])
def test_bad_horizon(horizon: int) -> None:
    with pytest.raises(ValueError, match="horizon"):
        calibrate(toy.world(), toy.episodes(2, 0), horizon=horizon)


def test_a_path_or_the_two_the_wrong_way_round() -> None:
    world, data = toy.world(), toy.episodes(2, 0)
    for given, kinds in (
        (("path", data), "str and Transitions"),
        ((world, "path"), "WorldModel and str"),
        ((data, world), "Transitions and WorldModel"),
    ):
        with pytest.raises(TypeError, match=rf"got {kinds}; .*wmgym\.load and wmgym\.Transitions\.load$"):
            calibrate(*given)  # type: ignore[arg-type]


def test_episodes_that_fit_saw() -> None:
    data = toy.episodes(5, 0)
    world = toy.world(seen=data.select([3]).fingerprints())
    with pytest.raises(ValueError, match="1 of these episodes were used by fit"):
        calibrate(world, data)
    calibrate(world, data.select([0, 1, 2, 4]), horizon=1)


def test_imagined_data() -> None:
    with pytest.raises(ValueError, match="imagined"):
        calibrate(toy.world(), replace(toy.episodes(2, 0), source="imagined"))


@pytest.mark.parametrize("change", [{"env_id": "Other-v0"}, {"env_kwargs": {"sigma": 0.5}}])
def test_another_task(change: dict[str, object]) -> None:
    data = toy.episodes(2, 0)
    with pytest.raises(ValueError, match="the world imagines"):
        calibrate(toy.world(), replace(data, task=replace(data.task, **change)))


class Corridor(gym.Env[np.ndarray, int]):
    """Seven places in a row, and a step either way; every episode starts in the middle and may end there."""

    observation_space, action_space = spaces.Box(-3, 3, (1,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.at = 0, 0
        return np.float32([0]), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place, self.at = self.place + 2 * int(action) - 1, self.at + 1
        return np.float32([self.place]), 0.0, abs(self.place) == 3, self.at >= 8, {}


def test_episodes_of_whole_numbers_may_repeat_those_of_the_fit() -> None:
    data = collect(Corridor, steps=600, seed=0)
    train, calib, test = data.split((0.4, 0.3, 0.3), seed=0)
    assert {*train.fingerprints()} & {*calib.fingerprints()}
    world = fit(train, FitConfig(members=2, width=8, depth=1, max_updates=1))
    with pytest.raises(ValueError, match="used by fit"):
        calibrate(world, train)
    calibrated = calibrate(world, calib)
    assert score_open_loop(calibrated, test).episodes == test.num_episodes
    assert not any(finding.about == "repeated episodes" for finding in check(data))


def test_episodes_may_end_where_the_next_begins() -> None:
    """Their transitions are torn in no log, and were recorded from an env that was stepped."""
    data = collect(Corridor, lambda obs: (obs[:, 0] <= 0).astype(int), steps=40, seed=0)
    assert (data.next_obs[data.truncated] == 0).all()
