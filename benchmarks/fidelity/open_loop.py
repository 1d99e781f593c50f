"""How far do imagined states drift from MuJoCo's under the same actions, for policies that no fit saw?

The normalised error at horizon h is the RMSE over core dimensions, each divided by its standard deviation in
the training data, averaged over windows (arXiv:2501.10100). Baselines: keeping the start state; a linear
model; with --fit, a plain MLP without body frame and foot features (not for the humanoids, whose fits take
longest); and MuJoCo itself from start states with 0.001 sigma noise, which no model can be expected to beat.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import wmgym
from benchmarks.harness.metrics import core_error, imagine, spread
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, per_env
from benchmarks.harness.variants import in_world_axes
from benchmarks.harness.worlds import FIT, LARGE, STEPS, TASKS, Setup, fitted, minutes_of_fit
from wmgym.calibration.open_loop import steps_left
from wmgym.data.transitions import Transitions
from wmgym.models.coordinates import Coordinates
from wmgym.models.dynamics import Prediction, targets
from wmgym.models.training_loop import encoded_actions
from wmgym.tasks import ground_truth

HORIZONS = (1, 8, 32, 128, 368, 1_000)
THRESHOLDS = (0.001, 0.01, 0.1, 0.5)
NOISE = "MuJoCo with 0.001 sigma initial-state noise"
FEET = {
    "Hopper-v5": ("foot_geom",),
    "HalfCheetah-v5": ("bfoot", "ffoot"),
    "Walker2d-v5": ("foot_geom", "foot_left_geom"),
    "Ant-v5": ("left_ankle_geom", "right_ankle_geom", "third_ankle_geom", "fourth_ankle_geom"),
}


def measure(env_id: str, setup: Setup) -> list[Row]:
    train, test, world = setup.train(env_id), setup.held_out(env_id), setup.world(env_id)
    starts = windows(test, each=setup.size(32, 16))
    length = np.array([min(max(HORIZONS), left) for left in steps_left(test)[starts]])
    steps = int(length.max())
    rows = np.minimum(starts[:, None] + np.arange(steps), len(test) - 1)  # past an episode's end: never read
    actions, real = test.action[rows], test.next_core[rows].astype(np.float64)
    state, std = test.state[starts], spread(train)
    core = test.core[starts].astype(np.float64)
    noise = np.random.default_rng(0).normal(size=core.shape) * 1e-3 * std
    predictors = {
        "world": imagine(world, state, actions),
        "constant state": np.repeat(core[:, None], steps, 1),
        "linear": imagine(dataclasses.replace(world, dynamics=Linear(train)), state, actions),
        NOISE: simulate(world.task, core + noise, actions),
    }
    if setup.fit and "Humanoid" not in env_id:
        predictors["plain MLP"] = imagine(plain(train), state, actions)
    shown = readout_error(world, test)
    found: list[Row] = [
        {
            "section": "fit", "env": env_id, "transitions": world.provenance.steps,
            "minutes": minutes_of_fit(world), "policies": len(set(train.episode_policy)),
            "held_out": len(set(test.episode_policy)), "windows": len(starts), "readout_error": shown,
        }
    ]  # fmt: skip
    error = {name: core_error(world.task, path, real) / std for name, path in predictors.items()}
    there = np.arange(1, steps + 1) <= length[:, None]  # (windows, steps)
    for name, each in error.items():
        rmse = np.sqrt(np.minimum(each**2, 1e6).mean(-1))  # (windows, steps)
        for h in (h for h in HORIZONS if h <= steps):
            here = there[:, h - 1]
            found.append(
                {
                    "section": "error", "env": env_id, "model": name, "h": h, "windows": int(here.sum()),
                    "error": float(rmse[here, h - 1].mean()),
                    "median": float(np.median(rmse[here, h - 1])),
                    **groups(world, each[here, h - 1]),
                }
            )  # fmt: skip
        for threshold in THRESHOLDS:
            past = (rmse > threshold) & there
            first = np.where(past.any(1), past.argmax(1), length)
            found.append(
                {
                    "section": "accuracy", "env": env_id, "model": name, "threshold": threshold,
                    "median_s": float(np.median(first) * world.task.dt),
                    "never": float((~past.any(1)).mean()),
                }
            )  # fmt: skip
    return found + contacts(env_id, world, test, std)


def windows(test: Transitions, each: int) -> np.ndarray:
    """Rows to start from: of every policy its episodes' first states and others spread evenly."""
    names, found = np.array(test.episode_policy)[test.episode], []
    for name in dict.fromkeys(test.episode_policy):
        rows = np.flatnonzero(names == name)
        first = np.intersect1d(rows, test.first)
        rest = rows[np.linspace(0, len(rows) - 1, max(0, each - len(first))).astype(int)]
        found.append(np.union1d(first, rest))
    return np.concatenate(found)


