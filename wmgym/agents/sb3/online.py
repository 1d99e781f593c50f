"""Train DynaSAC in the real env as ``wmgym run`` does: told as it goes, policies of the way kept."""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from wmgym.agents.config import TrainConfig
from wmgym.agents.sb3.dyna_sac import DynaSAC
from wmgym.agents.sb3.dyna_sac_data import StateReader
from wmgym.agents.sb3.export import to_policy
from wmgym.agents.sb3.train import check_agent, new_agent
from wmgym.agents.sb3.trial import try_online
from wmgym.io import artifacts, files
from wmgym.io.artifacts import StoreError
from wmgym.io.learning_log import LearningLog
from wmgym.io.progress import Advance, track
from wmgym.io.provenance import cpu_seconds
from wmgym.io.schema import Record, from_json, refusing
from wmgym.tasks.task import Task

POLICIES_KEPT = 10
"""One after every tenth of the real steps; the first ones may be missing, of before the agent learned."""

_AGENT, _SPENT = "agent.zip", "spent.json"
_STEPS_A_LINE = 1_000
_EPISODES = 5  # whose mean return a line names


def real_env(task: Task, env: gym.Env[Any, Any] | None = None) -> VecEnv:
    """An env as ``DynaSAC`` takes it; None makes the task's."""
    return DummyVecEnv([lambda: Monitor(StateReader(env or task.make(), task))])


def check(task: Task, config: TrainConfig) -> None:
    """Find out before any work whether DynaSAC can learn.

    Raises:
        ValueError: it refuses the env or the settings, or all of the steps are random.
    """
    with closing(real_env(task)) as env:
        check_agent(env, config)
    starts = config.hyperparameters.get("learning_starts") or 1
    if not isinstance(starts, int) or starts < 1:
        raise ValueError(f"learning_starts has to be a whole number above 0, got {starts!r}")
    if starts >= config.steps:
        raise ValueError(
            f"learning_starts={starts} random steps come first, so of {config.steps} real steps none is left "
            "to learn by; take more"
        )
    try_online(task, config, lambda still: real_env(task, still))


