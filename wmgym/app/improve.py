"""Rounds that make a world know the policies that are trained in it: train there, play in reality, refit."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, fields, replace

from gymnasium import spaces

from wmgym.agents.config import TrainConfig
from wmgym.app.improve_conclusion import Bred
from wmgym.app.improve_play import LEAST
from wmgym.app.improve_rounds import Rounds
from wmgym.calibration.calibrate import keywords
from wmgym.data.layouts import laid_out
from wmgym.data.policy import MLPPolicy
from wmgym.data.transitions import Transitions
from wmgym.io import files, locks
from wmgym.io.arguments import instance, number, short, whole_number
from wmgym.models import saving, warm_start
from wmgym.models.config import FitConfig
from wmgym.models.world import WorldModel
from wmgym.tasks.real_env import bare

REFIT = FitConfig(
    learning_rate=1e-3, layer_norm=False, max_updates=6_000, eval_every=200, patience=15, rollout=8
)
"""A refit, from where the weights are, to the old and the new transitions together."""
GENTLE = replace(REFIT, learning_rate=3e-4, batch_size=128, max_updates=200, eval_every=50, patience=4)
"""A refit to the new transitions alone: more would forget what the old ones taught."""


@dataclass(frozen=True)
class ImproveResult:
    """What ``improve`` leaves behind.

    Attributes:
        world: the last one, calibrated on episodes that no fit saw.
        policy: of those trained on the way, the best in reality.
        rounds: the policy of each round; the last one tells what the world is worth.
        ledger: real and imagined steps, wall-clock and CPU seconds.
        random: mean real return of random actions.
        conclusion: what came of it, and what to do next.
        data: all that ``world`` was fitted to, to go on with; None where none were given and no refit made.
    """

    world: WorldModel
    policy: MLPPolicy
    rounds: tuple[Bred, ...]
    ledger: dict[str, float]
    random: float
    conclusion: str
    data: Transitions | None


def improve(
    world: WorldModel | str | os.PathLike[str],
    out: str | os.PathLike[str],
    data: Transitions | None = None,
    *,
    calib: Transitions | None = None,
    rounds: int = 3,
    real_steps: int = 40_000,
    max_gap: float = 0.05,
    train: TrainConfig | None = None,
    config: FitConfig | None = None,
    seed: int = 0,
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> ImproveResult:
    """Make a world true where policies trained in it go (Ross & Bagnell 2012, arXiv:1203.1007).

    Each round trains a fresh policy in the world alone, plays it in the real env, and compares its real
    return with the imagined one. Where they differ by more than ``max_gap``, its episodes join the data, the
    world's weights are fitted on, and its bounds are made anew; the next round does the same in the new
    world. So do short real episodes from states that the policy came to in the world alone, where the env is
    one of Gymnasium's on MuJoCo, which can be put there. The last round only measures: nothing of its policy
    is learned from.

    Leaves in ``out``: ``world/``, ``policy/``, ``data/`` to go on with, ``improve.json``, ``run.json``, and a
    directory for each round. Killed anywhere, the same call goes on.

    Args:
        world: a world with a real env, the directory of a saved one, or the id of one that ships.
        out: the directory to write.
        data: real transitions that the world was fitted to. Without them the refits are few and gentle, so
            that the world does not forget, and help less.
        calib: real episodes for the bounds beside a third of the new ones; policies that no fit saw.
        rounds: refits at most; one more policy is trained than there are refits.
        real_steps: real steps of all rounds and of the random policy that anchors the gap.
        max_gap: stop where a fresh policy's gap is within this share of the range of returns.
        train: how policies are trained; what it leaves open is as usual: DynaSAC for Box actions, SAC where
            observations are Dict as well, PPO for Discrete ones.
        config: how the weights are fitted on; its architecture is the world's. None takes ``REFIT``, or
            ``GENTLE`` without ``data``.
        seed: decides everything random.
        progress: show bars on a terminal.
        say: called with a line after each round.

    Raises:
        ValueError: a world without a real env or a time limit, data of another task or that are imagined, a
            budget too small for two whole episodes a round, settings that the agent refuses, or ``out`` holds
            work with other settings; all before any work.
        StoreError: ``out`` cannot be written, or another ``improve`` is at work there.
    """
    path = files.as_path(out)
    if not isinstance(world, WorldModel) and files.as_path(world).resolve().is_relative_to(path.resolve()):
        raise ValueError(f"{world} lies in {out}, where the improved one will; choose another --out")
    source = world if isinstance(world, WorldModel) else saving.load(world)
    config = (GENTLE if data is None else REFIT) if config is None else config
    if train is not None:
        instance("train", train, TrainConfig, "such as TrainConfig('SAC', steps=50_000)")
    train = _filled(train, source)
    if not callable(say):
        raise TypeError(f"say must be a function of a line, such as print, got {short(say)}; or leave it out")
    instance("config", config, FitConfig, "such as wmgym.FitConfig(max_updates=2_000)")
    rounds, real_steps = whole_number("rounds", rounds), whole_number("real_steps", real_steps)
    max_gap, seed = number("max_gap", max_gap), whole_number("seed", seed, least=0)
    if not max_gap > 0:
        raise ValueError(f"max_gap must be above 0, got {max_gap}")
    limit = _check(source, data, calib, rounds, real_steps, train.max_episode_steps)
    work = Rounds(
        source, path, data, calib, rounds, real_steps, max_gap, train, config, seed, limit, progress
    )
    with locks.alone(path, "improve"):
        work.begin()
        for index in range(rounds + 1):
            bred = work.round(index, last=index == rounds)
            gap = f"{bred.gap:+.1%} of the range"
            bounds = "" if bred.coverage is None else f", bounds hold {bred.coverage:.0%}"
            say(f"{bred.policy}: {bred.real:,.1f} real, {bred.imagined:,.1f} imagined, {gap}{bounds}")
            if not bred.learned:
                break
        policy, said, known = work.finish()
    say(said)
    return ImproveResult(
        work.world,
        policy,
        tuple(work.bred),
        work.stages.ledger,
        float(work.random.mean()),
        said,
        known,
    )


def training(
    world: WorldModel, algorithm: str | None = None, steps: int | None = None, limit: int | None = None
) -> TrainConfig:
    """How ``improve`` trains a policy unless it is told otherwise."""
    plain = world.task.dict_space is None
    usual = ("DynaSAC" if plain else "SAC") if isinstance(world.task.action_space, spaces.Box) else "PPO"
    name = algorithm or usual
    online, some = name == "DynaSAC", {"DynaSAC": 5_000, "PPO": 200_000, "A2C": 200_000}.get(name, 50_000)
    return TrainConfig(
        name,
        steps=steps or some,
        num_envs=16,
        max_episode_steps=limit,
        hyperparameters={"gradient_steps": -1} if online else {},
    )


def _filled(train: TrainConfig | None, world: WorldModel) -> TrainConfig:
    """The training with what it leaves open as ``improve`` has it."""
    if train is None or train.algorithm is not None:
        return train or training(world)
    usual, plain = training(world), TrainConfig()
    own = {each.name: getattr(train, each.name) for each in fields(train)}
    own = {name: value for name, value in own.items() if value != getattr(plain, name)}
    hyperparameters = {**usual.hyperparameters, **train.hyperparameters}
    return replace(usual, **{**own, "hyperparameters": hyperparameters})


def _check(
    world: WorldModel,
    data: Transitions | None,
    calib: Transitions | None,
    rounds: int,
    real_steps: int,
    limit: int | None,
) -> int:
    """The time limit of an episode; refuses what would fail after an hour."""
    if not world.task.has_env:
        raise ValueError(
            "this world has no real env to play its policies in; name it where the data are read, from_log("
            "..., task=make_task(env)), or where the world is, load(path, task=task); without one, wmgym.fit("
            "more_data, begin=world) goes on"
        )
    limits = [each for each in (limit, world.task.max_episode_steps) if each]
    if not limits:
        raise ValueError(
            f"{world.task.env_id or 'the env of this world'} has no time limit; pass train=TrainConfig("
            "max_episode_steps=...), --max-episode-steps on the command line"
        )
    steps = min(limits)
    least = 2 * LEAST * steps * (rounds + 1) + LEAST * steps
    if real_steps < least:
        raise ValueError(
            f"{real_steps} real steps are too few for {rounds + 1} policies of {LEAST} whole episodes of "
            f"{steps} steps, as many with noise and {LEAST} of random actions; take at least {least}"
            f"{', fewer rounds' * (rounds > 1)} or shorter episodes (max_episode_steps of train)"
        )
    with closing(world.task.make()) as env:
        if getattr(env.unwrapped, "imagined", False):
            raise ValueError(
                f"{world.task.env_id or 'the env of this world'} is imagined itself, and policies are judged "
                "in a real env; take a world that is fitted to data of one"
            )
    warm_start.kind(world, world.task)  # refuses dynamics that no fit goes on from
    for name, part in (("data", data), ("calib", calib)):
        if part is None:
            continue
        instance(name, part, Transitions, "read them with wmgym.Transitions.load")
        if part.source != "real":
            raise ValueError("these transitions are imagined; a world learns from real ones alone")
        if bare(part.task.env_id) != bare(world.task.env_id):
            other = part.task.env_id or "an env without an id, or a log"
            raise ValueError(f"the data are of {other}, the world of {world.task.env_id or 'an own env'}")
        if (theirs := keywords(part.task)) != (ours := keywords(world.task)):
            raise ValueError(f"{name} are of {part.task.env_id} with {theirs}, the world of one with {ours}")
        warm_start.kind(world, laid_out(part, world.task).task)  # refuses what it cannot learn on from
        if world.task.reward is None and part.reward is None:
            raise ValueError(f"{name} has no reward, which this world has learned from data; record it")
    known = {*world.provenance.fingerprints, *([] if data is None else data.fingerprints())}
    new = {*calib.fingerprints()} if calib is not None else set()
    if calib is not None and known & new and not (calib.countable and not new <= known):
        raise ValueError("some of calib's episodes are among those that the world was fitted to; pass others")
    return steps
