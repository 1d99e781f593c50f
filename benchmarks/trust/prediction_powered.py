"""What do imagined episodes add to few real ones: intervals, comparisons, and the choice of a policy?

200 real episodes of every reference policy and four imagined ones from each of their start states are the
population that samples are drawn from, with replacement, so the true mean is known. Estimates use 10 real
episodes and 1,000 imagined ones, four from each real start state; 1,000 resamples a policy. Variance is that
of the estimate over resamples, relative to the mean of the real returns alone.

Also tried: MuJoCo itself, with 0.001 sigma noise on the start state, in place of the world; a single imagined
episode instead of four; episode length as a second covariate; one coefficient from all other policies; start
states stratified by imagined return.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.harness import real_returns
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, per_env
from benchmarks.harness.worlds import LARGE, Setup
from wmgym.evaluation.best_arm import spend
from wmgym.evaluation.intervals import prediction_powered

POPULATION, DRAWS, REAL, MORE, PAIRED, BUDGET = 200, 4, 10, 960, 20, 30


class Policy:
    """A population of real returns ``(n,)`` and imagined ones ``(n, draws)`` from the same start states."""

    def __init__(self, env_id: str, name: str, size: int) -> None:
        played = real_returns.real(env_id, name, size)
        label = f"paired-{size}-{DRAWS}"
        imagined = real_returns.imagined(env_id, name, np.repeat(played.state, DRAWS, 0), label)
        self.env_id, self.name = env_id, name
        self.real, self.length = played.returns, imagined.lengths.reshape(size, DRAWS)
        self.imagined = imagined.returns.reshape(size, DRAWS)
        self.paired = self.imagined.mean(1)

    def sample(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Episodes of a sample, and imagined returns from elsewhere."""
        return rng.integers(len(self.real), size=count), rng.choice(self.imagined.reshape(-1), size=MORE)


def measure(env_id: str, setup: Setup) -> list[Row]:
    size, resamples = setup.size(POPULATION, 4), setup.size(1_000, 50)
    names = [name for name, policy in real_returns.everyone(env_id).items() if policy is not None]
    policies = [Policy(env_id, name, size) for name in names]
    scale = float(np.ptp([policy.real.mean() for policy in policies]))
    rng = np.random.default_rng(0)
    slopes = [_slope(policy) for policy in policies]
    rows: list[Row] = []
    for index, policy in enumerate(policies):
        others = float(np.median(np.delete(slopes, index)))
        rows.append(
            {
                "section": "interval", "env": env_id, "policy": policy.name,
                "held_out": policy.name in real_returns.held_out(env_id),
                **_intervals(policy, resamples, rng), **_ideas(policy, others, resamples, rng),
            }
        )  # fmt: skip
    rows.append({"section": "compare", "env": env_id, **_comparisons(policies, scale, setup, rng)})
    return [*rows, {"section": "select", "env": env_id, **_selections(policies, setup.size(200, 5))}]


def _intervals(policy: Policy, resamples: int, rng: np.random.Generator) -> Row:
    truth, found = policy.real.mean(), []
    for _ in range(resamples):
        rows, more = policy.sample(rng, REAL)
        one = prediction_powered(policy.real[rows], policy.paired[rows], more)
        plain = prediction_powered(policy.real[rows], policy.paired[rows], more[:0])
        found.append([f(e) for e in (one, plain) for f in (_mean, lambda e: _holds(e, truth), _width)])
    mean, holds, width, alone, plain_holds, plain_width = np.array(found, float).T
    spread = policy.real.std() > 0 and policy.paired.std() > 0
    return {
        "correlation": float(np.corrcoef(policy.real, policy.paired)[0, 1]) if spread else 0.0,
        "coverage": float(holds.mean()), "coverage_of_t": float(plain_holds.mean()),
        "variance": float(mean.var() / max(alone.var(), 1e-12)),
        "width": float(width.mean() / max(plain_width.mean(), 1e-12)),
    }  # fmt: skip