def learn(
    task: Task,
    config: TrainConfig,
    seed: int,
    out: Path,
    *,
    progress: bool,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Train DynaSAC; leaves ``out/world`` and, named by their real steps, ``out/policies``.

    Every 1,000 real steps, or after each tenth of them where that is sooner, the agent is saved as
    ``out/agent.zip`` and ``out/learning.json`` gets a row. Called again, it goes on from there, and ends with
    the same world and policies.

    Args:
        task: the real env.
        config: its ``steps`` are real.
        seed: decides everything random.
        out: the directory to write.
        progress: show a bar on a terminal.
        say: called with a line of text whenever the agent is saved.

    Returns:
        Real and imagined steps, and what earlier calls have cost until they last saved the agent, ``wall_s``
        and ``cpu_s``.
    """
    saved = _Saved(spent={"wall_s": 0.0, "cpu_s": 0.0}, policies={})
    with closing(real_env(task)) as env, track("learn", config.steps, show=progress) as advance:
        model: Any
        if begun := (out / _AGENT).exists():
            saved = _read_saved(out)
            model = DynaSAC.load(out / _AGENT, env=env)
        else:
            model = new_agent(env, config, seed)
        advance(model.num_timesteps)
        log = LearningLog(out, "real_steps", model.num_timesteps)
        watch = _Watch(config.steps, out, saved, advance, say, log)
        model.learn(
            max(0, config.steps - model.num_timesteps),
            callback=watch,
            log_interval=None,
            reset_num_timesteps=not begun,
        )
        log.close()
    for policy in (out / "policies").iterdir():
        if policy.name not in watch.policies:
            raise StoreError(f"{policy} is not of this run; move it out of the way and run again")
    model.world.save(out / "world")
    return {"real_steps": model.num_timesteps, "imagined_steps": model.imagined_steps, **saved.spent}


class _Saved(Record):
    """What goes with a saved agent.

    Attributes:
        spent: what it has cost, ``wall_s`` and ``cpu_s``.
        policies: SHA-256 of the policies kept by then, by name.
    """

    spent: dict[str, float]
    policies: dict[str, str]


class _Agents(Record):
    """``spent.json``: what goes with the agent by the SHA-256 of its file, and with the one saved before.

    It is written first, so that whichever of the two files a crash leaves is known.
    """

    agents: dict[str, _Saved]


def _read_saved(out: Path) -> _Saved:
    """What goes with ``out``'s agent.

    Raises:
        StoreError: it is not the one that was saved here, or a policy is gone or has changed.
    """
    again = f"remove {out} to learn again"
    agents: _Agents
    with refusing(str(out / _SPENT), "what a training leaves", again):
        agents = from_json(_Agents, artifacts.read_json(out / _SPENT))
    saved = agents.agents.get(artifacts.digest(out / _AGENT))
    if saved is None:
        raise StoreError(f"{out / _AGENT} is not what this run saved; {again}")
    for name, digest in saved.policies.items():
        with refusing(str(out / "policies" / name), "a policy", again):
            if artifacts.digest(out / "policies" / name) != digest:
                raise ValueError("it is not what this run saved")
    return saved


class _Watch(BaseCallback):
    """Tells how the training does, keeps policies and saves the agent, after its updates."""

    def __init__(
        self,
        steps: int,
        out: Path,
        saved: _Saved,
        advance: Advance,
        say: Callable[[str], None],
        log: LearningLog,
    ) -> None:
        super().__init__()
        self.steps, self.out, self.before, self.advance, self.say = steps, out, saved, advance, say
        self.policies, self.newest = dict(saved.policies), dict[str, Any]()
        if (out / _AGENT).exists():
            self.newest = {artifacts.digest(out / _AGENT): saved.model_dump()}
        self.log = log
        self.wall, self.cpu = time.perf_counter(), cpu_seconds()
        self.steps_a_line = min(_STEPS_A_LINE, -(-steps // POLICIES_KEPT))
        self.began: tuple[float, int] | None = None

    def _on_training_start(self) -> None:
        self.began = time.perf_counter(), self.num_timesteps
        self.said = self.num_timesteps // self.steps_a_line
        self.kept = self.num_timesteps * POLICIES_KEPT // self.steps

    def _on_step(self) -> bool:
        self.advance(1)
        return True

    def _on_rollout_start(self) -> None:
        self._look()

    def _on_training_end(self) -> None:
        self._look()

    def _look(self) -> None:
        model: Any = self.model
        numbers = self._numbers()
        line = self._line(numbers)
        self.advance(0, line)
        if (tenths := self.num_timesteps * POLICIES_KEPT // self.steps) > self.kept:
            self.kept = tenths
            if model.world is not None:
                name = f"DynaSAC after {self.num_timesteps:,} real steps"
                path = self.out / "policies" / f"{self.num_timesteps:08d}"
                self.policies[path.name] = artifacts.digest(to_policy(model, name).save(path))
        if (lines := self.num_timesteps // self.steps_a_line) > self.said:
            self.said = lines
            self.log.add(numbers)
            self._save(model)
            self.say(f"{self.num_timesteps:,} of {self.steps:,} real steps: {line}")

    def _save(self, model: Any) -> None:
        file = io.BytesIO()
        model.save(file)
        agent, name = file.getvalue(), hashlib.sha256(file.getbuffer()).hexdigest()
        spent = {"wall_s": time.perf_counter() - self.wall, "cpu_s": cpu_seconds() - self.cpu}
        now = {key: value + self.before.spent[key] for key, value in spent.items()}
        newest = {name: {"spent": now, "policies": dict(self.policies)}}
        artifacts.write_json(self.out / _SPENT, {"agents": {**self.newest, **newest}})
        with files.write_errors(self.out / _AGENT), files.writing(self.out) as replace:
            replace(_AGENT, agent)
        self.newest = newest

    def _numbers(self) -> dict[str, float]:
        """What is known by now: of the last real episodes, the last real steps and the world."""
        model: Any = self.model
        seen = model.logger.name_to_value
        found = {"real_steps": float(self.num_timesteps), "imagined_steps": float(model.imagined_steps)}
        episodes = list(model.ep_info_buffer or ())[-_EPISODES:]
        if episodes:
            found["return"], found["length"] = (
                float(sum(each[key] for each in episodes) / len(episodes)) for key in "rl"
            )
        for name in ("real_reward", "imagined_reward", "held_out_error"):
            if math.isfinite(value := seen.get(f"world/{name}", math.nan)):
                found[name] = float(value)
        return found

    def _line(self, numbers: Mapping[str, float]) -> str:
        parts = []
        if "return" in numbers:
            parts.append(f"return {numbers['return']:,.0f} in {numbers['length']:,.0f} steps")
        if "real_reward" in numbers and "imagined_reward" in numbers:
            paid, said = numbers["real_reward"], numbers["imagined_reward"]
            parts.append(f"reward a step {paid:.2f} real, {said:.2f} imagined")
        if "held_out_error" in numbers:
            parts.append(f"model error {numbers['held_out_error']:.3f} std")
        if self.model.world is not None and self.began is not None:  # type: ignore[attr-defined]
            elapsed, done = time.perf_counter() - self.began[0], self.num_timesteps - self.began[1]
            if done:
                parts.append(f"{elapsed / done * (self.steps - self.num_timesteps) / 60:.1f} minutes left")
        return "; ".join(parts)
