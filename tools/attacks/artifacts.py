"""Every kind of artifact, each field and each array changed in many ways, its hashes made to fit again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import safetensors.numpy
import torch
from stable_baselines3 import SAC

import wmgym
from tools.attacks import forge
from tools.attacks.accepted import FREE
from tools.attacks.harness import Attempt
from wmgym.agents.sb3.train import agent_arrays, load_agent
from wmgym.io import artifacts
from wmgym.io.schema import refusing

TINY = wmgym.FitConfig(members=2, width=8, depth=1, max_updates=5)


def attempts(rng: np.random.Generator, folder: Path, count: int) -> Iterator[Attempt]:
    """The sound ones first, then changes of all of them in random order."""
    sound = made(folder)
    every: list[Attempt] = []
    for kind, (home, load) in sound.items():
        yield Attempt(f"{kind}: unchanged", "unchanged", _accepts(load, home, kind), sound=True)
        every += _report(folder, kind, home, load) if kind == "report" else _changes(folder, kind, home, load)
    for index in rng.permutation(len(every))[:count]:
        yield every[index]


def made(folder: Path) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    """Small sound artifacts, kept for another child, and what reads them to the point of use."""
    home = folder / "sound"
    if not (home / "report.json").exists():
        _make(home)
    return {
        "world, known": (home / "pendulum", _use_world),
        "world, learned": (home / "cartpole", _use_world),
        "world, with feet": (home / "Hopper-v5", _use_world),
        "world, with readouts": (home / "Ant-v5", _use_world),
        "transitions": (home / "data", wmgym.Transitions.load),
        "transitions, discrete": (home / "cartpole-data", wmgym.Transitions.load),
        "policy": (home / "policy", _use_policy),
        "policy, discrete": (home / "cartpole-policy", _use_policy),
        "agent": (home / "agent", _use_agent),
        "report": (home / "report.json", wmgym.GapReport.load),
    }


def _make(home: Path) -> None:
    for shipped in ("Hopper-v5", "Ant-v5"):
        wmgym.load(shipped).save(home / shipped, half=True)  # as it is stored today
    for env_id, name in (("InvertedPendulum-v5", "pendulum"), ("CartPole-v1", "cartpole")):
        data = wmgym.collect(env_id, steps=300, seed=0, workers=1)
        train, calib = data.split((0.7, 0.3))
        world = wmgym.calibrate(wmgym.fit(train, TINY), calib, horizon=4)
        world.save(home / name)
        algorithm = "SAC" if name == "pendulum" else "PPO"
        short = {"n_steps": 8, "batch_size": 8} if algorithm == "PPO" else {}
        settings = wmgym.TrainConfig(
            algorithm, steps=8, num_envs=4, hyperparameters={"policy_kwargs": {"net_arch": [8]}, **short}
        )
        policy = wmgym.sb3.to_policy(wmgym.sb3.train(world, settings), name)
        if name == "pendulum":
            calib.save(home / "data")
            policy.save(home / "policy")
            agent = _agent()
            artifacts.write_directory(
                home / "agent", kind="agent", arrays=agent_arrays(agent), document={"seed": 0}
            )
            wmgym.score(world, {"a": policy}, 2).save(home / "report.json")
        else:
            calib.save(home / "cartpole-data")
            policy.save(home / "cartpole-policy")


def _agent() -> SAC:
    return SAC(
        "MlpPolicy",
        gym.make("InvertedPendulum-v5"),
        policy_kwargs={"net_arch": [8]},
        device="cpu",
        buffer_size=1,
    )


def _use_world(path: Path) -> Any:
    world = wmgym.load(path)
    env = wmgym.ImaginedVectorEnv(world, 2)
    obs, _ = env.reset(seed=0)
    first = getattr(env.single_action_space, "start", 0)
    action = np.full((2, *env.single_action_space.shape), first, env.single_action_space.dtype)
    after, reward, *_ = env.step(action)
    for array in (obs, after, reward):
        if not np.isfinite(array).all():
            raise FloatingPointError(f"an accepted world imagines {array}")
    return world


def _use_policy(path: Path) -> Any:
    policy = wmgym.load_policy(path)
    obs = np.zeros((2, policy.obs_dim), np.float32)
    for generator in (None, np.random.default_rng(0))[: 1 + policy.stochastic]:
        if not np.isfinite(policy(obs, generator)).all():
            raise FloatingPointError("an accepted policy acts with NaN")
    return policy


def _use_agent(path: Path) -> Any:
    arrays, _ = artifacts.read_directory(path, kind="agent")
    with refusing(str(path), "an agent", "train again"):  # as a run does
        load_agent(_agent(), arrays)


def _accepts(
    load: Callable[[Path], Any], home: Path, free: str, place: str = ""
) -> Callable[[], tuple[str, str] | None]:
    def act() -> tuple[str, str] | None:
        load(home)
        if not place or re.fullmatch(FREE.get(free, "(?!)"), place):
            return None
        return "accepted", place

    return act


def _changes(folder: Path, kind: str, home: Path, load: Callable[[Path], Any]) -> Iterator[Attempt]:
    stored, described = forge.read(home)
    document, arrays = json.loads(described), safetensors.numpy.load(stored)
    word = json.loads((home / "manifest.json").read_text())["kind"]
    target = folder / "changed"
    free = kind.partition(",")[0]

    def attempt(part: str, place: str, payloads: Callable[[], tuple[bytes, bytes]]) -> Attempt:
        def act() -> tuple[str, str] | None:
            forge.write(target, word, *payloads())
            return _accepts(load, target, free, place)()

        return Attempt(f"{kind}: {part}", place, act, named=str(target))

    for at in forge.places(document):
        for how, value in forge.mutations(forge.look(document, at)):
            if at or value is not forge.DELETE:
                yield attempt(
                    "document", f"{forge.dotted(at)}: {how}",
                    lambda at=at, value=value: (stored, forge.encode(forge.put(document, at, value))),
                )  # fmt: skip
    for name in arrays:
        for how in forge.array_changes(arrays[name]):
            yield attempt(
                "arrays", f"{name}: {how}",
                lambda name=name, how=how: (forge.changed_arrays(arrays, name, how), described),
            )  # fmt: skip
    for how, payload in forge.headers(stored):
        yield attempt("arrays", f"header: {how}", lambda payload=payload: (payload, described))
    for how, text in {
        "no JSON": b"{",
        "a list": b"[]",
        "no text": b"\xff",
        "nothing": b"",
        "twice": b'{"a":1,"a":2}',
    }.items():
        yield attempt("document", f"bytes: {how}", lambda text=text: (stored, text))


def _report(folder: Path, kind: str, home: Path, load: Callable[[Path], Any]) -> Iterator[Attempt]:
    document, target = json.loads(home.read_text()), folder / "changed.json"

    def attempt(place: str, text: Callable[[], bytes]) -> Attempt:
        def act() -> tuple[str, str] | None:
            target.write_bytes(text())
            return _accepts(load, target, kind, place)()

        return Attempt(f"{kind}: document", place, act, named=str(target))

    for at in forge.places(document):
        for how, value in forge.mutations(forge.look(document, at)):
            if at or value is not forge.DELETE:
                yield attempt(
                    f"{forge.dotted(at)}: {how}",
                    lambda at=at, value=value: forge.encode(forge.put(document, at, value)),
                )


torch.set_num_threads(1)
