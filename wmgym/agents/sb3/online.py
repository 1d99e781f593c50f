"""Train DynaSAC in the real env as ``wmgym run`` does: told as it goes, policies of the way kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from wmgym.agents.config import TrainConfig
from wmgym.agents.sb3.dyna_sac import DynaSAC
from wmgym.agents.sb3.dyna_sac_data import StateReader
from wmgym.agents.sb3.export import to_policy
from wmgym.agents.sb3.train import check_agent, new_agent
from wmgym.io import artifacts
from wmgym.io.learning_log import LearningLog
from wmgym.io.progress import Advance, track
from wmgym.io.provenance import cpu_seconds
from wmgym.tasks.task import Task

POLICIES_KEPT = 10
"""One after every tenth of the real steps; the first ones may be missing, of before the agent learned."""

_AGENT, _SPENT = "agent.zip", "spent.json"
_STEPS_A_LINE = 1_000
_EPISODES = 5  # whose mean return a line names


def real_env(task: Task) -> VecEnv:
    """The env as ``DynaSAC`` takes it."""
    return DummyVecEnv([lambda: Monitor(StateReader(task.make(), task))])


def check(task: Task, config: TrainConfig) -> None:
    """Find out before any work whether DynaSAC can learn.

    Raises:
        ValueError: it refuses the env or the settings, or all of the steps are random.
    """
    with closing(real_env(task)) as env:
        check_agent(env, config)
    starts = config.hyperparameters.get("learning_starts") or 1
    if starts >= config.steps:
        raise ValueError(
            f"learning_starts={starts} random steps come first, so of {config.steps} real steps none is left "
            "to learn by; take more"
        )


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
    spent = {"wall_s": 0.0, "cpu_s": 0.0}
    with closing(real_env(task)) as env, track("learn", config.steps, show=progress) as advance:
        model: Any
        if begun := (out / _AGENT).exists():
            model = DynaSAC.load(out / _AGENT, env=env)
            spent = artifacts.read_json(out / _SPENT)
        else:
            model = new_agent(env, config, seed)
        advance(model.num_timesteps)
        log = LearningLog(out, "real_steps", model.num_timesteps)
        model.learn(
            max(0, config.steps - model.num_timesteps),
            callback=_Watch(config.steps, out, spent, advance, say, log),
            log_interval=None,
            reset_num_timesteps=not begun,
        )
        log.close()
    model.world.save(out / "world")
    return {"real_steps": model.num_timesteps, "imagined_steps": model.imagined_steps, **spent}


class _Watch(BaseCallback):
    """Tells how the training does, keeps policies and saves the agent, after its updates."""

    def __init__(
        self,
        steps: int,
        out: Path,
        spent: Mapping[str, float],
        advance: Advance,
        say: Callable[[str], None],
        log: LearningLog,
    ) -> None:
        super().__init__()
        self.steps, self.out, self.spent, self.advance, self.say = steps, out, spent, advance, say
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
                to_policy(model, name).save(self.out / "policies" / f"{self.num_timesteps:08d}")
        if (lines := self.num_timesteps // self.steps_a_line) > self.said:
            self.said = lines
            spent = {"wall_s": time.perf_counter() - self.wall, "cpu_s": cpu_seconds() - self.cpu}
            artifacts.write_json(self.out / _SPENT, {key: spent[key] + self.spent[key] for key in spent})
            self.log.add(numbers)
            model.save(self.out / _AGENT)
            self.say(f"{self.num_timesteps:,} of {self.steps:,} real steps: {line}")

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
