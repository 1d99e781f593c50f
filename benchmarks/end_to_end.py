"""What is the whole line worth: real data, world model, policy trained in imagination, real score?

Sections: ``demo`` (``make demo`` in a fresh clone: DynaSAC, online), ``run`` (the whole line in rounds),
``sac`` (SB3's SAC given the same real steps), ``throughput``, ``coverage`` (on policies of ``run``),
``suite`` (``make test``).
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mujoco
import mujoco.rollout
import numpy as np
import torch

import wmgym
from benchmarks.harness.results import ROOT, RUNS, Row, read, target
from benchmarks.harness.runner import Benchmark, Work
from benchmarks.harness.worlds import Setup
from wmgym.app import recipes
from wmgym.app import run as run_module
from wmgym.calibration.open_loop import open_loop_errors
from wmgym.models.dynamics import PROPAGATIONS

SEEDS = (0, 1, 2)
DEMO_SEEDS = (102, 103, 104, 105, 106)  # 100 and 101 were looked at while settings were chosen
IN_ROUNDS = {"HalfCheetah-v5": "SAC", "InvertedPendulum-v5": "PPO"}
ENVS = tuple(IN_ROUNDS)
SECTIONS = ("throughput", "run", "sac", "coverage", "demo", "suite")
HORIZONS = (1, 8, 32)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="some sections; all of them by default")
    parser.add_argument(
        "--seed", nargs="+", type=int, metavar="SEED",
        help=f"of {SEEDS}, or of {DEMO_SEEDS} for the section demo; all of them by default",
    )  # fmt: skip


def units(setup: Setup, args: argparse.Namespace) -> dict[str, Work]:
    found: dict[str, Work] = {}
    for section in args.only or (("throughput",) if setup.quick else SECTIONS):
        if section in ("run", "sac"):
            work = run_line if section == "run" else run_sac
            for env_id in args.env:
                for seed in args.seed or SEEDS:
                    found[f"{section}-{env_id}-{seed}"] = functools.partial(work, env_id, seed)
        elif section == "coverage":
            found |= {f"coverage-{seed}": functools.partial(coverage, seed) for seed in args.seed or SEEDS}
        elif section == "demo":
            demo = quick_demo if setup.quick else make_demo
            seeds = args.seed or (DEMO_SEEDS[:1] if setup.quick else DEMO_SEEDS)
            found |= {f"demo-{seed}": functools.partial(demo, seed) for seed in seeds}
        else:
            found[section] = {"throughput": throughput, "suite": suite}[section]
    return found


def run_line(env_id: str, seed: int) -> list[Row]:
    torch.set_num_threads(1)
    config = in_rounds(env_id, seed)
    result = run_module.run(config, RUNS / "end_to_end" / f"{env_id}-{seed}", say=print)
    mine = result.report[result.policy.name]
    return [
        {
            "section": "run", "env": env_id, "seed": seed, "policy": result.policy.name,
            "real_steps": result.ledger["real_steps"], "imagined_steps": result.ledger["imagined_steps"],
            "wall_s": round(result.ledger["wall_s"], 1), "cpu_s": round(result.ledger["cpu_s"], 1),
            "real_mean": mine.real_mean, "real_interval": mine.real_interval,
            "real_returns": mine.real_returns,
            "imagined_mean": mine.imagined_mean, "imagined_interval": mine.imagined_interval,
            "gap": mine.gap, "gap_interval": mine.gap_interval, "diverged": mine.diverged,
            "random_mean": result.report["random"].real_mean,
        }
    ]  # fmt: skip


def in_rounds(env_id: str, seed: int) -> recipes.RunConfig:
    """The recipe for an unmodified agent."""
    return recipes.recipe(env_id, seed=seed, train={"algorithm": IN_ROUNDS[env_id]})


def run_sac(env_id: str, seed: int) -> list[Row]:
    """SB3's SAC with its own defaults, given as many real steps as the line takes."""
    from stable_baselines3 import SAC

    torch.set_num_threads(1)
    steps = in_rounds(env_id, seed).real_steps
    began = time.perf_counter()
    model = SAC("MlpPolicy", env_id, seed=seed, device="cpu")
    model.learn(steps)
    wall = time.perf_counter() - began
    scored = wmgym.collect(env_id, model, episodes=20, seed=seed * 1_000 + 999, workers=1)
    return [
        {
            "section": "sac", "env": env_id, "seed": seed, "policy": "SB3 SAC on the real env",
            "real_steps": steps, "wall_s": round(wall, 1), "real_mean": float(scored.returns.mean()),
            "real_returns": scored.returns.tolist(),
        }
    ]  # fmt: skip


