"""Does a world notice that the robot in front of it is no longer the one it was fitted to?

Held-out policies drive the real env as it is, and changed; windows of 32 steps are told apart by one number
each. "surprise", "gain", "direction" and "impulse" are those of ``wmgym.calibration.shift_detection.signs``.
Baselines: the number of steps so far, the members' disagreement, the distance to the nearest real state,
random network distillation (arXiv:1810.12894) on the training data, and MuJoCo itself as the model, with
0.001 sigma noise on the state that it is given.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import torch

import wmgym
from benchmarks.harness.metrics import auroc, core_error, spread
from benchmarks.harness.results import Row, target
from benchmarks.harness.runner import Benchmark, per_env
from benchmarks.harness.worlds import LARGE, STEPS, Setup, policies
from wmgym.calibration import shift_detection
from wmgym.data.joining import concat
from wmgym.data.transitions import Transitions
from wmgym.models.coordinates import Coordinates
from wmgym.models.support import SEARCHED, Search
from wmgym.models.training_loop import encoded_actions

LENGTH, MOST = 32, 40  # steps a window; windows a policy
NOISE = "MuJoCo with 0.001 sigma state noise"
SHIFTS = {
    "mass +50 %": "strong", "friction x0.3": "strong", "push 0.5 m/s": "strong", "action x1.5": "strong",
    "mass +10 %": "mild", "friction x0.8": "mild",
}  # fmt: skip


class Pushed(gym.Wrapper[Any, Any, Any, Any]):
    """The root is pushed by half a metre a second, forwards or back, once in every 32 steps."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.count, self.rng = 0, np.random.default_rng(0)

    def reset(self, **kwargs: Any) -> Any:
        self.count = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        if self.count % LENGTH == LENGTH // 2:
            self.unwrapped.data.qvel[0] += 0.5 * self.rng.choice([-1, 1])  # type: ignore[attr-defined]
        self.count += 1
        return self.env.step(action)


def changed(env_id: str, shift: str | None) -> gym.Env[Any, Any]:
    """The real env with a changed robot or floor."""
    env = gym.make(env_id)
    model, data = env.unwrapped.model, env.unwrapped.data  # type: ignore[attr-defined]
    if shift in ("mass +50 %", "mass +10 %"):
        factor = 1.5 if shift == "mass +50 %" else 1.1
        model.body_mass[:] *= factor
        model.body_inertia[:] *= factor
        mujoco.mj_setConst(model, data)
    elif shift in ("friction x0.3", "friction x0.8"):
        model.geom_friction[:] *= 0.3 if shift == "friction x0.3" else 0.8
    elif shift == "action x1.5":  # the actuators', since the env clips actions
        model.actuator_gear[:] *= 1.5
    elif shift == "push 0.5 m/s":
        return Pushed(env)
    return env


def windows(
    env_id: str, shift: str | None, episodes: int, role: str = "held-out", seed: int = 0
) -> tuple[Transitions, np.ndarray]:
    """Real episodes, and the rows ``(windows, 32)`` of their windows, as many of each policy."""
    task = dataclasses.replace(wmgym.make_task(env_id), factory=lambda: changed(env_id, shift))
    parts, rows, offset = [], [], 0
    for index, (name, policy) in enumerate(policies(env_id, role).items()):
        data = wmgym.collect(task, {name: policy}, episodes=episodes, seed=seed + 100 * index, workers=1)
        starts = np.concatenate(
            [np.arange(a, a + n - LENGTH + 1, LENGTH) for a, n in zip(data.first, data.lengths, strict=True)]
        )
        if len(starts) > MOST:
            starts = np.random.default_rng(index).choice(starts, size=MOST, replace=False)
        rows.append(offset + starts[:, None] + np.arange(LENGTH))
        offset += len(data)
        parts.append(dataclasses.replace(data, task=wmgym.make_task(env_id)))
    return concat(parts), np.concatenate(rows)


