"""Do the error bounds hold for policies that neither the fit nor the calibration saw?

Worlds are fitted to some policies of the pool, calibrated on others and judged on held-out ones, whose
actions are replayed open loop. "step" is the bound that knows only how many steps were taken, "disagreement"
the one that also knows how far the paths of two ensemble members came apart. Widths are in units of the
calibration data's standard deviation, and compared after both are scaled to cover the same errors equally.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from scipy import stats

import wmgym
from benchmarks.harness.metrics import auroc, fair_width, starts_of
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, per_env
from benchmarks.harness.worlds import LARGE, STEPS, Setup, policies
from wmgym.calibration import scoring_rules
from wmgym.calibration.open_loop import open_loop_steps, steps_left
from wmgym.data.policy import apply_policy
from wmgym.data.transitions import Transitions
from wmgym.models.dynamics import Propagation

HORIZONS = (1, 8, 32, 128, 368)
TUBE = 100
COPIES = 32  # sampled copies of one start
PROPAGATIONS: tuple[Propagation, ...] = ("member", "sample")
SCATTER = 150  # windows kept for the picture
THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
PENALTIES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def measure(env_id: str, setup: Setup) -> list[Row]:
    world, test = setup.calibrated(env_id), setup.held_out(env_id)
    assert world.calibration is not None
    starts = starts_of(test, setup.size(100, 30))
    about: Row = {
        "section": "calibration", "env": env_id, "episodes": world.calibration.episodes,
        "held_out": len(set(test.episode_policy)), "horizon": world.calibration.horizon,
        "trust_horizon": {str(x): world.calibration.trust_horizon(x) for x in (0.1, 0.5, 1.0)},
    }  # fmt: skip
    found = [about]
    for propagation in PROPAGATIONS:
        found += bounds(env_id, world, test, starts, propagation)
    found += spreads(env_id, world, test, starts_of(test, setup.size(24, 8)))
    found += thresholds(env_id, world, test, starts)
    found += penalties(env_id, world, episodes=setup.size(10, 4))
    return [*found, cost(env_id, world)]


def bounds(
    env_id: str, world: wmgym.WorldModel, test: Transitions, starts: np.ndarray, propagation: Propagation
) -> list[Row]:
    """Coverage, width and ranking of both bounds; the tube."""
    table = world.calibration
    assert table is not None
    who = np.array(test.episode_policy)[test.episode[starts]]
    found: list[Row] = []
    pooled: list[tuple[np.ndarray, np.ndarray]] = []
    worst = np.zeros(len(starts))
    length = np.minimum(steps_left(test)[starts], min(TUBE, table.horizon))
    steps = open_loop_steps(world, test, starts, max(HORIZONS), propagation, trust=True)
    for h, step in enumerate(steps, start=1):
        there = ~np.isnan(step.disagreement[:, 0])
        if not there.any():
            break
        error, core, disagreement = step.error[there], step.core[there], step.disagreement[there]
        elapsed = np.full(len(disagreement), h)
        by_step = table.error_bound(elapsed, propagation, core)
        given = table.error_bound(elapsed, propagation, core, disagreement)
        if h <= TUBE:
            relative = np.divide(error, given, out=np.zeros_like(error), where=given > 0)
            worst[there] = np.maximum(worst[there], relative.max(1))
        rmse, width = (np.sqrt(((x / table.data_std) ** 2).mean(1)) for x in (error, given))
        if h % 8 == 0 or h in HORIZONS:
            pooled.append((width, rmse))
        if h not in HORIZONS:
            continue
        row: Row = {
            "section": "bound",
            "env": env_id,
            "propagation": propagation,
            "h": h,
            "windows": len(disagreement),
        }
        for name, bound in (("step", by_step), ("disagreement", given)):
            hit = error <= bound
            row[f"{name}_coverage"] = float(hit.mean())
            row[f"{name}_policies"] = {
                p: float(hit[who[there] == p].mean()) for p in dict.fromkeys(who[there])
            }
            row[f"{name}_width"] = float((bound / table.data_std).mean())
            row[f"{name}_width_at_level"] = fair_width(
                error / table.data_std, bound / table.data_std, table.level
            )
        drawn = np.random.default_rng(0).permutation(len(rmse))[:SCATTER]
        if propagation == "member" and h in (8, 32):
            pairs = np.round(np.stack([width, rmse])[:, drawn], 4).tolist()
            found.append({"section": "scatter", "env": env_id, "h": h, "width": pairs[0], "error": pairs[1]})
        top = rmse >= np.quantile(rmse, 0.9)
        row |= {
            "spearman": float(np.nan_to_num(stats.spearmanr(width, rmse).statistic)),
            "top_decile_auroc": auroc(width, top),
        }
        found.append(row)
    widths, errors = (np.concatenate(x) for x in zip(*pooled, strict=True))
    inside, long = worst <= table.tube[propagation][length - 1], length == TUBE
    tube: Row = {
        "section": "tube", "env": env_id, "propagation": propagation, "steps": TUBE,
        "trajectories": len(starts),
        "inside": float(inside.mean()),
        "inside_full_length": float(inside[long].mean()) if long.any() else None,
        "factor": float(table.tube[propagation][min(TUBE, table.horizon) - 1]),
        "spearman_pooled": float(stats.spearmanr(widths, errors).statistic),
    }  # fmt: skip
    return [*found, tube]


@torch.no_grad()
def spreads(env_id: str, world: wmgym.WorldModel, test: Transitions, starts: np.ndarray) -> list[Row]:
    """Many sampled copies of one start: does MuJoCo lie among them as often as it should?"""
    left = steps_left(test)[starts]
    generator = torch.Generator().manual_seed(0)
    state = world.init(torch.tensor(test.state[starts]).repeat_interleave(COPIES, 0), generator)
    rng, found = np.random.default_rng(0), []
    for h in range(1, max(HORIZONS) + 1):
        rows = np.minimum(starts + h - 1, len(test) - 1)
        action = torch.tensor(test.action[rows]).repeat_interleave(COPIES, 0)
        state = world.step(state, action, "sample", generator).state
        there = left >= h
        if h not in HORIZONS or not there.any():
            continue
        copies = state.core.numpy().reshape(len(starts), COPIES, -1).swapaxes(0, 1)[:, there].astype(float)
        truth = test.next_core[rows][there].astype(float)
        moving = test.core.std(0) > 1e-8
        std = test.core.std(0)[moving]
        copies, truth = copies[..., moving] / std, truth[..., moving] / std
        rank = scoring_rules.pit(copies, truth, rng)
        mean = copies.mean(0)
        found.append(
            {
                "section": "spread", "env": env_id, "h": h, "starts": int(there.sum()),
                "one_sigma": float((np.abs(rank - 0.5) <= 0.6827 / 2).mean()),
                "pit_deciles": np.histogram(rank, 10, (0, 1))[0].tolist(),
                "crps": float(scoring_rules.crps(copies, truth).mean()),
                "energy_score": float(scoring_rules.energy_score(copies, truth).mean()),
                "sharpness": float(copies.std(0).mean()),
                "error": float(np.sqrt(((mean - truth) ** 2).mean())),
            }
        )  # fmt: skip
    return found


def thresholds(env_id: str, world: wmgym.WorldModel, test: Transitions, starts: np.ndarray) -> list[Row]:
    """How well a threshold on distrust finds steps that are 0.5 std off, and the error of what it keeps."""
    table = world.calibration
    assert table is not None
    widened_bound, wrong = [], []
    for h, step in enumerate(open_loop_steps(world, test, starts, 200, "member", trust=True), start=1):
        there = ~np.isnan(step.disagreement[:, 0])
        if not there.any():
            break
        bound = table.error_bound(
            np.full(there.sum(), h), "member", step.core[there], step.disagreement[there]
        )
        widened_bound.append((bound / table.data_std).mean(1))
        wrong.append(np.sqrt(((step.error[there] / table.data_std) ** 2).mean(1)))
    distrust, rmse = np.concatenate(widened_bound), np.concatenate(wrong)
    bad, rows = rmse > 0.5, list[Row]()
    for threshold in THRESHOLDS:
        kept = distrust <= threshold
        rows.append(
            {
                "section": "threshold", "env": env_id, "threshold": threshold,
                "kept": float(kept.mean()),
                "error_kept": float(rmse[kept].mean()) if kept.any() else None,
                "error_all": float(rmse.mean()),
                "bad_caught": float((~kept)[bad].mean()), "good_kept": float(kept[~bad].mean()),
            }
        )  # fmt: skip
    return rows


@torch.no_grad()
def penalties(env_id: str, world: wmgym.WorldModel, episodes: int) -> list[Row]:
    """Imagined return, distrust added up, and the real return on the policy's card."""
    rows: list[Row] = []
    every = [p for role in ("fit", "calibration", "held-out") for p in policies(env_id, role).values()]
    worth = [p.card.return_mean for p in every if p.card is not None]
    for name, policy in policies(env_id, "held-out").items():
        env = wmgym.ImaginedVectorEnv(world, episodes, trust=True)
        obs, _ = env.reset(seed=0)
        returns, distrust, going = np.zeros(episodes), np.zeros(episodes), np.ones(episodes, bool)
        while going.any():
            obs, reward, terminated, truncated, infos = env.step(apply_policy(policy, obs))
            last = infos.get("final_info", infos)["distrust"]
            ended = terminated | truncated
            returns += going * reward
            distrust += going * np.where(ended, last, infos["distrust"])
            going &= ~ended
        assert policy.card is not None
        rows.append(
            {
                "section": "penalty", "env": env_id, "policy": name, "real": policy.card.return_mean,
                "imagined": float(returns.mean()), "distrust": float(distrust.mean()),
                "range": max(worth) - min(worth),
            }
        )  # fmt: skip
    return rows


