"""Do gradients through an imagined rollout point where MuJoCo's do?

From states that held-out policies visit, under their actions, the real env is stepped again and again with
one number of the first state, or of one action, moved up and down: central finite differences. Beside them
stand the derivatives that autograd finds through ``WorldModel.step``, along the path that the world imagines.
Compared are, by horizon, the derivatives of the core by the first core, of the core by all actions, and of
the return, the sum of rewards, by all actions: of all of it, and without the cost of the actions themselves,
which is a known formula; with and without contact on the way.

Units: core dimensions in standard deviations of the visited states, actions in halves of their range. Actions
are kept 5 % of it away from the bounds, where a derivative would have two values.
"""

from __future__ import annotations

import contextlib
from typing import Any

import mujoco
import numpy as np

import wmgym
from benchmarks.harness.derivatives import (
    Derivatives,
    MujocoPath,
    Units,
    cosine,
    finite_differences,
    moved,
    of_world,
    ratio,
    transition_differences,
    units_of,
    with_steered,
)
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, per_env
from benchmarks.harness.worlds import Setup, policies
from wmgym.data.policy import apply_policy
from wmgym.models.dynamics import Propagation
from wmgym.tasks import ground_truth

HORIZONS = (1, 2, 4, 8, 16)
STATES, QUICKER, CHECKED = 48, 2, 6
FEWER = {"Ant-v5": (36, 8), "Humanoid-v5": (18, 8), "HumanoidStandup-v5": (18, 8)}
"""Number of states and longest horizon where MuJoCo is slow; one of six states is checked in other ways."""
STEP, WIDER, COARSE = 1e-6, 1e-5, 1e-2
"""Of the finite differences, in units: what is used, a check of it, and one that averages over contacts."""
NEARBY = "0.001 sigma away"
PARTS = ("core", "action", "returns", "steered")
LEAST = 8  # states of which a percentile is given