def _ideas(policy: Policy, others: float, resamples: int, rng: np.random.Generator) -> Row:
    """Variance, relative to real episodes alone, that other ways to use the same imagined episodes reach."""
    real, size = policy.real, len(policy.real)
    rows = rng.integers(size, size=(resamples, REAL))
    alone = max(float(real[rows].mean(1).var()), 1e-12)
    single = _cross_fitted(real[rows], policy.imagined[rows, 0], policy.imagined.mean())
    fixed = real[rows] - others * (policy.paired[rows] - policy.paired.mean())
    pair = np.stack([policy.paired, policy.length.mean(1)], 1)
    best = np.linalg.lstsq(pair - pair.mean(0), real - real.mean(), rcond=None)[0]
    left = real - (pair - pair.mean(0)) @ best
    order = np.argsort(policy.paired)
    strata = np.array_split(order, REAL)
    drawn = np.stack([rng.choice(part, size=resamples) for part in strata], 1)
    perturbed = real_returns.perturbed(policy.env_id, policy.name, min(size, 50)).returns
    weight = np.array([len(part) / size for part in strata])
    return {
        "one_draw": float(single.mean(1).var() / alone),
        "coefficient_of_others": float(fixed.mean(1).var() / alone),
        "stratified": float((real[drawn] @ weight).var() / alone),
        "best_possible_of_return_and_length": float(left.var() / max(real.var(), 1e-12)),
        "best_possible_of_mujoco": _left(real[: len(perturbed)], perturbed),
        "best_possible": _left(real, policy.paired),
    }  # fmt: skip


def _left(real: np.ndarray, covariate: np.ndarray) -> float:
    """Share of the variance of real returns that no multiple of a covariate takes away."""
    if not (real.std() and covariate.std()):
        return 1.0
    return float(1 - np.corrcoef(real, covariate)[0, 1] ** 2)


def _cross_fitted(real: np.ndarray, imagined: np.ndarray, mean: float) -> np.ndarray:
    """Corrected returns as in ``prediction_powered``, for many samples ``(resamples, n)`` at once."""
    count = real.shape[1]
    sums = [v.sum(1, keepdims=True) - v for v in (real, imagined, real * imagined, imagined**2)]
    first, second, product, square = (v / (count - 1) for v in sums)
    slope = (product - first * second) / np.maximum(square - second**2, max(imagined.var() / 2, 1e-12))
    return real - slope.clip(0, 1.5) * (imagined - mean)


def _slope(policy: Policy) -> float:
    if not policy.paired.std():
        return 0.0
    return float(np.clip(np.cov(policy.real, policy.paired)[0, 1] / policy.paired.var(ddof=1), 0, 1))


