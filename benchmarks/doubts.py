"""What a bound is best made of: ways to tell a good imagined episode from a bad one.

    python benchmarks/doubts.py                     # five tasks, then benchmarks/results/doubts.json
    python benchmarks/doubts.py --only Hopper-v5    # finished tasks are skipped

Each way gives a number for every window, step and dimension; the bound is that number to a power, the one
that makes bounds narrowest on the calibration's windows, times a conformal factor. Widths are compared with
those of the bound that knows only the step, after both are scaled to cover 90 % of the same held-out errors.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from common import Row, auroc, fair_width, target
from scipy import stats
from worlds import LARGE, by_task, calibrated, calibration_data, held_out_data

import wmgym
from wmgym.calibration.conformal import grouped_quantile
from wmgym.calibration.open_loop import given_actions, spread_starts, steps_left
from wmgym.data.transitions import Transitions

LOOKS = (1, 8, 32, 128, 368)
POWERS = (0.25, 0.5, 0.75, 1.0)
WINDOWS, PER_POLICY = 600, 100
SHIPPED = "both paths, each dimension 0.4, all 0.6"


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


def ways(seen: Seen) -> dict[str, np.ndarray]:
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
        "single steps' disagreement, added up": single,
        "the same, each dimension": np.sqrt(np.sqrt(seen.disagreed) * single),
        "two paths now": rms(now),
        "three paths now": np.sqrt((rms(now) ** 2 + rms(seen.second) ** 2) / 2),
        "two paths so far": so_far(rms(now)),
        "two paths now and so far": np.sqrt(rms(now) * so_far(rms(now))),
        "two paths now, and single steps": np.sqrt(rms(now) * single),
        "two paths so far, each dimension": past,
        "both paths, each dimension and all": np.sqrt((2 * both**2 + (past**2).mean(2, keepdims=True)) / 3),
        SHIPPED: both**0.4 * gmean(past) ** 0.6,
    }


def measure(env_id: str) -> list[Row]:
    from calibration import starts_of

    world, real, test = calibrated(env_id), calibration_data(env_id), held_out_data(env_id)
    fit, judged = (
        look(world, data, starts)
        for data, starts in ((real, spread_starts(real, WINDOWS)), (test, starts_of(test, PER_POLICY)))
    )
    plain = {
        h: bound(fit, judged, np.ones_like(fit.error), np.ones_like(judged.error), h, (0.0,))[0]
        for h in LOOKS
    }
    mine, its = ways(fit), ways(judged)
    return [
        {"env": env_id, "way": name, **compare(fit, judged, mine[name], its[name], plain)} for name in mine
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
    """What each way gives, means over the tasks."""
    found, names = [], list(dict.fromkeys(r["way"] for r in rows))
    for name in names:
        mine = [r for r in rows if r["way"] == name and r["env"] in LARGE]
        measured = {
            "width": [r["mean_width"] for r in mine],
            "Spearman, h = 8": [r["spearman"][1] for r in mine],
            "Spearman, h = 32": [r["spearman"][2] for r in mine],
            "Spearman, pooled": [r["spearman_pooled"] for r in mine],
            "AUROC, top decile": [np.mean(r["top_decile_auroc"]) for r in mine],
        }
        said = {what: round(float(np.mean(values)), 3) for what, values in measured.items()}
        found.append(target(f"bounds from {name}", "none set", said, True))
    return found


if __name__ == "__main__":
    by_task("doubts", __doc__, measure, goals, LARGE)