def measure(env_id: str, setup: Setup) -> list[Row]:
    world = setup.world(env_id)
    count, longest = FEWER.get(env_id, (STATES, max(HORIZONS)))
    count, longest = setup.size(count, count // QUICKER), setup.size(longest, 8)
    horizons = [h for h in HORIZONS if h <= longest]
    with contextlib.closing(world.task.make()) as env:
        paths, visited = windows(world.task, env, policies(env_id, "held-out"), count, longest)
        units = units_of(world.task, world.coordinates, visited)
        real = differences(world, paths, units, horizons, STEP)
        at = np.arange(len(paths))[::CHECKED]
        few = [paths[i] for i in at]
        others = {f"{step:g}": differences(world, few, units, horizons, step) for step in (WIDER, COARSE)}
        rng = np.random.default_rng(0)
        near = [nearby(path, world, units, rng) for path in few]
        others[NEARBY] = differences(world, near, units, horizons, STEP)
        oracle = against_mujoco(world, env, few, units)
    cores, actions = np.stack([p.cores[0] for p in paths]), np.stack([p.actions for p in paths])

    def imagined(propagation: Propagation, member: int = 0) -> Derivatives:
        found = of_world(world, cores, actions, units, horizons, propagation, member)
        return with_steered(found, world.task, actions, units, horizons)

    found = {"mean": [imagined("mean")]}
    found["member"] = [imagined("member", i) for i in range(world.dynamics.num_members)]
    touched = contact(world.task, paths)
    rows = [{"section": "oracle", "env": env_id, **oracle}]
    for k, h in enumerate(horizons):
        for propagation, each in found.items():
            about = {"env": env_id, "h": h, "propagation": propagation}
            rows += compared(each, real, k, touched[:, : h + 1].any(1), about)
        for name, other in others.items():
            rows.append({"section": "check", "env": env_id, "h": h, "by": name, "states": len(few),
                         **checked(other, real, found["mean"][0], k, at)})  # fmt: skip
    return rows


def differences(
    world: wmgym.WorldModel, paths: list[MujocoPath], units: Units, horizons: list[int], step: float
) -> Derivatives:
    """Central differences of MuJoCo, the cost of the actions told apart."""
    found = finite_differences(paths, world.coordinates, units, horizons, step)
    return with_steered(found, world.task, np.stack([p.actions for p in paths]), units, horizons)


def windows(
    task: wmgym.Task, env: Any, entrants: Any, count: int, steps: int
) -> tuple[list[MujocoPath], np.ndarray]:
    """Paths within episodes, an equal number of each policy's, and all cores visited ``(n, core_dim)``."""
    low, high = env.action_space.low, env.action_space.high
    inside = 0.05 * (high - low) / 2
    paths, visited, each = list[MujocoPath](), list[np.ndarray](), -(-count // len(entrants))
    for number, policy in enumerate(entrants.values()):
        candidates = list[tuple[ground_truth.Snapshot, np.ndarray]]()
        for seed in range(20):
            obs, _ = env.reset(seed=1_000 * number + seed)
            places, actions, over = [], [], False
            while not over and len(actions) < 1_000:
                if len(actions) % 4 == 0:
                    places.append(ground_truth.snapshot(env))
                visited.append(task.read_core(env, obs))
                action = np.clip(apply_policy(policy, obs[None])[0], low, high)
                actions.append(np.clip(action, low + inside, high - inside).astype(float))
                obs, _, terminated, truncated, _ = env.step(action)
                over = terminated or truncated
            # Not from where a reset puts it: joints of Pusher then stand exactly at their limits.
            begins = range(4, len(actions) - steps + 1, 4)
            candidates += [(places[at // 4], np.array(actions[at : at + steps])) for at in begins]
            if len(visited) >= 1_000 * (number + 1):
                break
        order = np.linspace(0, len(candidates) - 1, min(2 * each, len(candidates))).round().astype(int)
        order = np.concatenate([order[::2], order[1::2]])  # the second half where the first one ends early
        made = (MujocoPath(task, env, *candidates[i]) for i in order)
        paths += [path for path in made if not path.terminated][:each]
    return paths, np.array(visited)


def contact(task: wmgym.Task, paths: list[MujocoPath]) -> np.ndarray:
    """Whether anything pushes the robot before and after each step: ``(paths, steps + 1)`` bool."""
    cores = np.stack([path.cores for path in paths])
    seen = ground_truth.inspect(task, cores.reshape(-1, task.core.dim))
    return seen.contact.any(1).reshape(cores.shape[:2])


def compared(
    found: list[Derivatives], real: Derivatives, k: int, touched: np.ndarray, about: Row
) -> list[Row]:
    """Medians and tenth percentiles at one horizon; a state counts once for every entry of ``found``."""
    rows, groups = [], {"all": np.ones(len(touched), bool), "contact": touched, "flight": ~touched}
    same = np.broadcast_to(np.eye(real.core.shape[-1]), real.core[:, k].shape)
    for group, rows_of in groups.items():
        if rows_of.sum() < LEAST:
            continue
        row: Row = {"section": "cosine", **about, "group": group, "states": int(rows_of.sum())}
        for part in PARTS:
            truth = getattr(real, part)[rows_of, k]
            pairs = [(getattr(one, part)[rows_of, k], truth) for one in found]
            cosines = np.concatenate([cosine(*pair) for pair in pairs])
            lengths = np.concatenate([ratio(*pair) for pair in pairs])
            if np.isnan(cosines).all():
                continue  # a pendulum's reward is constant
            row |= {
                f"{part}_median": rounded(np.nanmedian(cosines)),
                f"{part}_p10": rounded(np.nanquantile(cosines, 0.1)),
                f"{part}_length": rounded(np.nanmedian(lengths)),
            }
            if part == "steered":
                row["steered_positive"] = rounded((cosines[~np.isnan(cosines)] > 0).mean())
        row["constant_state_median"] = rounded(np.median(cosine(same[rows_of], real.core[rows_of, k])))
        rows.append(row)
    return rows


def checked(other: Derivatives, real: Derivatives, mean: Derivatives, k: int, at: np.ndarray) -> Row:
    """How far derivatives at some states are from those used, and the cosine of the world's with each."""
    row: Row = {}
    for part in PARTS:
        used, found, world = (
            getattr(real, part)[at, k],
            getattr(other, part)[:, k],
            getattr(mean, part)[at, k],
        )
        off = ratio(found - used, used)
        if np.isnan(off).all():
            continue
        row |= {
            f"{part}_difference": rounded(np.nanmedian(off)),
            f"{part}_difference_p90": rounded(np.nanquantile(off, 0.9)),
            f"{part}_cosine": rounded(np.nanmedian(cosine(found, used))),
            f"{part}_world": rounded(np.nanmedian(cosine(world, found))),
            f"{part}_world_used": rounded(np.nanmedian(cosine(world, used))),
        }
    return row


def nearby(path: MujocoPath, world: wmgym.WorldModel, units: Units, rng: np.random.Generator) -> MujocoPath:
    """The same actions from 0.001 sigma away."""
    noise = 1e-3 * units.core * rng.normal(size=(1, len(units.core)))
    core = moved(world.coordinates, path.cores[:1], noise)[0]
    return MujocoPath(world.task, path.env, path.snapshots[0], path.actions, core)


def against_mujoco(world: wmgym.WorldModel, env: Any, paths: list[MujocoPath], units: Units) -> Row:
    """Relative difference of one step's finite differences from ``mjd_transitionFD``, chained over substeps.

    That cannot differentiate RK4: where a task has it, both are given Euler's integrator instead.
    """
    model, euler = env.unwrapped.model, int(mujoco.mjtIntegrator.mjINT_EULER)
    own = int(model.opt.integrator)
    try:
        model.opt.integrator = euler
        short = [MujocoPath(world.task, env, path.snapshots[0], path.actions[:1]) for path in paths]
        mine = finite_differences(short, world.coordinates, units, [1], STEP)
        theirs = [transition_differences(path, world.coordinates, units) for path in short]
    finally:
        model.opt.integrator = own
    core, action = (np.stack(part) for part in zip(*theirs, strict=True))
    off_core, off_action = (
        ratio(mine.core[:, 0] - core, core),
        ratio(mine.action[:, 0, :, 0] - action, action),
    )
    return {
        "states": len(paths), "integrator_replaced": own != euler,
        "core_median": float(np.median(off_core)), "core_most": float(off_core.max()),
        "action_median": float(np.median(off_action)), "action_most": float(off_action.max()),
    }  # fmt: skip


def rounded(value: Any) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def goals(rows: list[Row]) -> list[Row]:
    """What was measured, and whether the finite differences can be relied on."""
    envs = list(dict.fromkeys(r["env"] for r in rows))
    mean = [
        r for r in rows if r["section"] == "cosine" and r["propagation"] == "mean" and r["group"] == "all"
    ]
    checks = [r for r in rows if r["section"] == "check"]
    near = [r for r in checks if r["by"] == NEARBY]
    wider = [r for r in checks if r["by"] == f"{WIDER:g}" and r["h"] <= 8]

    def by_env(among: list[Row], key: str) -> Row:
        """A task's values in the order of the horizons; none where a reward is constant."""
        said = {e: [round(r[key], 2) for r in among if r["env"] == e and key in r] for e in envs}
        return {e: values for e, values in said.items() if values}

    when = "after 1, 2, 4, 8 and 16 steps (Ant, humanoids: 8 at most)"
    found = []
    for part, of in (("returns", "return by actions"), ("steered", "return by actions, without their cost"),
                     ("action", "core by actions"),
                     ("core", "core by first core")):  # fmt: skip
        for key, how in (("median", "median"), ("p10", "10th percentile")):
            what = f"gradient of the {of}, cosine of world and MuJoCo {when}, {how}"
            found.append(target(what, "none set", by_env(mean, f"{part}_{key}"), True))
    what = (
        f"gradient of the return by actions, without their cost, cosine of MuJoCo and MuJoCo {NEARBY}, median"
    )
    found.append(target(what, "none set", by_env(near, "steered_cosine"), True))
    differences = [f"{part}_difference" for part in PARTS]
    off = {e: max(r.get(key, 0.0) for r in wider for key in differences if r["env"] == e) for e in envs}
    oracle = {r["env"]: r["core_median"] for r in rows if r["section"] == "oracle"}
    what = f"finite differences over {STEP:g} and {WIDER:g} units, up to 8 steps: relative difference, median"
    found.append(target(what, "<= 0.01", off, max(off.values()) <= 0.01))
    what = "finite differences of one step against mjd_transitionFD: relative difference, median"
    found.append(target(what, "<= 1e-4", oracle, max(oracle.values()) <= 1e-4))
    return found


BENCHMARK = Benchmark(
    per_env(measure),
    goals,
    collects=f"steps MuJoCo from {STATES} states a task, fewer of the slow ones, and fits nothing",
)