def _comparisons(policies: list[Policy], scale: float, setup: Setup, rng: np.random.Generator) -> Row:
    """False "better" of a copy with episodes of its own; power for 10 % of the range, all pairs."""
    repeats, false = setup.size(1_000, 20), []
    for policy in policies:
        for _ in range(max(1, repeats // len(policies) * 4)):
            one, more = policy.sample(rng, PAIRED)
            other, _ = policy.sample(rng, PAIRED)
            found = prediction_powered(
                policy.real[one] - policy.real[other],
                policy.paired[one] - policy.paired[other],
                more - rng.choice(policy.imagined.reshape(-1), size=MORE),
            )
            false.append(not _holds(found, 0.0))
    power: list[float] = []
    for first, second in itertools.combinations(policies, 2):
        difference = second.real - first.real
        difference = difference - difference.mean() + 0.1 * scale
        expected = second.imagined - first.imagined
        seen = []
        for _ in range(setup.size(20, 2)):
            rows = rng.integers(len(difference), size=PAIRED)
            more = rng.choice(expected.reshape(-1), size=MORE)
            found = prediction_powered(difference[rows], expected[rows].mean(1), more)
            seen.append(found.interval[0] > 0)
        power.append(float(np.mean(seen)))
    return {
        "false_better": float(np.mean(false)), "power": float(np.mean(power)),
        "pairs_with_power_of_90": float(np.mean(np.array(power) >= 0.9)), "pairs": len(power),
    }  # fmt: skip


def _selections(policies: list[Policy], repeats: int) -> Row:
    """Picks with 30 real episodes in all."""
    truth = {policy.name: policy.real.mean() for policy in policies}
    by_name = {policy.name: policy for policy in policies}
    best = max(truth.values())
    right, near, sure, tried = [], [], [], []
    for repeat in range(repeats):
        rng = np.random.default_rng(repeat)
        rows = rng.integers(len(policies[0].real), size=100)
        imagined = {p.name: p.imagined[rows, rng.integers(DRAWS)] for p in policies}

        def play(name: str, index: int, rows: np.ndarray = rows) -> float:
            return float(by_name[name].real[rows[index]])

        pick, confidence, real = spend(imagined, play, BUDGET, repeat)
        right.append(truth[pick] == best)
        near.append(truth[pick] >= best - 0.01 * abs(best))
        sure.append(confidence)
        tried.append(sum(len(each) > 0 for each in real.values()))
    low, high = stats.binomtest(int(np.sum(near)), repeats).proportion_ci()
    imagined_best = max(policies, key=lambda policy: policy.imagined.mean()).name
    return {
        "best": float(np.mean(right)), "within_1_percent": float(np.mean(near)), "interval": [low, high],
        "confidence": float(np.mean(sure)), "policies_tried": float(np.mean(tried)),
        "without_real_episodes": bool(truth[imagined_best] >= best - 0.01 * abs(best)),
        "policies": len(policies),
    }  # fmt: skip


def _mean(found: Any) -> float:
    return float(found.mean)


def _width(found: Any) -> float:
    return float(found.interval[1] - found.interval[0])


def _holds(found: Any, truth: float) -> bool:
    return bool(found.interval[0] <= truth <= found.interval[1])


def goals(rows: list[Row]) -> list[Row]:
    def by_env(section: str, key: str, reduce: Any = np.mean) -> dict[str, float]:
        envs = dict.fromkeys(r["env"] for r in rows)
        mine = {e: [r[key] for r in rows if r["section"] == section and r["env"] == e] for e in envs}
        return {env: round(float(reduce(values)), 3) for env, values in mine.items()}

    def judged(what: str, aim: str, measured: dict[str, float], low: float, high: float) -> Row:
        met = all(low <= value <= high for value in measured.values())
        return target(what, aim, measured, None if met and len(measured) < len(LARGE) else met)

    free = "none set"
    at = "10 real and 1,000 imagined episodes"
    return [
        judged(f"coverage of the 95 % prediction-powered interval, {at}, mean over policies", "0.93 to 0.97",
               by_env("interval", "coverage"), 0.93, 0.97),
        target("coverage of the 95 % prediction-powered interval, of the policy with the least", free,
               by_env("interval", "coverage", np.min), True),
        target("coverage of the t interval of the real returns alone, mean over policies", free,
               by_env("interval", "coverage_of_t"), True),
        judged(f"variance relative to real episodes alone, {at}, median over policies", "<= 1/3",
               by_env("interval", "variance", np.median), 0.0, 1 / 3),
        target("correlation of a real return and the mean of four imagined ones, median over policies", free,
               by_env("interval", "correlation", np.median), True),
        target("least variance that this correlation allows, median over policies", free,
               by_env("interval", "best_possible", np.median), True),
        target("variance with one imagined episode instead of four, median", free,
               by_env("interval", "one_draw", np.median), True),
        target("variance with the coefficient of the other policies, median", free,
               by_env("interval", "coefficient_of_others", np.median), True),
        target("variance with the coefficient of the other policies, of the policy with the most", free,
               by_env("interval", "coefficient_of_others", np.max), True),
        target("variance relative to real episodes alone, of the policy with the most", free,
               by_env("interval", "variance", np.max), True),
        target("variance with start states stratified by imagined return, median", free,
               by_env("interval", "stratified", np.median), True),
        target("least variance with MuJoCo started 0.001 sigma off as the covariate, median", free,
               by_env("interval", "best_possible_of_mujoco", np.median), True),
        target("least variance with return and length as covariates, median", free,
               by_env("interval", "best_possible_of_return_and_length", np.median), True),
        judged("compare, 20 paired episodes: false \"better\" between a policy and its copy on other seeds",
               "<= 0.05", by_env("compare", "false_better"), 0.0, 0.05),
        judged("compare, 20 paired episodes: power for a difference of 10 % of the range, mean over pairs",
               ">= 0.9", by_env("compare", "power"), 0.9, 1.0),
        judged("select, 30 real episodes in all: pick is the best or within 1 % of its return, 200 repeats",
               ">= 0.95", by_env("select", "within_1_percent"), 0.95, 1.0),
        target("select: mean confidence in the pick, which must not exceed the share of best picks", free,
               by_env("select", "confidence"), True),
        target("select: share of picks that are the best", free, by_env("select", "best"), True),
        target("select: policies that got a real episode, mean", free, by_env("select", "policies_tried"),
               True),
    ]  # fmt: skip


BENCHMARK = Benchmark(
    per_env(measure),
    goals,
    collects="plays 200 real episodes of every reference policy and four imagined ones from each start state",
    envs=LARGE,
    seeds=(real_returns.SEED,),
)