def cost(env_id: str, world: wmgym.WorldModel, envs: int = 1_024, steps: int = 40) -> Row:
    """Time of a step with trust against one without, medians of interleaved repeats."""
    times: dict[bool, list[float]] = {False: [], True: []}
    made = {trust: wmgym.ImaginedVectorEnv(world, envs, trust=trust) for trust in times}
    action = np.zeros(made[True].action_space.shape, np.float32)
    for env in made.values():
        env.reset(seed=0)
    for repeat in range(6):
        for trust, env in made.items():
            began = time.perf_counter()
            for _ in range(steps):
                env.step(action)
            if repeat:  # the first warms up
                times[trust].append((time.perf_counter() - began) / steps)
    plain, asked = (float(np.median(times[trust])) for trust in (False, True))
    return {"section": "cost", "env": env_id, "envs": envs, "plain_ms": plain * 1e3, "trust_ms": asked * 1e3,
            "ratio": asked / plain}  # fmt: skip


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured, in the default propagation."""
    envs = [e for e in LARGE if any(r["env"] == e for r in rows)]
    whole = len(envs) == len(LARGE)
    mine = [r for r in rows if r["section"] == "bound" and r["propagation"] == "member" and r["env"] in envs]
    tubes = [r for r in rows if r["section"] == "tube" and r["propagation"] == "member" and r["env"] in envs]

    def by_env(of: list[Row], key: str) -> dict[str, list[float]]:
        return {e: [round(r[key], 3) for r in of if r["env"] == e] for e in envs}

    coverage = by_env(mine, "disagreement_coverage")
    single = {
        e: [
            round(f(x for r in mine if r["env"] == e for x in r["disagreement_policies"].values()), 3)
            for f in (min, max)
        ]
        for e in envs
    }
    sigma = by_env([r for r in rows if r["section"] == "spread" and r["env"] in envs], "one_sigma")
    ratio = {
        e: [
            round(r["disagreement_width_at_level"] / r["step_width_at_level"], 3)
            for r in mine
            if r["env"] == e
        ]
        for e in envs
    }
    every = [x for values in ratio.values() for x in values]
    within = {e: [round(r["spearman"], 3) for r in mine if r["env"] == e and r["h"] in (8, 32)] for e in envs}
    pooled = {r["env"]: round(r["spearman_pooled"], 3) for r in tubes}
    inside = {r["env"]: round(r["inside"], 3) for r in tubes}
    top = by_env(mine, "top_decile_auroc")
    costs = {r["env"]: round(r["ratio"], 2) for r in rows if r["section"] == "cost" and r["env"] in envs}

    def all_in(values: dict[str, list[float]], low: float, high: float) -> bool:
        return whole and all(low <= x <= high for xs in values.values() for x in xs)

    told = {
        str(x): round(float(np.mean([r["bad_caught"] + r["good_kept"] - 1 for r in rows
                                     if r["section"] == "threshold" and r["threshold"] == x])), 3)
        for x in THRESHOLDS
    }  # fmt: skip
    paid = [r for r in rows if r["section"] == "penalty"]
    left = {
        str(x): round(
            float(np.mean([abs(r["imagined"] - x * r["distrust"] - r["real"]) / r["range"] for r in paid])), 4
        )
        for x in PENALTIES
    }
    defaults = wmgym.Trust()
    at = f"h = {', '.join(map(str, HORIZONS))}"
    return [
        target(f"coverage of the 90 % bound, {at}, each task", "88 to 92 %", coverage,
               all_in(coverage, 0.88, 0.92)),
        target(f"coverage of the 90 % bound, {at}, each single policy: least and most", "80 to 97 %", single,
               all_in(single, 0.8, 0.97)),
        target(f"one-sigma coverage of sampled spread, {at}", "65 to 72 %", sigma,
               all_in(sigma, 0.65, 0.72)),
        target(f"width relative to the bound by the step alone, at equal coverage, {at}",
               "<= 0.85 on average, never > 1", ratio, whole and np.mean(every) <= 0.85 and max(every) <= 1),
        target("Spearman correlation of bound and error, pooled over horizons", ">= 0.9", pooled,
               whole and min(pooled.values()) >= 0.9),
        target("Spearman correlation of bound and error within h = 8, 32", ">= 0.6", within,
               all_in(within, 0.6, 1)),
        target("trajectories inside the simultaneous 90 % tube, h <= 100", "88 to 93 %", inside,
               whole and all(0.88 <= x <= 0.93 for x in inside.values())),
        target(f"AUROC of the bound for errors in the top decile, {at}", ">= 0.9", top, all_in(top, 0.9, 1)),
        target("cost of a step with trust at 1,024 envs", "<= 2.5x", costs,
               whole and max(costs.values()) <= 2.5),
        target("default threshold of distrust: finds steps 0.5 std off best (Youden's J, mean over tasks)",
               "the largest", told, max(told, key=told.__getitem__) == str(defaults.threshold)),
        target("default penalty: return gap of held-out policies that remains, share of the pool's range",
               "the smallest of those above 0", left,
               min(list(left)[1:], key=left.__getitem__) == str(defaults.penalty)),
    ]  # fmt: skip


BENCHMARK = Benchmark(
    per_env(measure),
    goals,
    collects="collects 8 episodes of every held-out policy; with --fit it first collects"
    f" {STEPS:,} transitions for each task, fits a world and calibrates it on episodes of other policies",
    fits=True,
)