def throughput() -> list[Row]:
    """Imagined against real steps a second, same cores, one run; medians of 5 interleaved repeats."""
    world = wmgym.load("HalfCheetah-v5")
    num_envs, cores = 1_024, 2
    torch.set_num_threads(cores)
    env = wmgym.ImaginedVectorEnv(world, num_envs)
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (num_envs, 6)).astype(np.float32)
    real = wmgym.make_task("HalfCheetah-v5").make().unwrapped
    model, skip, steps, copies = real.model, real.frame_skip, 50, 64
    spec = mujoco.mjtState.mjSTATE_FULLPHYSICS
    initial = np.zeros((copies, mujoco.mj_stateSize(model, spec)))
    mujoco.mj_getState(model, real.data, initial[0], spec)
    initial[:] = initial[0]
    control = np.repeat(
        np.random.default_rng(0).uniform(-1, 1, (copies, steps, 6)), skip, axis=1
    )  # (copies, steps * frame_skip, 6)

    def imagine() -> float:
        began = time.perf_counter()
        for _ in range(30):
            env.step(actions)
        return 30 * num_envs / (time.perf_counter() - began)

    with mujoco.rollout.Rollout(nthread=cores) as pool:
        datas = [mujoco.MjData(model) for _ in range(cores)]

        def simulate() -> float:
            began = time.perf_counter()
            pool.rollout(model, datas, initial, control)
            return steps * copies / (time.perf_counter() - began)

        imagine(), simulate()
        pairs = [(imagine(), simulate()) for _ in range(5)]
    fast, slow = (float(np.median([pair[i] for pair in pairs])) for i in (0, 1))
    single = gym_rate()
    return [
        {
            "section": "throughput", "env": "HalfCheetah-v5", "num_envs": num_envs, "cores": cores,
            "imagined_steps_per_s": round(fast), "mujoco_rollout_steps_per_s": round(slow),
            "gymnasium_env_steps_per_s": round(single),
            "ratio": round(float(np.median([a / b for a, b in pairs])), 2),
            "ratios": [round(a / b, 2) for a, b in pairs],
            "break_even_num_envs": break_even(world, slow),
        }
    ]  # fmt: skip


