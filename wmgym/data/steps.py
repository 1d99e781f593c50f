"""Steps of a real env with the state behind them, and the transitions that whole episodes of them make."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from wmgym.data.columns import in_float32
from wmgym.data.logs import assembled
from wmgym.data.transitions import Transitions
from wmgym.tasks.task import Task


class Step(NamedTuple):
    """One step of a real env; or, of a whole episode, a column ``(steps, ...)`` of each."""

    obs: Any
    action: Any
    reward: Any
    next_obs: Any
    terminated: Any
    truncated: Any
    core: Any
    next_core: Any
    unobserved: Any


@dataclass(frozen=True)
class Episode:
    """A recorded episode: its number, the policy's name, the seed of its reset, its steps as columns.

    ``imagined`` is of an env that a world stands behind, whatever wraps it; ``truncated`` says that the env
    cut the episode itself.
    """

    index: int
    policy: str
    seed: int
    columns: Step
    imagined: bool = False
    truncated: bool = False


class StepError(ValueError):
    """An env returned something else than Gymnasium asks for; the message is one line."""


class Recorder:
    """A live env, its last observation and the state behind that; all that it reads are values, no views.

    Its methods raise ``StepError``.
    """

    def __init__(self, task: Task, env: gym.Env[Any, Any]) -> None:
        """Call ``reset`` or, with the first observation, ``look`` next."""
        self.task, self.env = task, env

    def reset(self, seed: int) -> None:
        """Reset the env and look at its first observation."""
        try:
            answer = self.env.reset(seed=seed)
        except (TypeError, ValueError) as error:
            raise _explained(error) from error
        self.look(_tuple("reset", answer, ("obs", "info"))[0])

    def look(self, obs: Any) -> None:
        """Read the state behind the observation that the env has just returned."""
        self.obs = _observation(obs, self.task.observation_space.shape)
        self.core = self.task.read_core(self.env, self.obs)
        self.unobserved = self.task.read_unobserved(self.env)

    def step(self, action: Any) -> Step:
        """One step of the env, recorded with the action as it was before the env had it in hand."""
        obs, core, before = self.obs, self.core, self.unobserved
        try:
            answer = self.env.step(copy.copy(action))
        except (TypeError, ValueError) as error:
            raise _explained(error) from error
        next_obs, reward, terminated, truncated, _ = _tuple("step", answer, _STEP)
        self.look(next_obs)
        unobserved = self.task.unobserved_over(before, self.unobserved)
        return Step(
            obs,
            action,
            _number("the reward", reward),
            self.obs,
            _flag("terminated", terminated),
            _flag("truncated", truncated),
            core,
            self.core,
            unobserved,
        )


def columns(steps: list[Step]) -> Step:
    """The steps of an episode as a column each, which crosses a process boundary far faster than rows."""
    return Step(*(np.array(column) for column in zip(*steps, strict=True)))


def from_episodes(task: Task, episodes: Sequence[Episode]) -> Transitions:
    """Transitions of real episodes; those of a robot that its own model describes tell how it is observed."""
    parts = [episode.columns for episode in episodes]
    joined = Step(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    data = assembled(
        task,
        joined.obs,
        joined.action,
        joined.next_obs,
        np.repeat(np.arange(len(parts)), [len(part.obs) for part in parts]),
        joined.terminated,
        joined.reward,
        joined.unobserved,
        source="imagined" if any(episode.imagined for episode in episodes) else "real",
    )
    data = replace(
        data,
        core=in_float32(joined.core),
        next_core=in_float32(joined.next_core),
        episode_seed=tuple(episode.seed for episode in episodes),
        episode_policy=tuple(episode.policy for episode in episodes),
    )
    if task.robot is None or task.core.layout is None:
        return data
    from wmgym.data.describe import settle  # imports MuJoCo

    return settle(data, joined)


_NUMBERS = (int, float, np.integer, np.floating, np.bool_)
_STEP = ("obs", "reward", "terminated", "truncated", "info")
_OLD_API = "as in the old Gym API; update the env, or wrap it in Shimmy's GymV21CompatibilityV0"


def _explained(error: Exception) -> Exception:
    """What is old about an env where a wrapper of Gymnasium's, or Python itself, met it first."""
    why = str(error)
    old = "unexpected keyword argument 'seed'" in why or "values to unpack" in why
    return StepError(f"{why}, {_OLD_API}") if old else error


def _tuple(method: str, answer: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    """What an env's method returned, if it is as long as Gymnasium asks for."""
    if isinstance(answer, tuple) and len(answer) == len(names):
        return answer
    what = f"{len(answer)} values" if isinstance(answer, tuple) else f"a {type(answer).__name__}"
    raise StepError(f"{method} returned {what} where ({', '.join(names)}) belong, {_OLD_API}")


def _observation(obs: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = _array(obs)
    if array is None or array.shape != shape:
        what = _shown(obs) if array is None else f"of shape {array.shape}"
        raise StepError(f"the observation is {what}, not numbers of the observation space's shape {shape}")
    return array


def _number(name: str, value: Any) -> float:
    """A number, be it in an array of one element."""
    if isinstance(value, _NUMBERS):
        return float(value)
    array = _array(value)
    if array is None or array.size != 1:
        raise StepError(f"{name} is {_shown(value)}, not a number")
    return float(array.item())


def _flag(name: str, value: Any) -> bool:
    if type(value) is bool:
        return value
    number = _number(name, value)
    if number not in (0.0, 1.0):
        raise StepError(f"{name} is {_shown(value)}, neither true nor false")
    return bool(number)


def _array(value: Any) -> np.ndarray | None:
    """A copy as an array; None of what is no array of real numbers."""
    try:
        array = np.array(np.asarray(value))
    except Exception:  # of a foreign array, which may object to it in any way
        return None
    return array if array.dtype.kind in "biuf" else None


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."