def simulate(task: wmgym.Task, core: np.ndarray, actions: np.ndarray) -> np.ndarray:
    low, high = task.action_space.low, task.action_space.high  # type: ignore[union-attr]
    return ground_truth.open_loop(task, core, np.clip(actions, low, high))


class Linear(torch.nn.Module):
    """Ridge regression from features to changes, in the form of a one-member dynamics model."""

    num_members = 1

    def __init__(self, data: Transitions) -> None:
        super().__init__()
        self.coordinates = Coordinates(data.task.core.geometry)
        features = self.features(torch.tensor(data.core), encoded_actions(data)).double()
        target = targets(data).double()
        self.target_dim = target.shape[1]
        gram = features.T @ features
        gram += 1e-6 * len(features) * torch.eye(len(gram), dtype=torch.float64)
        self.weight = torch.linalg.solve(gram, features.T @ target).float()

    def features(self, core: Tensor, action: Tensor) -> Tensor:
        return functional.pad(torch.cat([self.coordinates.features(core), action], 1), (0, 1), value=1.0)

    def predict(self, core: Tensor, action: Tensor) -> Prediction:
        mean = (self.features(core, action) @ self.weight)[None]
        return Prediction(mean, torch.ones_like(mean), None)


def plain(train: Transitions) -> wmgym.WorldModel:
    """Fitted without LayerNorm, body frame and feet; the world itself where it has none of them."""
    data = in_world_axes(train)
    if data.task.core.geometry == train.task.core.geometry:
        return fitted(train.task.env_id)
    return fitted(train.task.env_id, "plain", data, FIT)


def groups(world: wmgym.WorldModel, error: np.ndarray) -> Row:
    """RMSE of poses and velocities apart."""
    assert world.task.core.to_mujoco is not None
    index = np.arange(world.task.core.dim)[None]
    _, velocity = world.task.core.to_mujoco(index + 1)
    moving = np.isin(index[0] + 1, velocity)
    squares = np.minimum(error**2, 1e6)
    return {
        "pose": float(np.sqrt(squares[:, ~moving].mean(1)).mean()),
        "velocity": float(np.sqrt(squares[:, moving].mean(1)).mean()),
    }


@torch.no_grad()
def readout_error(world: wmgym.WorldModel, test: Transitions) -> float | None:
    """RMSE of readouts given the true next core, over readouts that vary, in units of their std."""
    if world.readout is None:
        return None
    action, truth = world.encode_action(torch.tensor(test.action)), test.readout
    found = world.readout.predict(torch.tensor(test.next_core), action).mean[0].numpy()
    varies = truth.std(0) > 1e-6
    return float(np.sqrt(((found - truth)[:, varies] / truth.std(0)[varies]) ** 2).mean())


def contacts(env_id: str, world: wmgym.WorldModel, test: Transitions, std: np.ndarray) -> list[Row]:
    """One step ahead: error with and without contact, and whether each foot's contact is foreseen."""
    if env_id not in FEET:
        return []
    rng = np.random.default_rng(0)
    rows = rng.choice(len(test), size=min(4_000, len(test)), replace=False)
    path = imagine(world, test.state[rows], test.action[rows][:, None])[:, 0]
    error = core_error(world.task, path, test.next_core[rows].astype(np.float64)) / std
    rmse = np.sqrt((error**2).mean(1))
    noise = np.random.default_rng(1).normal(size=path.shape) * 1e-3 * std
    baseline = simulate(world.task, test.core[rows] + noise, test.action[rows][:, None])[:, 0]
    seen = (test.next_core[rows], path, baseline, test.core[rows])
    real, *guesses = (ground_truth.inspect(world.task, x) for x in seen)
    feet = [real.geoms.index(name) for name in FEET[env_id]]
    f1 = [f1_of(real.contact[:, feet], guess.contact[:, feet]) for guess in guesses]
    touching = real.contact.any(1)
    return [
        {
            "section": "contact", "env": env_id, "rows": len(rows),
            "f1": f1[0], "f1_mujoco_with_noise": f1[1], "f1_constant_state": f1[2],
            "share_in_contact": float(touching.mean()),
            "error_in_contact": float(rmse[touching].mean()),
            "error_in_flight": float(rmse[~touching].mean()) if (~touching).any() else None,
            **touchdown(world, test, feet),
        }
    ]  # fmt: skip


