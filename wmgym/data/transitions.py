"""Transitions: what the real env did, episode by episode, and where it came from."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from wmgym.data.columns import PER_STEP, check_columns
from wmgym.data.twins import together
from wmgym.io import artifacts
from wmgym.io.arguments import numbers, whole_number
from wmgym.io.deprecation import renamed, warn_old_file
from wmgym.io.schema import ArraySpec, Record, check_arrays, refusing
from wmgym.tasks import actions
from wmgym.tasks.schema import TaskRecord, rebuild_task, record_task
from wmgym.tasks.task import Task


@renamed(hidden="unobserved")
@dataclass(frozen=True, repr=False)
class Transitions:
    """Transitions in order, whole episodes side by side, all arrays read-only.

    Attributes:
        task: the env they came from.
        obs: ``(n, obs_dim)`` float32, flattened.
        action: ``(n, action_dim)`` float32, or int64 from 0: ``(n,)`` of Discrete, ``(n, parts)`` of others.
        reward: ``(n,)`` float64, or None where the log has none.
        next_obs: ``(n, obs_dim)`` float32; the final observation at an episode's end, never the next reset's.
        terminated: ``(n,)`` bool.
        truncated: ``(n,)`` bool; also true where collecting stopped inside an episode.
        core: ``(n, core_dim)`` float32, raw units, unclipped.
        next_core: likewise, one step later.
        unobserved: ``(n, unobserved_dim)`` float64, reward inputs absent from the observation: displacement
            of the step, metres, then readouts.
        episode: ``(n,)`` int64, index into the two tuples below, non-decreasing.
        episode_seed: the seed each episode was reset with; -1 where unknown.
        episode_policy: the name of the policy that drove each episode.
        source: "real" or "imagined".
        versions: library versions at collection.
    """

    task: Task
    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray | None
    next_obs: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    core: np.ndarray
    next_core: np.ndarray
    unobserved: np.ndarray
    episode: np.ndarray
    episode_seed: tuple[int, ...]
    episode_policy: tuple[str, ...]
    source: Literal["real", "imagined"]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        """Check shapes, finiteness and that no episode is torn apart."""
        arrays = self.arrays()
        check_columns(self.task, arrays)
        for array in arrays.values():
            array.setflags(write=False)
        if not len(self.episode_seed) == len(self.episode_policy) == self.num_episodes:
            raise ValueError("episode_seed and episode_policy need one entry an episode")

    def __repr__(self) -> str:
        """How much there is, and of what."""
        env = self.task.env_id or "an env without an id"
        return f"Transitions({env}, {self.source}: {len(self):,} steps, {self.num_episodes:,} episodes)"

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.episode)

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return int(self.episode[-1]) + 1

    @property
    def first(self) -> np.ndarray:
        """Row of each episode's first transition: ``(num_episodes,)``."""
        return np.flatnonzero(np.diff(self.episode, prepend=-1))

    @property
    def state(self) -> np.ndarray:
        """Cores with the readouts that the observation shows beside them: ``(n, state_dim)`` float32."""
        return self.task.state(self.core, self.obs)

    @property
    def next_state(self) -> np.ndarray:
        """Likewise, one step later."""
        return self.task.state(self.next_core, self.next_obs)

    @property
    def displacement(self) -> np.ndarray:
        """How far the root moved: ``(n, displacement_dim)`` float64, metres."""
        return self.unobserved[:, : self.task.core.displacement_dim]

    @property
    def readout(self) -> np.ndarray:
        """What is predicted from ``next_core``: unobserved readouts, then shown ones ``(n, readout_dim)``."""
        core = self.task.core
        return np.concatenate(
            [self.unobserved[:, core.displacement_dim :], self.next_state[:, core.dim :]], 1
        )

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted return of each episode as far as it was recorded: ``(num_episodes,)``."""
        if self.reward is None:
            raise ValueError("these transitions have no reward; collect them from an env or pass reward=")
        return np.bincount(self.episode, weights=self.reward)

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each episode: ``(num_episodes,)``."""
        return np.bincount(self.episode)

    def window_starts(self, length: int) -> np.ndarray:
        """Rows from which ``length`` consecutive transitions lie inside one episode."""
        if length < 1:
            raise ValueError(f"a window has at least one step, got length={length}")
        ends = np.cumsum(self.lengths)[self.episode]
        return np.flatnonzero(np.arange(len(self)) + length <= ends)

    def select(self, episodes: Sequence[int] | np.ndarray) -> Transitions:
        """The given episodes, renumbered in ascending order."""
        chosen = np.unique(np.asarray(episodes, dtype=np.int64))
        if len(chosen) == 0 or chosen[0] < 0 or chosen[-1] >= self.num_episodes:
            raise ValueError(f"episodes must lie in 0..{self.num_episodes - 1} and be at least one")
        rows = np.isin(self.episode, chosen)
        cut: dict[str, Any] = {name: array[rows] for name, array in self.arrays().items()}
        cut["episode"] = np.searchsorted(chosen, cut["episode"])
        return replace(
            self,
            **cut,
            episode_seed=tuple(self.episode_seed[i] for i in chosen),
            episode_policy=tuple(self.episode_policy[i] for i in chosen),
        )

    def split(self, fractions: Sequence[float], seed: int = 0) -> tuple[Transitions, ...]:
        """Split by episode at random; every part gets at least one, and copies of one stay together.

        Args:
            fractions: share of each part; they sum to 1.
            seed: decides which episode goes where.

        Raises:
            ValueError: fractions do not sum to 1, there are fewer episodes than parts, or the seed is no
                whole number.
        """
        shares, seed = numbers("fractions", fractions), whole_number("seed", seed, least=0)
        if not ((shares > 0).all() and abs(shares.sum() - 1) <= 1e-9):
            raise ValueError(f"fractions must be positive and sum to 1, got {tuple(shares.tolist())}")
        if (count := self.num_episodes) < len(shares):
            raise ValueError(f"{count} episodes cannot be split {len(shares)} ways; collect shorter ones")
        counts = 1 + np.floor(shares * (count - len(shares))).astype(int)
        counts[int(np.argmax(shares))] += count - counts.sum()
        order = np.random.default_rng(seed).permutation(count)
        parts = np.split(order, np.cumsum(counts)[:-1])
        parts = parts if self.countable else together(parts, self.fingerprints())
        return tuple(self.select(part) for part in parts)

    @property
    def countable(self) -> bool:
        """Whether states and actions are whole numbers, so that two episodes may be the same by chance."""
        whole = all((column == np.rint(column)).all() for column in (self.core, self.next_core))
        return whole and actions.whole(self.task.action_space)

    def fingerprints(self) -> tuple[str, ...]:
        """One content hash an episode, so that no episode can be both fitted and calibrated on."""
        found = []
        for begin, end in itertools.pairwise([*self.first, len(self)]):
            digest = hashlib.blake2b(digest_size=8)
            for array in (self.core, self.next_core, self.action):
                digest.update(array[begin:end].tobytes())
            found.append(digest.hexdigest())
        return tuple(found)

    def describe(self) -> dict[str, Any]:
        """Summary for people and logs: JSON values only."""
        summary: dict[str, Any] = {
            "env_id": self.task.env_id,
            "source": self.source,
            "steps": len(self),
            "episodes": self.num_episodes,
            "mean_length": float(self.lengths.mean()),
            "seconds": len(self) * self.task.dt,
            "terminated": int(self.terminated.sum()),
            "truncated": int(self.truncated.sum()),
            "policies": sorted(set(self.episode_policy)),
            "actions": actions.plain(self.task.action_space),
        }
        if self.reward is not None:
            summary["mean_return"] = float(self.returns.mean())
        if self.task.core.layout is not None:
            summary["observation_columns"] = self.task.core.layout.columns()
        return summary

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a directory: the old content or the new survives a crash, whole.

        Raises:
            StoreError: the directory cannot be written, or holds something else.
            ValueError: a keyword of the env is no JSON value.
        """
        record = _TransitionsRecord(
            task=record_task(self.task),
            episode_policy=list(self.episode_policy),
            source=self.source,
            versions=self.versions,
        )
        arrays = {**self.arrays(), "episode_seed": np.array(self.episode_seed, np.int64)}
        artifacts.write_directory(
            path, kind="transitions", arrays=arrays, document=record.model_dump(mode="json")
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], task: Task | None = None) -> Transitions:
        """Read what ``save`` wrote; every byte is checked and nothing is executed.

        Args:
            path: the directory.
            task: needed only where the task was made with functions, which no file holds.

        Raises:
            StoreError: no transitions are there, or a byte of them has changed.
            ValueError: ``task`` is missing or describes other spaces.
        """
        arrays, document = artifacts.read_directory(path, kind="transitions")
        where = os.fspath(path)
        if "hidden" in arrays:
            arrays["unobserved"] = arrays.pop("hidden")
            warn_old_file(where)
        with refusing(where, "a transitions document", "collect again"):
            record = _TransitionsRecord.model_validate_json(json.dumps(document))
        task = rebuild_task(record.task, task, where)
        with refusing(where, "a transitions document", "collect again"):
            seeds = arrays.pop("episode_seed")
            episodes = ArraySpec((len(record.episode_policy),), "int64", low=-1)
            check_arrays({"episode_seed": seeds}, {"episode_seed": episodes})
            if odd := (arrays.keys() | {"reward"}) ^ set(PER_STEP):
                raise ValueError(f"array {min(odd)} is missing or unknown")
            return cls(
                **{"reward": None, **arrays},  # type: ignore[arg-type]
                task=task,
                episode_seed=tuple(seeds.tolist()),
                episode_policy=tuple(record.episode_policy),
                source=record.source,
                versions=record.versions,
            )

    def arrays(self) -> dict[str, np.ndarray]:
        """Every column by name, but for the reward where there is none."""
        return {name: getattr(self, name) for name in PER_STEP if getattr(self, name) is not None}


def refuse_other(caller: str, given: Any) -> None:
    """Refuse what is no ``Transitions``, such as the path of saved ones."""
    if not isinstance(given, Transitions):
        raise TypeError(
            f"{caller} takes Transitions, got {type(given).__name__}; read saved ones with "
            "wmgym.Transitions.load and join several with wmgym.concat"
        )


class _TransitionsRecord(Record):
    task: TaskRecord
    episode_policy: list[str]
    source: Literal["real", "imagined"]
    versions: dict[str, str]
