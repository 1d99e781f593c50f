"""What do recorded data lose on their way in: irregular CSV files, and a Minari data set without its env?

"csv": a two-joint arm (Reacher's, in MuJoCo) whose control loop runs at 50 Hz and logs every step to a CSV
file. 20 runs of 10 s are recorded as such loops are: every period is up to 10 % too short or too long, 2 % of
the rows are lost, two files have a gap of 2 s and one has its clock set back by 5 s. The same runs, with the
same commands, in a loop without jitter and without losses are the clean record. Both are read by
wmgym.from_log; worlds fitted to either predict clean runs that no fit saw.

"minari": Hopper's policies collect 8,000 steps. Minari's own library writes them, and they are read back
without making the env: once with the infos of Gymnasium's env, which hold what the known reward takes, and
once without. Worlds fitted to these and to what `collect` gave predict episodes of held-out policies.

Errors are RMSE over observation columns, each divided by its standard deviation in the clean data, mean over
windows. Fits take 4 members of 2 layers of 128 units, and 1,000 updates.

Robots that only their own MuJoCo model describes are judged too, and envs of other families, with default
settings; see ``robots.py`` and ``families.py``.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import mujoco
import numpy as np
from minari.data_collector import EpisodeBuffer

import wmgym
from benchmarks.harness import families, robots
from benchmarks.harness.metrics import spread, window_error
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, Work
from benchmarks.harness.worlds import Setup, policies
from wmgym.data.transitions import Transitions

CONFIG = wmgym.FitConfig(members=4, width=128, depth=2, max_updates=1_000)
SEEDS = (0, 1, 2)
RUNS, SECONDS, RATE, HELD_OUT = 20, 10, 50, 6
SUBSTEPS = 20  # of MuJoCo in a regular period
HEADER = ("t", "q1", "q2", "dq1", "dq2", "u1", "u2")
STEPS = 8_000


def arm_run(model: Any, seed: int, jitter: float) -> np.ndarray:
    """Rows of a run ``(n, 7)``: a control loop under commands that are held for a few periods."""
    commands, clock = np.random.default_rng(seed), np.random.default_rng(10_000 + seed)
    data = mujoco.MjData(model)
    data.qpos[:2], data.qvel[:2] = commands.uniform(-1, 1, 2), commands.normal(size=2)
    rows, u, left = [], np.zeros(2), 0
    for _ in range(SECONDS * RATE):
        if left == 0:
            u, left = commands.uniform(-1, 1, 2), int(commands.integers(1, 9))
        left -= 1
        rows.append([data.time, *data.qpos[:2], *data.qvel[:2], *u])
        data.ctrl[:] = u
        most = round(jitter * SUBSTEPS)
        for _ in range(SUBSTEPS + int(clock.integers(-most, most + 1))):
            mujoco.mj_step(model, data)
    return np.array(rows)


def spoiled(rows: np.ndarray, index: int) -> np.ndarray:
    """What a real logger leaves of a run."""
    rng = np.random.default_rng(20_000 + index)
    rows = rows.copy()
    if index == 2:
        rows[len(rows) // 3 :, 0] -= 5.0  # the clock is set back
    keep = rng.random(len(rows)) > 0.02
    if index in (0, 1):
        keep[200:300] = False  # nothing for two seconds
    return rows[keep]


def record(folder: Path, runs: Mapping[str, np.ndarray]) -> Path:
    """A folder with a CSV file for every run."""
    folder.mkdir()
    for name, rows in runs.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            writer.writerows(rows.tolist())
    return folder


def no_reward(obs: Any, action: Any, next_obs: Any) -> Any:
    """The arm is paid nothing: dynamics alone are compared."""
    return 0.0 * next_obs[..., 0]


def measure_csv(seed: int, setup: Setup) -> list[Row]:
    model = mujoco.MjModel.from_xml_path(
        str(Path(gym.__file__).parent / "envs" / "mujoco" / "assets" / "reacher.xml")
    )
    model.opt.timestep = 1 / RATE / SUBSTEPS
    first = 1_000 * seed
    ideal = {f"run{k:02}": arm_run(model, first + k, 0.0) for k in range(RUNS + HELD_OUT)}
    train = dict(list(ideal.items())[:RUNS])
    real = {name: spoiled(arm_run(model, first + k, 0.1), k) for k, name in enumerate(train)}
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings(action="ignore"):
        read = partial(wmgym.from_log, obs=["q1", "q2", "dq1", "dq2"], reward_fn=no_reward, quiet=True)
        clean = read(record(Path(home) / "clean", train))
        held_out = read(record(Path(home) / "test", dict(list(ideal.items())[RUNS:])))
        rough = read(record(Path(home) / "rough", real))
    return compared("csv", seed, {"clean": clean, "irregular": rough}, held_out, spread(clean))


def written(data: Transitions, home: Path, name: str, infos: bool) -> Path:
    """The data as a Minari data set, by Minari's own library."""
    os.environ["MINARI_DATASETS_PATH"] = str(home)
    buffers = []
    for k in range(data.num_episodes):
        rows = np.flatnonzero(data.episode == k)
        path = np.concatenate([[0.0], np.cumsum(data.displacement[rows, 0])])
        assert data.reward is not None
        buffers.append(
            EpisodeBuffer(
                id=k,
                observations=np.concatenate([data.obs[rows], data.next_obs[rows[-1:]]]),
                actions=data.action[rows],
                rewards=data.reward[rows].tolist(),
                terminations=data.terminated[rows].tolist(),
                truncations=data.truncated[rows].tolist(),
                infos={"x_position": path} if infos else None,
            )
        )
    minari.create_dataset_from_buffers(f"hopper/{name}-v0", buffers, env="Hopper-v5", data_format="hdf5")
    return home / "hopper" / f"{name}-v0"