def f1_of(real: np.ndarray, guess: np.ndarray) -> float:
    hit = (real & guess).sum()
    return float(2 * hit / (2 * hit + (real != guess).sum()))


def touchdown(world: wmgym.WorldModel, test: Transitions, feet: list[int], horizon: int = 64) -> Row:
    """From states in the air: when the first foot lands, imagined against real, over 64 steps."""
    starts = test.window_starts(horizon)
    starts = np.random.default_rng(1).choice(starts, size=min(400, len(starts)), replace=False)
    starts = starts[~ground_truth.inspect(world.task, test.core[starts]).contact[:, feet].any(1)][:60]
    if not len(starts):
        return {"touchdowns": 0}
    rows = starts[:, None] + np.arange(horizon)
    path = imagine(world, test.state[starts], test.action[rows])
    landed = []
    for cores in (test.next_core[rows], path):
        flat = cores.reshape(-1, cores.shape[-1])
        on = ground_truth.inspect(world.task, flat).contact[:, feet].any(1).reshape(rows.shape)
        landed.append(np.where(on.any(1), on.argmax(1), horizon))
    real, guess = landed
    met = real < horizon
    return {
        "touchdowns": int(met.sum()),
        "touchdown_error_s": float(np.abs(guess - real)[met].mean() * world.task.dt),
    }


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    errors = {(r["env"], r["model"], r["h"]): r["error"] for r in rows if r["section"] == "error"}
    times = {(r["env"], r["model"]): r["median_s"] for r in rows
             if r["section"] == "accuracy" and r["threshold"] == 0.5}  # fmt: skip
    envs = dict.fromkeys(r["env"] for r in rows)
    whole = len(envs) == len(TASKS)
    ratio = {
        key: error / errors[key[0], "constant state", key[2]]
        for key, error in errors.items()
        if key[1] == "world"
    }
    there = {e: [h for h in HORIZONS if (e, "world", h) in ratio] for e in envs}
    found = [
        target("normalised error relative to the constant-state baseline at every reported horizon"
               " (h = 1, 8, 32, 128, 368, 1,000) on every task",
               "< 1", {e: [round(ratio[e, "world", h], 3) for h in hs] for e, hs in there.items()},
               whole and max(ratio.values()) < 1)
    ]  # fmt: skip
    for h, most in ((8, 0.25), (32, 0.5)):
        large = {e: round(ratio[e, "world", h], 3) for e in envs if e in LARGE}
        found.append(
            target(f"normalised error at h = {h} relative to the constant-state baseline, five large tasks",
                   f"<= {most}", large, len(large) == len(LARGE) and max(large.values()) <= most)
        )  # fmt: skip
    share = {e: round(times[e, "world"] / max(times[e, NOISE], 1e-9), 3) for e in envs}
    found.append(
        target(f"median time until the error passes 0.5 std, relative to {NOISE}", ">= 0.5", share,
               whole and min(share.values()) >= 0.5)
    )  # fmt: skip
    names = {
        "f1": "contact events of the feet one step ahead, F1",
        "f1_mujoco_with_noise": f"contact events of the feet one step ahead, F1: {NOISE}",
        "f1_constant_state": "contact events of the feet one step ahead, F1: constant-state baseline",
    }
    for key, what in names.items():
        f1 = {r["env"]: round(r[key], 3) for r in rows if r["section"] == "contact" and key in r}
        goal = ">= 0.95" if key == "f1" else "none set"
        met = len(f1) == len(FEET) and min(f1.values()) >= 0.95
        found.append(target(what, goal, f1, met or key != "f1"))
    minutes = {r["env"]: r["minutes"] for r in rows if r["section"] == "fit"}
    found.append(
        target("fit of one task on 300k transitions, 2 cores", "<= 20 minutes", minutes,
               whole and max(minutes.values()) <= 20)
    )  # fmt: skip
    return found


BENCHMARK = Benchmark(
    per_env(measure),
    goals,
    collects=f"collects {STEPS:,} transitions of the policy pool for each task, fits a world and a plain MLP"
    " to them, and collects 8 episodes of every held-out policy",
    fits=True,
)
