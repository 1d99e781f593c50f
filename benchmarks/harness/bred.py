"""Worlds fitted on to what learns in them, and real episodes of policies that were trained there alone."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback

import wmgym
from benchmarks.harness.results import RUNS
from benchmarks.harness.worlds import FIT, calibration_data, fit_of, once, played, pool_data
from wmgym.agents.config import TrainConfig
from wmgym.data.branch import record
from wmgym.data.joining import concat
from wmgym.data.policy import MLPPolicy
from wmgym.data.transitions import Transitions
from wmgym.io import artifacts
from wmgym.tasks.ground_truth import to_mujoco

ENV_KWARGS: dict[str, dict[str, Any]] = {
    "Ant-v5": {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0},
    "Humanoid-v5": {
        "include_cinert_in_observation": False, "include_cvel_in_observation": False,
        "include_qfrc_actuator_in_observation": False, "include_cfrc_ext_in_observation": False,
        "contact_cost_weight": 0,
    },
}  # fmt: skip
"""The 27 and 45 observations of the published curves, whose contact cost was zero as well."""
DISCOUNT = {"Swimmer-v5": 0.999}  # what a stroke is worth shows after hundreds of steps; not tuned
FIT_ON = dataclasses.replace(FIT, learning_rate=1e-3, max_updates=12_000, finetune_updates=0, rollout=8)
LONGER = {"Walker2d-v5": 16_000, "Hopper-v5": 16_000, "Ant-v5": 30_000}  # updates of a fit on
ROUNDS = 2  # after it
BRED_STEPS = {"Walker2d-v5": 16_000, "HalfCheetah-v5": 16_000}  # walking is learned late, cheating too
LEARNERS = {"HalfCheetah-v5": (103, 105, 106), "Walker2d-v5": (104, 105, 106), "Hopper-v5": (104, 106)}
"""Seeds of DynaSAC whose real steps worlds learn from; what those of other seeds come to can judge them."""
OTHER_LEARNERS = (104, 105, 106)
BRED_SEEDS = {"HalfCheetah-v5": (200, 201), "Hopper-v5": (200, 201), "Walker2d-v5": (200,)}
"""Of the policies that bounds are made of beside bystanders; Walker2d's take longer to train."""
BRED_SHARES = (0.25, 0.5, 1.0)  # of the training, after which each is kept

PIECE = 25  # steps


def learning_data(env_id: str) -> Transitions:
    """All real steps of trainings of DynaSAC, clumsy ones first, and of earlier rounds of ``improved``.

    The gaits of a pool are few and well practised. What learns through a world's gradients goes elsewhere.
    """

    def collect() -> Transitions:
        parts = []
        for seed in LEARNERS.get(env_id, OTHER_LEARNERS):
            env = gym.make(env_id, **ENV_KWARGS.get(env_id, {}))
            agent = wmgym.sb3.DynaSAC("MlpPolicy", env, seed=seed)
            parts.append(played_again(agent.learn(20_000).transitions(), env_id))
        for place in sorted((RUNS / "improved").glob(f"{env_id}*/round-*/*/manifest.json")):
            if artifacts.exists(place.parent, kind="transitions"):
                parts.append(Transitions.load(place.parent))
        return concat([dataclasses.replace(part, task=wmgym.make_task(env_id)) for part in parts])

    return once(f"data/{env_id}-learning", Transitions.load, collect)


def played_again(data: Transitions, env_id: str) -> Transitions:
    """The same actions from the same states, with what the env shows and pays as it is made by default.

    Played on from its start an episode would soon be another one, so the env is put back every few steps, and
    recorded from the second on: what it shows is in part of the step before.
    """
    if env_id not in ENV_KWARGS:
        return data
    task, parts = wmgym.make_task(env_id), list[Transitions]()
    with contextlib.closing(task.make()) as env:
        unwrapped: Any = env.unwrapped
        for first, steps in zip(data.first, data.lengths, strict=True):
            for at in range(first, first + steps - 1, PIECE):
                env.reset(seed=0)
                unwrapped.set_state(*to_mujoco(task, data.core[at].astype(float)))
                obs, _, terminated, *_ = env.step(data.action[at])
                if not terminated:
                    actions = data.action[at + 1 : min(at + PIECE, first + steps)]
                    parts.append(record(task, env, obs, actions))
    return concat(parts)


def improved(env_id: str) -> wmgym.WorldModel:
    """The world that ships, fitted on to what has learned in it, then in rounds to those that it breeds.

    Killed, it goes on. The last round's policy is a measurement and teaches nothing, as in ``wmgym.improve``.
    What comes out may ship; called again after that, it goes on from there.
    """
    before = wmgym.load(env_id)
    bred_data(env_id, before)
    bred = [Transitions.load(path) for path in sorted((RUNS / "data").glob(f"{env_id}-bred-*"))]
    new = concat([*bred, learning_data(env_id)])
    old = concat([pool_data(env_id), new])
    calib = calibration_data(env_id, 1, 1)

    def fit() -> wmgym.WorldModel:
        config = dataclasses.replace(FIT_ON, max_updates=LONGER.get(env_id, FIT_ON.max_updates))
        made = wmgym.fit(old, config, begin=before, newest=len(new), starts=before.starts)
        return wmgym.calibrate(made, calib, seed=0)

    world = once(f"worlds/{env_id}-after-{fit_of(before)}", wmgym.load, fit)
    done = wmgym.improve(
        world,
        RUNS / "improved" / f"{env_id}-{fit_of(before)}",
        old,
        calib=calib,
        rounds=ROUNDS,
        real_steps=20_000 * (ROUNDS + 1),
        max_gap=0.01,
        train=training(env_id),
        config=dataclasses.replace(FIT_ON, max_updates=8_000),
        say=lambda text: print(f"{env_id}: {text}", flush=True),
    )
    return done.world


def training(env_id: str) -> TrainConfig:
    """How a policy is bred in a world of this task."""
    discount = DISCOUNT.get(env_id, 0.995)
    return TrainConfig(
        "DynaSAC",
        steps=BRED_STEPS.get(env_id, 8_000),
        num_envs=16,
        hyperparameters={"gradient_steps": -1, "gamma": discount},
    )


def bred_data(env_id: str, world: wmgym.WorldModel) -> Transitions | None:
    """Whole real episodes of policies that were trained in this world, none of which teach it anything.

    A world's users ask what it says of such policies, and it errs more of them than of bystanders. None for
    tasks where both are alike or nobody has tried.
    """
    if env_id not in BRED_SEEDS:
        return None

    def collect() -> Transitions:
        policies: dict[str, MLPPolicy] = {}
        for seed in BRED_SEEDS[env_id]:
            config, keep = training(env_id), Snapshots(f"bred {seed}")
            keep.at = [round(share * config.steps) for share in BRED_SHARES]
            wmgym.train(world, config, seed=seed, callback=keep)
            policies |= keep.policies
        return played(env_id, policies, 4, 3, seed=83_000, copies_seed=84_000)

    return once(f"data/{env_id}-bred-{fit_of(world)}", Transitions.load, collect)


class Snapshots(BaseCallback):
    """Keeps the policy after some numbers of steps."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.at: list[int] = []
        self.policies: dict[str, MLPPolicy] = {}

    def _on_step(self) -> bool:
        while self.at and self.num_timesteps >= self.at[0]:
            name = f"{self.name} after {self.at.pop(0):,} steps"
            self.policies[name] = wmgym.sb3.to_policy(self.model, name)
        return True
