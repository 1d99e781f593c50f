"""Policies as people have them, called for episodes side by side: with a memory or without."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces

from wmgym.data.policy import PolicyFn
from wmgym.tasks import actions
from wmgym.tasks.task import Task

_START = ("episode_start", "episode_starts")

_Answer: TypeAlias = tuple[np.ndarray, Any]


class PolicyError(ValueError):
    """A policy raised an error, or gave what is no action; the message is one line, to follow its name."""


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Let errors of a policy begin with its name."""
    try:
        yield
    except PolicyError as error:
        raise PolicyError(f"policy {name!r} {error}") from error


class Actor:
    """Calls one policy for episodes side by side, each with its own memory.

    A policy may take a batch of observations or, where it refuses one, a single observation. One that takes a
    ``state`` and returns it beside its actions, as recurrent ones of Stable-Baselines3 do, gets it back at
    the episode's next step, and ``episode_start`` where it takes that; it is called for one episode after
    the other.
    """

    def __init__(self, policy: PolicyFn, task: Task) -> None:
        """Of a policy that ``as_policies`` gave.

        Raises:
            PolicyError: a model that was trained for other actions than the task's.
        """
        self._policy, self._task = policy, task
        self._offset = _offset(policy, task.action_space)
        self._keywords = _keywords(policy)
        self._states: dict[Hashable, Any] = {}
        self._each: bool | None = None  # whether it takes one observation at a time; None before a call
        self._recurrent = False

    def __call__(self, obs: np.ndarray, episodes: Sequence[Hashable]) -> np.ndarray:
        """Actions ``(n, *action_shape)`` for flat observations ``(n, *obs_shape)``.

        Args:
            obs: of the episodes that the policy drives now.
            episodes: what tells each of them from others; a new one starts without a state.

        Raises:
            PolicyError: the policy raises an error, gives what are no actions of the task, one a row and
                finite, or returns a second value beside them that it cannot take back.
        """
        return _usable(self._answer(obs, episodes), len(obs), self._task.action_space)

    def _answer(self, obs: np.ndarray, episodes: Sequence[Hashable]) -> np.ndarray:
        if self._recurrent:
            return self._with_states(obs, episodes)
        if self._each:
            return self._singly(obs)
        try:
            found, state = self._asked(self._shown(obs))
        except Exception:
            if self._each is None and self._takes_one(obs):
                return self._singly(obs)
            raise
        if state is not None:
            if "state" not in self._keywords:
                raise PolicyError(
                    "returned a second value beside its actions and takes no state=; give it one, as "
                    "predict(obs, state, episode_start) of Stable-Baselines3 has, or return actions alone"
                )
            self._recurrent = True
            return self._with_states(obs, episodes)
        if self._each is None and found.shape != self._shape(len(obs)) and self._takes_one(obs):
            return self._singly(obs)
        self._each = False
        return found

    def _shape(self, n: int) -> tuple[int, ...]:
        return n, *(self._task.action_space.shape or ())

    def _shown(self, obs: np.ndarray) -> Any:
        """Observations as the policy takes them: an env's Dict where the policy knows it as one."""
        return self._task.as_dict(obs) if getattr(self._policy, "takes_dict", False) else obs

    def _takes_one(self, obs: np.ndarray) -> bool:
        """Whether the policy answers a single observation with one action; of one number in any shape."""
        try:
            answer, state = self._asked(obs[0])
        except Exception:
            return False
        shape = self._shape(1)[1:]
        scalar = shape != () and answer.size == 1 == math.prod(shape)
        self._each = state is None and (answer.shape == shape or scalar)
        return self._each

    def _asked(self, obs: Any) -> _Answer:
        """What the policy answers; scores of a Discrete's actions become the best of these."""
        memory = self._memory(None, np.ones(len(obs), bool)) if "state" in self._keywords else {}
        found, state = self._called(obs, memory)
        space = self._task.action_space
        if (
            getattr(self._policy, "scores", False)
            and isinstance(space, spaces.Discrete)
            and found.shape[-1:] == (space.n,)
        ):
            found = found.argmax(-1) + int(space.start)
        return found, state

    def _called(self, obs: Any, memory: Mapping[str, Any]) -> _Answer:
        """What the policy answers, its actions counted as the task counts them."""
        try:
            answer = self._policy(obs, **memory)
            pair = isinstance(answer, tuple) and len(answer) == 2  # actions, and a state beside them
            found, state = _array(answer[0]) if pair else _array(answer), answer[1] if pair else None
        except Exception as error:
            said = " ".join(str(error).split())
            raise PolicyError(f"raised {type(error).__name__}{': ' * bool(said)}{said}") from error
        binary = isinstance(self._task.action_space, spaces.MultiBinary)
        if binary and found.dtype.kind == "f" and np.isin(found, (0, 1)).all():
            found = found.astype(np.int64)  # Stable-Baselines3 gives them as floats
        if self._offset is not None and found.dtype.kind in "iu":
            found = found + self._offset
        return found, state

    def _singly(self, obs: np.ndarray) -> np.ndarray:
        return np.stack([self._asked(row)[0].reshape(self._shape(1)[1:]) for row in obs])

    def _memory(self, state: Any, start: np.ndarray) -> dict[str, Any]:
        """What a recurrent policy takes beside observations, of the names that it has for it."""
        given = {"state": state, **dict.fromkeys(_START, start)}
        return {name: value for name, value in given.items() if name in self._keywords}

    def _with_states(self, obs: np.ndarray, episodes: Sequence[Hashable]) -> np.ndarray:
        found, states = [], {}
        for row, episode in zip(obs, episodes, strict=True):
            kept = self._memory(self._states.get(episode), np.array([episode not in self._states]))
            action, states[episode] = self._called(self._shown(row[None]), kept)
            found.append(action[0])
        self._states = states  # of episodes that go on
        return np.stack(found)