class Distillation:
    """Random network distillation on the states and actions of the fit."""

    def __init__(self, train: Transitions) -> None:
        self.coordinates = Coordinates(train.task.core.geometry)
        inputs = self.inputs(train)
        self.mean, self.std = inputs.mean(0), inputs.std(0).clamp(min=1e-6)
        torch.manual_seed(0)
        size = inputs.shape[1]
        self.random, self.student = (
            torch.nn.Sequential(
                torch.nn.Linear(size, 128), torch.nn.SiLU(), torch.nn.Linear(128, 128), torch.nn.SiLU(),
                torch.nn.Linear(128, 32),
            )
            for _ in range(2)
        )  # fmt: skip
        optimizer = torch.optim.Adam(self.student.parameters(), 1e-3)
        for _ in range(3_000):
            x = (inputs[torch.randint(len(inputs), (256,))] - self.mean) / self.std
            loss = (self.student(x) - self.random(x).detach()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def inputs(self, data: Transitions) -> torch.Tensor:
        features = self.coordinates.features(torch.tensor(data.core))
        return torch.cat([features, encoded_actions(data)], 1)

    @torch.no_grad()
    def __call__(self, data: Transitions) -> np.ndarray:
        x = (self.inputs(data) - self.mean) / self.std
        found: np.ndarray = (self.student(x) - self.random(x)).square().mean(1).numpy()
        return found


class Exact:
    """Surprise of MuJoCo's own robot, unchanged, whose state is known to 1e-3 standard deviations."""

    def __init__(self, env_id: str, train: Transitions) -> None:
        self.task, self.env = wmgym.make_task(env_id), gym.make(env_id)
        self.env.reset(seed=0)
        self.noise, self.rng = 1e-3 * spread(train), np.random.default_rng(0)
        # What that noise makes of the next state, by dimension.
        rows = self.rng.choice(len(train), 1_000, replace=False)
        apart = [self.next(train.core[i], train.action[i]) - self.next(train.core[i], train.action[i])
                 for i in rows]  # fmt: skip
        self.scale = np.median(np.abs(apart), axis=0) + 1e-9

    def next(self, core: np.ndarray, action: np.ndarray) -> np.ndarray:
        env: Any = self.env.unwrapped
        noisy = core + self.noise * self.rng.standard_normal(len(core))
        qpos, qvel = self.task.core.to_mujoco(noisy)  # type: ignore[misc]
        env.set_state(qpos, qvel)
        env.do_simulation(action, env.frame_skip)
        return np.asarray(self.task.core.from_mujoco(env.data.qpos, env.data.qvel))  # type: ignore[misc]

    def __call__(self, data: Transitions, rows: np.ndarray) -> np.ndarray:
        used, at = np.unique(rows, return_inverse=True)
        expected = np.array([self.next(data.core[i], data.action[i]) for i in used])
        z = core_error(self.task, expected, data.next_core[used].astype(np.float64)) / self.scale
        found: np.ndarray = np.log1p(z**2).mean(1)[at.reshape(rows.shape)].mean(1)
        return found


def measure(env_id: str, setup: Setup) -> list[Row]:
    world, train, episodes = setup.calibrated(env_id), setup.train(env_id), setup.size(4, 1)
    distilled, exact = Distillation(train), Exact(env_id, train)

    def scores(data: Transitions, rows: np.ndarray) -> dict[str, np.ndarray]:
        step = np.arange(len(data)) - data.first[data.episode]
        with torch.no_grad():
            action = world.encode_action(torch.tensor(data.action))
            said = world.dynamics.predict(torch.tensor(data.core), action).mean
        unit = world.dynamics.target_std  # type: ignore[attr-defined]
        apart = (said.std(0) / unit).mean(1).numpy()
        single = {
            "step index": step.astype(float), "disagreement": apart,
            "nearest real state": world.novelty(torch.tensor(data.core)).numpy(),
            "random network distillation": distilled(data),
        }  # fmt: skip
        return {
            **dataclasses.asdict(shift_detection.signs(world, data, rows)),
            **{name: values[rows].mean(1) for name, values in single.items()},
            NOISE: exact(data, rows),
        }

    unshifted = scores(*windows(env_id, None, episodes))
    found: list[Row] = []
    for shift, kind in SHIFTS.items():
        found += compare(
            env_id, shift, kind, unshifted, scores(*windows(env_id, shift, episodes, seed=7_000))
        )
    known = scores(*windows(env_id, None, episodes, role="fit"))
    found += compare(env_id, "unseen policies", "policy", known, unshifted)
    return [*found, *searches(env_id, world)]


def compare(
    env_id: str, shift: str, kind: str, unshifted: dict[str, np.ndarray], other: dict[str, np.ndarray]
) -> list[Row]:
    rows: list[Row] = []
    for name in unshifted:
        both = np.concatenate([unshifted[name], other[name]])
        label = np.arange(len(both)) >= len(unshifted[name])
        rows.append(
            {
                "section": "shift", "env": env_id, "shift": shift, "kind": kind, "score": name,
                "auroc": auroc(both, label), "unshifted": len(unshifted[name]), "shifted": len(other[name]),
            }
        )  # fmt: skip
    return rows


def searches(env_id: str, world: wmgym.WorldModel, queries: int = 1_024) -> list[Row]:
    """Nearest of the searched rows for 1,024 states, by libraries and by one matrix product."""
    support = world.support
    assert support is not None
    search = Search(support, world.coordinates)
    core = torch.tensor(support.core[-queries:])
    features = world.coordinates.features(torch.tensor(support.core)).numpy()
    features = np.ascontiguousarray(features / np.maximum(features.std(0), 1e-3))
    bank, x = features[:SEARCHED], features[-queries:]
    exact = search.distance(core, SEARCHED).argmin(1).numpy()
    ways: dict[str, Any] = {"matrix product": lambda: search.distance(core, SEARCHED).min(1)[1].numpy()}
    try:
        from sklearn.neighbors import NearestNeighbors

        for algorithm in ("brute", "kd_tree", "ball_tree"):
            index = NearestNeighbors(n_neighbors=1, algorithm=algorithm).fit(bank)
            ways[f"scikit-learn, {algorithm}"] = lambda i=index: i.kneighbors(x, return_distance=False)[:, 0]
    except ImportError:
        print("scikit-learn is not installed: left out")
    try:
        import faiss

        flat = faiss.IndexFlatL2(bank.shape[1])
        flat.add(bank)
        ways["faiss, flat"] = lambda: flat.search(x, 1)[1][:, 0]
    except ImportError:
        print("faiss is not installed: left out")
    try:
        import hnswlib

        graph = hnswlib.Index("l2", bank.shape[1])
        graph.init_index(len(bank))
        graph.add_items(bank)
        ways["hnswlib"] = lambda: graph.knn_query(x, 1)[0][:, 0]
    except ImportError:
        print("hnswlib is not installed: left out")
    rows: list[Row] = []
    for name, answers in ways.items():
        answers()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            answer = answers()
            times.append(time.perf_counter() - began)
        same = float((np.asarray(answer) == exact).mean())
        rows.append(
            {
                "section": "search",
                "env": env_id,
                "method": name,
                "ms": float(np.median(times)) * 1e3,
                "recall": same,
            }
        )
    return rows


def goals(rows: list[Row]) -> list[Row]:
    """The targets beside what was measured."""
    shifts = [r for r in rows if r["section"] == "shift" and r["env"] in LARGE]
    envs = [e for e in LARGE if any(r["env"] == e for r in shifts)]
    found = []
    for kind, least in (("strong", 0.95), ("mild", 0.8)):
        chosen = [r for r in shifts if r["kind"] == kind and r["score"] == best_for(r["shift"])]
        mine = {e: [round(r["auroc"], 3) for r in chosen if r["env"] == e] for e in envs}
        named = ", ".join(dict.fromkeys(r["shift"] for r in chosen))
        met = len(envs) == len(LARGE) and min(r["auroc"] for r in chosen) >= least
        found.append(
            target(f"AUROC, shifted against unshifted, 32-step windows: {named}", f">= {least}",
                   mine, met)
        )  # fmt: skip
    chosen = [r for r in shifts if r["kind"] in ("strong", "mild") and r["score"] == NOISE]
    mine = {e: [round(r["auroc"], 3) for r in chosen if r["env"] == e] for e in envs}
    found.append(
        target(f"AUROC, all six shifts, 32-step windows: {NOISE} as the model", "none set", mine, True)
    )
    others = [r for r in shifts if r["kind"] == "policy"]
    scores = [*dict.fromkeys(r["score"] for r in others)]
    said = {e: [round(r["auroc"], 3) for r in others if r["env"] == e] for e in envs}
    what = f"AUROC, unseen policies against those of the fit, 32-step windows: {', '.join(scores)}"
    return [*found, target(what, "none set", said, True)]


def best_for(shift: str) -> str:
    """The sign that a kind of change has."""
    if "push" in shift:
        return "impulse"
    return "direction" if "friction" in shift else "gain"


BENCHMARK = Benchmark(
    per_env(measure),
    goals,
    collects="drives MuJoCo, as it is and changed in six ways, with every held-out policy; with --fit it"
    f" first collects {STEPS:,} transitions for each task and fits a world to them",
    envs=LARGE,
    fits=True,
)
