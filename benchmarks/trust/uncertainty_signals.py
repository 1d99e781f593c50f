"""Which uncertainty signal makes the tightest error bound?

Each signal gives a number for every window, step and dimension. The bound is that number to a power, the one
that makes bounds narrowest on the calibration's windows, times a conformal factor. Widths are compared with
those of the bound that knows only the step, after both are scaled to cover 90 % of the same held-out errors.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from scipy import stats

import wmgym
from benchmarks.harness.metrics import auroc, fair_width, starts_of
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, per_env
from benchmarks.harness.worlds import LARGE, STEPS, Setup
from wmgym.calibration.conformal import grouped_quantile
from wmgym.calibration.open_loop import given_actions, spread_starts, steps_left
from wmgym.data.transitions import Transitions

LOOKS = (1, 8, 32, 128, 368)
POWERS = (0.25, 0.5, 0.75, 1.0)
SHIPPED = "current and running distance, per dimension (power 0.4) and pooled (0.6)"


@dataclasses.dataclass(frozen=True)
class Seen:
    """Windows replayed open loop; NaN past an episode's end.

    Attributes:
        error: ``(steps, windows, dim)``, in units of the calibration data's std, as all of these are.
        far: how far a prediction is from anywhere that held-out states were.
        apart: distance to the next member's own path.
        second: to the one after it.
        disagreed: squares of what two members' single steps differ by, added up.
        group: ``(windows,)`` policy.
    """

    error: np.ndarray
    far: np.ndarray
    apart: np.ndarray
    second: np.ndarray
    disagreed: np.ndarray
    group: np.ndarray


@torch.no_grad()
def look(world: wmgym.WorldModel, real: Transitions, starts: np.ndarray) -> Seen:
    table, members = world.calibration, world.dynamics.num_members
    assert table is not None
    std, steps, left = table.data_std, max(LOOKS), steps_left(real)[starts]
    state = world.init(torch.tensor(real.state[starts]), torch.Generator().manual_seed(0))
    others = [dataclasses.replace(state, member=(state.member + k) % members) for k in (1, 2)]
    found = np.full((5, steps, len(starts), len(std)), np.nan, np.float32)
    disagreed = np.zeros((len(starts), len(std)), np.float32)
    for h in range(steps):
        rows = np.minimum(starts + h, len(real) - 1)
        action = given_actions(world, real.action[rows])
        here = dataclasses.replace(state, member=others[0].member)
        state, beside = world.step(state, action).state, world.step(here, action).state
        others = [world.step(other, action).state for other in others]
        core = state.core.numpy()
        disagreed = disagreed + ((core - beside.core.numpy()) / std) ** 2
        each = (
            np.abs(core - real.next_core[rows]) / std,
            (table.reach + np.abs(core - table.center)) / std,
            *(np.abs(core - other.core.numpy()) / std for other in others),
            disagreed,
        )
        for k, values in enumerate(each):
            found[k, h, left > h] = values[left > h]
    names = list(dict.fromkeys(real.episode_policy))
    group = np.array([names.index(name) for name in real.episode_policy])[real.episode[starts]]
    return Seen(*found, group)


def signals(seen: Seen) -> dict[str, np.ndarray]:
    """Numbers ``(steps, windows, dim or 1)`` that bounds are made of."""
    count = np.arange(1, len(seen.apart) + 1)[:, None, None]

    def so_far(values: np.ndarray) -> np.ndarray:
        return np.cumsum(np.nan_to_num(values), 0) / count

    def rms(values: np.ndarray) -> np.ndarray:
        return np.sqrt((values**2).mean(2, keepdims=True))

    def gmean(values: np.ndarray) -> np.ndarray:
        return np.exp(np.log(np.maximum(values, 1e-6)).mean(2, keepdims=True))

    now, past = seen.apart, so_far(seen.apart)
    both = np.sqrt((now**2 + past**2) / 2)
    single = np.sqrt(seen.disagreed).mean(2, keepdims=True)
    return {
        "one-step disagreement, cumulative": single,
        "one-step disagreement, cumulative, per dimension": np.sqrt(np.sqrt(seen.disagreed) * single),
        "distance of two members' paths": rms(now),
        "distance of three members' paths": np.sqrt((rms(now) ** 2 + rms(seen.second) ** 2) / 2),
        "distance of two members' paths, running mean": so_far(rms(now)),
        "distance of two members' paths, current and running mean": np.sqrt(rms(now) * so_far(rms(now))),
        "distance of two members' paths and one-step disagreement": np.sqrt(rms(now) * single),
        "distance of two members' paths, running mean, per dimension": past,
        "current and running distance, per dimension and pooled": np.sqrt(
            (2 * both**2 + (past**2).mean(2, keepdims=True)) / 3
        ),
        SHIPPED: both**0.4 * gmean(past) ** 0.6,
    }


def measure(env_id: str, setup: Setup) -> list[Row]:
    world, real, test = setup.calibrated(env_id), setup.calibration(env_id), setup.held_out(env_id)
    fit, judged = (
        look(world, data, starts)
        for data, starts in (
            (real, spread_starts(real, setup.size(600, 150))),
            (test, starts_of(test, setup.size(100, 30))),
        )
    )
    plain = {
        h: bound(fit, judged, np.ones_like(fit.error), np.ones_like(judged.error), h, (0.0,))[0]
        for h in LOOKS
    }
    mine, its = signals(fit), signals(judged)
    return [
        {"env": env_id, "signal": name, **compare(fit, judged, mine[name], its[name], plain)} for name in mine
    ]


def bound(
    fit: Seen, judged: Seen, mine: np.ndarray, its: np.ndarray, h: int, powers: tuple[float, ...]
) -> tuple[np.ndarray, float]:
    """Bounds of the judged windows after ``h`` steps, and the power that was narrowest."""
    there, ahead = (~np.isnan(seen.error[h - 1, :, 0]) for seen in (fit, judged))
    best: tuple[float, float, Any] | None = None
    for power in powers:
        scale = np.maximum(mine[h - 1][there], 1e-6) ** power
        factor = grouped_quantile(fit.error[h - 1][there] / scale, fit.group[there], 0.9)
        width = float(np.minimum(factor * scale, fit.far[h - 1][there]).mean())
        if best is None or width < best[0]:
            best = width, power, factor
    assert best is not None
    made = best[2] * np.maximum(its[h - 1][ahead], 1e-6) ** best[1]
    return np.minimum(made, judged.far[h - 1][ahead]), best[1]


def compare(fit: Seen, judged: Seen, mine: np.ndarray, its: np.ndarray, plain: dict[int, np.ndarray]) -> Row:
    """Of one way: width against the bound by the step, ranking, and both pooled over steps."""
    width, rank, top, power, pooled = [], [], [], {}, []
    for h in LOOKS:
        given, power[h] = bound(fit, judged, mine, its, h, POWERS)
        error = judged.error[h - 1][~np.isnan(judged.error[h - 1, :, 0])]
        width.append(fair_width(error, given) / fair_width(error, plain[h]))
        said, was = (np.sqrt((x**2).mean(1)) for x in (given, error))
        rank.append(float(stats.spearmanr(said, was).statistic))
        top.append(auroc(said, was >= np.quantile(was, 0.9)))
    for h in (*range(8, max(LOOKS), 8), max(LOOKS)):
        nearest = min(LOOKS, key=lambda at: abs(np.log(at / h)))
        given, _ = bound(fit, judged, mine, its, h, (power[nearest],))
        error = judged.error[h - 1][~np.isnan(judged.error[h - 1, :, 0])]
        pooled.append([np.sqrt((x**2).mean(1)) for x in (given, error)])
    said, was = (np.concatenate(side) for side in zip(*pooled, strict=True))
    return {
        "width": width, "mean_width": float(np.mean(width)), "spearman": rank, "top_decile_auroc": top,
        "spearman_pooled": float(stats.spearmanr(said, was).statistic),
    }  # fmt: skip


def goals(rows: list[Row]) -> list[Row]:
    """What each signal gives, means over the tasks."""
    found, names = [], list(dict.fromkeys(r["signal"] for r in rows))
    for name in names:
        mine = [r for r in rows if r["signal"] == name and r["env"] in LARGE]
        measured = {
            "relative width": [r["mean_width"] for r in mine],
            "Spearman, h = 8": [r["spearman"][1] for r in mine],
            "Spearman, h = 32": [r["spearman"][2] for r in mine],
            "Spearman, pooled": [r["spearman_pooled"] for r in mine],
            "AUROC, top decile": [np.mean(r["top_decile_auroc"]) for r in mine],
        }
        said = {what: round(float(np.mean(values)), 3) for what, values in measured.items()}
        found.append(target(f"bounds made of: {name}", "none set", said, True))
    return found


BENCHMARK = Benchmark(
    per_env(measure),
    goals,
    collects="collects episodes of the calibration's and of the held-out policies; with --fit it first"
    f" collects {STEPS:,} transitions for each task and fits a world to them",
    envs=LARGE,
    fits=True,
)