def break_even(world: wmgym.WorldModel, real_rate: float) -> int | None:
    """Smallest number of imagined envs, in powers of two, that outruns MuJoCo on all cores."""
    for num_envs in (2**k for k in range(11)):
        env = wmgym.ImaginedVectorEnv(world, num_envs)
        env.reset(seed=0)
        actions = np.zeros((num_envs, 6), np.float32)
        repeats = max(20, 2_000 // num_envs)
        for _ in range(3):
            env.step(actions)
        began = time.perf_counter()
        for _ in range(repeats):
            env.step(actions)
        if repeats * num_envs / (time.perf_counter() - began) > real_rate:
            return num_envs
    return None


def gym_rate() -> float:
    env = wmgym.make_task("HalfCheetah-v5").make()
    env.reset(seed=0)
    action = np.zeros(6, np.float32)
    began = time.perf_counter()
    for _ in range(1_000):
        env.step(action)
    return 1_000 / (time.perf_counter() - began)


def coverage(seed: int) -> list[Row]:
    """The 90 % bound on held-out episodes: random actions and every policy of this seed's run."""
    torch.set_num_threads(1)
    folder = RUNS / "end_to_end" / f"HalfCheetah-v5-{seed}"
    policies: dict[str, Any] = {"random": None}
    for path in sorted(folder.glob("round-*/policy")):
        policies[path.parent.name] = wmgym.load_policy(path)
    if len(policies) == 1:
        raise SystemExit(
            f"coverage needs the policies of: python -m benchmarks end_to_end --only run --seed {seed}"
        )
    data = wmgym.collect("HalfCheetah-v5", policies, steps=240_000, seed=seed, noise=0.1)
    # Episodes are what varies: with 18 to calibrate on and 18 to test, the share itself moves by +-4 %.
    train, calib, test = data.split((0.15, 0.425, 0.425), seed=seed)
    world = wmgym.fit(train, wmgym.FitConfig(max_updates=1_500), seed=seed)
    world = wmgym.calibrate(world, calib, horizon=max(HORIZONS), seed=seed)
    assert world.calibration is not None
    starts = test.window_starts(max(HORIZONS))[:: max(HORIZONS) // 4]
    rows = []
    for propagation in PROPAGATIONS:
        errors = open_loop_errors(world, test, starts, max(HORIZONS), propagation, seed=seed + 1)
        for h, error in enumerate(errors, start=1):
            if h not in HORIZONS:
                continue
            inside = error <= world.calibration.half_width[propagation][h - 1]
            width = float(
                (world.calibration.half_width[propagation][h - 1] / world.calibration.data_std).mean()
            )
            each = [inside[test.episode[starts] == e].mean() for e in range(test.num_episodes)]
            rows.append(
                {
                    "section": "coverage", "env": "HalfCheetah-v5", "seed": seed,
                    "propagation": propagation, "h": h,
                    "coverage": float(inside.mean()), "mean_half_width_in_std": width, "windows": len(starts),
                    "episodes": [train.num_episodes, calib.num_episodes, test.num_episodes],
                    "episode_coverage_min_max": [float(min(each)), float(max(each))],
                }
            )  # fmt: skip
    return rows


def make_demo(seed: int) -> list[Row]:
    """``make demo`` in a fresh clone; packages come from pip's cache, as after a first download."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "wmgym"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        began = time.perf_counter()
        command = ["make", "demo", f"SEED={seed}"]
        done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True)
        wall = time.perf_counter() - began
        shown = done.stdout.partition("bin/wmgym run HalfCheetah-v5")[2]  # what comes before is pip's
        return [demo_row(clone / "runs" / "demo", seed, wall) | {"printed": shown}]


def quick_demo(seed: int) -> list[Row]:
    """The same in this checkout, from 1,500 real steps."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        config = recipes.recipe("HalfCheetah-v5", seed=seed, train={"steps": 1_500})
        run_module.run(config, folder, say=print)
        return [demo_row(Path(folder), seed, time.perf_counter() - began)]


def demo_row(out: Path, seed: int, wall: float) -> Row:
    """What a finished demo left in ``out``, after ``wall`` seconds in all."""
    report = wmgym.GapReport.load(out / "report.json")
    mine = report[wmgym.load_policy(out / "policy").name]
    ran = read(out / "run.json")
    learned, ledger = ran["config"]["train"]["steps"], ran["ledger"]
    return {
        "section": "demo", "env": report.env_id, "seed": seed, "wall_s": round(wall, 1),
        "run_wall_s": round(ledger["wall_s"], 1), "cpu_s": round(ledger["cpu_s"], 1),
        "real_steps": learned, "calibration_steps": ledger["real_steps"] - learned,
        "imagined_steps": ledger["imagined_steps"],
        "real_mean": mine.real_mean, "real_min": min(mine.real_returns),
        "real_median": float(np.median(mine.real_returns)), "real_interval": mine.real_interval,
        "real_returns": mine.real_returns, "imagined_mean": mine.imagined_mean,
        "imagined_interval": mine.imagined_interval, "coverage": mine.coverage,
    }  # fmt: skip


def suite() -> list[Row]:
    """The default test suite, its environment already installed."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=ROOT, capture_output=True, text=True)
    wall = time.perf_counter() - began
    last = done.stdout.strip().splitlines()[-1]
    return [{"section": "suite", "wall_s": round(wall, 1), "exit_code": done.returncode, "summary": last}]


def targets(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""

    def pick(section: str, env_id: str | None = None) -> list[Row]:
        return [r for r in rows if r["section"] == section and env_id in (None, r.get("env"))]

    found = []
    if demos := pick("demo"):
        returns, slowest = [r["real_mean"] for r in demos], max(r["wall_s"] for r in demos)
        found.append(
            target(f"make demo on a clean clone, after downloads, seeds {', '.join(map(str, DEMO_SEEDS))}",
                   "<= 7 minutes on 2 cores, mean real return >= 3,500 on each of 5 seeds; printed beside "
                   "imagined",
                   f"at most {slowest / 60:.1f} minutes; real {', '.join(f'{r:.0f}' for r in returns)}; "
                   f"imagined {', '.join(format(r['imagined_mean'], '.0f') for r in demos)}",
                   slowest <= 420 and min(returns) >= 3_500 and len(demos) == len(DEMO_SEEDS))
        )  # fmt: skip
    lines, sac = pick("run", "HalfCheetah-v5"), pick("sac", "HalfCheetah-v5")
    if lines:
        mean = np.mean([r["real_mean"] for r in lines])
        beside = f"; SB3 SAC {np.mean([r['real_mean'] for r in sac]):.0f}" if sac else ""
        found.append(
            target("HalfCheetah-v5, 10k real steps in all, SB3 SAC or PPO in imagination, unmodified, "
                   "3 seeds",
                   "mean real return >= 2,000, SB3 SAC given the same 10k real steps measured in the same "
                   "script",
                   f"{mean:.0f} ({', '.join(format(r['real_mean'], '.0f') for r in lines)}){beside}",
                   mean >= 2_000 and len(lines) == len(sac) == len(SEEDS)
                   and all(r["real_steps"] <= 10_000 for r in lines))
        )  # fmt: skip
    if poles := pick("run", "InvertedPendulum-v5"):
        found.append(
            target("InvertedPendulum-v5", "1,000 with <= 1,000 real steps, 3 seeds",
                   ", ".join(f"{r['real_mean']:.0f} after {r['real_steps']:.0f} steps" for r in poles),
                   len(poles) == len(SEEDS)
                   and all(r["real_mean"] >= 1_000 and r["real_steps"] <= 1_000 for r in poles))
        )  # fmt: skip
    for row in pick("throughput"):
        found.append(
            target("imagined steps/s of ImaginedVectorEnv at 1,024 envs, HalfCheetah, against mujoco.rollout "
                   "on both cores in one run", ">= 5x", f"{row['ratio']}x", row["ratio"] >= 5)
        )  # fmt: skip
    covered = pick("coverage")
    if covered:
        shares = [r["coverage"] for r in covered]
        found.append(
            target("90 % bound: coverage at h = 1, 8, 32 on held-out episodes", "87 to 93 %",
                   f"{100 * min(shares):.1f} to {100 * max(shares):.1f} % over {len(SEEDS)} seeds "
                   "and three propagations",
                   all(0.87 <= x <= 0.93 for x in shares))
        )  # fmt: skip
    for row in pick("suite"):
        found.append(
            target("default test suite", "<= 5 minutes",
                   f"{row['wall_s'] / 60:.1f} minutes, {row['summary']}",
                   row["wall_s"] <= 300 and row["exit_code"] == 0)
        )  # fmt: skip
    return found


BENCHMARK = Benchmark(
    units,
    targets,
    collects="runs the demo on five seeds, collects, fits, trains and scores three seeds a task in rounds,"
    " trains SAC in MuJoCo as often, and runs the test suite (--quick only times the shipped HalfCheetah"
    " world, or runs a short demo where --only demo asks for it)",
    envs=ENVS,
    seeds=SEEDS,
    arguments=arguments,
    threads=None,
)