def measure_minari(seed: int, setup: Setup) -> list[Row]:
    steps = setup.size(STEPS, 2_000)
    pool, others = policies("Hopper-v5", "fit"), policies("Hopper-v5", "held-out")
    task = wmgym.make_task("Hopper-v5")
    data = wmgym.collect(task, {**pool, "random": None}, steps=steps, seed=seed, noise=0.3, switch_every=40)
    test = wmgym.collect(task, others, steps=steps // 4, seed=500 + seed)
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings(action="ignore"):
        found = {
            name: wmgym.from_log(written(data, Path(home), name.replace(" ", "-"), infos), quiet=True)
            for name, infos in (("with infos", True), ("without infos", False))
        }
    return compared("minari", seed, {"collect": data, **found}, test, spread(data))


def compared(
    env: str, seed: int, sets: Mapping[str, Transitions], test: Transitions, std: np.ndarray
) -> list[Row]:
    """The errors of a world fitted to each set; the first one is what the others are compared with."""
    horizon = 32 if env == "csv" else 8
    found: list[Row] = []
    for name, data in sets.items():
        world = wmgym.fit(data, CONFIG, seed)
        for h in (1, horizon):
            error = window_error(world, test, std, h, np.random.default_rng(seed))
            found.append({"env": env, "seed": seed, "data": name, "h": h, "steps": len(data),
                          "episodes": data.num_episodes, "error": error})  # fmt: skip
            base = next(row["error"] for row in found if row["h"] == h)
            found[-1]["ratio"] = error / base
    return found


def units(setup: Setup, args: argparse.Namespace) -> dict[str, Work]:
    measures = {"csv": measure_csv, "minari": measure_minari}
    measures |= {env: partial(robots.measure, env) for env in robots.ENVS}
    measures |= {env: partial(families.measure, env) for env in families.ENVS}
    return {f"{env}-{seed}": partial(measures[env], seed, setup) for env in args.env for seed in SEEDS}


def errors(rows: list[Row], data: str, h: int) -> list[float]:
    """Of all seeds."""
    return [row["error"] for row in rows if row.get("data") == data and row["h"] == h]


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""

    def ratio(data: str, h: int) -> float | None:
        of = {name: errors(rows, name, h) for name in (data, BASES[data])}
        whole = all(len(each) == len(SEEDS) for each in of.values())
        return round(float(np.mean(of[data]) / np.mean(of[BASES[data]])), 3) if whole else None

    found = []
    irregular = "CSV files with jitter, lost rows, gaps and a clock set back: error at h = 32 relative to the"
    hopper = "Hopper from a Minari data set {}, without its env: error at h = 8 relative to `collect`"
    for data, h, most, what in (
        ("irregular", 32, 1.1, f"{irregular} same runs recorded cleanly"),
        ("with infos", 8, 1.05, hopper.format("with infos")),
        ("without infos", 8, 1.05, hopper.format("without infos")),
    ):
        value = ratio(data, h)
        found.append(
            target(f"{what}, mean of 3 seeds", f"<= {most}", value, None if value is None else value <= most)
        )
    return found + robots.goals(rows) + families.goals(rows)


BASES = {"irregular": "clean", "with infos": "collect", "without infos": "collect"}
BENCHMARK = Benchmark(
    units,
    goals,
    collects="simulates an arm, collects Hopper, four robots and eight other envs, and fits 17 worlds a seed",
    envs=("csv", "minari", *robots.ENVS, *families.ENVS),
    seeds=SEEDS,
)