def _offset(policy: Any, space: actions.ActionSpace) -> Any:
    """What is added to a model's whole-number actions, which may count from elsewhere than the task's.

    Stable-Baselines3 knows only actions that count from 0. None of a policy that does not say.
    """
    made = getattr(policy, "action_space", None)
    if not isinstance(made, spaces.Space):
        return None
    kinds = type(made) is type(space) or (actions.whole(made) and actions.whole(space))
    alike = kinds and made.shape == space.shape
    if not alike or (actions.whole(space) and (actions.choices(made) != actions.choices(space)).any()):
        raise PolicyError(f"acts in {_line(made)}, and this env takes {_line(space)}; pass one made for it")
    return actions.first(space) - actions.first(made) if actions.whole(space) else None


def _usable(found: np.ndarray, n: int, space: actions.ActionSpace) -> np.ndarray:
    """Actions ``(n, *action_shape)`` as they are, if an env can take them.

    Raises:
        PolicyError: it cannot.
    """
    need, expected = "iub" if actions.whole(space) else "iubf", (n, *(space.shape or ()))
    if found.dtype.kind not in need:
        what = "integers" if actions.whole(space) else "real numbers"
        raise PolicyError(f"gave actions of type {found.dtype}, not {what}")
    if found.shape != expected:
        raise PolicyError(f"gave actions of shape {found.shape}, expected {expected}")
    if not np.isfinite(found).all():
        raise PolicyError("gave actions that are not finite")
    if actions.whole(space):
        outside = actions.outside(space, found.astype(np.int64) - actions.first(space))
        if outside.any():
            wrong = found[outside.reshape(n, -1).any(1)][0]
            raise PolicyError(f"gave action {wrong}, which is outside {_line(space)}")
    return found


def _line(space: spaces.Space[Any]) -> str:
    return " ".join(str(space).split())


def _array(answer: Any) -> np.ndarray:
    """An answer as an array, be it a tensor on another device or with a gradient."""
    return np.asarray(answer.detach().cpu() if hasattr(answer, "detach") else answer)


def _keywords(policy: Any) -> frozenset[str]:
    """Names of the arguments that a policy takes."""
    own = getattr(policy, "keywords", None)  # of a partial it is a dict
    if isinstance(own, frozenset):
        return own
    try:
        return frozenset(inspect.signature(policy).parameters)
    except (TypeError, ValueError):  # builtins have no signature
        return frozenset()
