"""Whether a robot obeys the laws that a symmetry says: its env steps from states and from their images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces

from wmgym.tasks import actions
from wmgym.tasks.layout import Symmetry
from wmgym.tasks.mjcf.model import PHYSICAL, put
from wmgym.tasks.mjcf.simulation import physical_state, simulation

_LOOKED_AT = 400  # states, of which those with contacts of their own are tried first
_TRIED, _STEPS = 48, 2  # start states, and env steps from each
_EPISODE = 8  # start states between two resets
_EXACT = 1e-6  # relative to the number, and at least of 1


class Steps:
    """Steps of a live env from states that it has been in, under random actions."""

    def __init__(self, env: gym.Env[Any, Any], space: spaces.Box, states: np.ndarray) -> None:
        self.env, self.space, rng = env, space, np.random.default_rng(0)
        env.reset(seed=0)
        self.starts = states[self._telling(states)]
        given = actions.uniform(space, rng, _STEPS * len(self.starts))
        self.actions = given.reshape(len(self.starts), _STEPS, -1)
        self.after = list(self._runs(self.starts, self.actions))

    def agree(self, symmetry: Symmetry, quaternions: list[int]) -> bool:
        """Whether the images of all steps are steps from the images."""
        source, sign = np.array(symmetry.core).T
        taken, way = np.array(symmetry.action).T
        given = self.actions[..., taken] * way.astype(self.actions.dtype)
        if not all(
            self.space.contains(each.reshape(self.space.shape)) for each in given.reshape(-1, len(way))
        ):
            return False
        for after, there in zip(self.after, self._runs(self.starts[:, source] * sign, given), strict=True):
            wanted = after[:, source] * sign
            if there.shape != wanted.shape:
                return False
            for at in quaternions:  # either sign is the same rotation
                turns = slice(at, at + 4)
                wanted[:, turns] *= np.where((wanted[:, turns] * there[:, turns]).sum(1) < 0, -1, 1)[:, None]
            if not (np.abs(there - wanted) <= _EXACT * np.maximum(1.0, np.abs(wanted))).all():
                return False
        return True

    def _runs(self, starts: np.ndarray, given: np.ndarray) -> Iterator[np.ndarray]:
        """From each start the physical states ``(steps, k)`` after steps, fewer where an episode ends."""
        over = True
        for k, (start, each) in enumerate(zip(starts, given, strict=True)):
            if over or k % _EPISODE == 0:
                self.env.reset(seed=k)
            model, data = self._simulation()
            mujoco.mj_setState(model, data, start, PHYSICAL)
            data.qacc_warmstart[:] = 0.0
            mujoco.mj_forward(model, data)
            rows = list[np.ndarray]()
            for action in each:
                over = any(self.env.step(action.reshape(self.space.shape))[2:4])
                rows.append(physical_state(self._simulation()[1]))
                if over:
                    break
            yield np.array(rows)

    def _telling(self, states: np.ndarray) -> np.ndarray:
        """Rows to start from: each pair of shapes that touch in any is in one, the others evenly spread."""
        rows = np.linspace(0, len(states) - 1, min(len(states), _LOOKED_AT)).astype(np.int64)
        (model, data), pairs, found = self._simulation(), set[tuple[int, ...]](), list[int]()
        for row in rows:
            put(model, data, states[row])
            touch = {tuple(sorted(map(int, each.geom))) for each in data.contact[: data.ncon]}
            if not touch <= pairs:
                found.append(int(row))
            pairs |= touch
        spread = rows[np.linspace(0, len(rows) - 1, min(len(rows), _TRIED)).astype(np.int64)]
        return np.array([*found, *spread.tolist()][:_TRIED])

    def _simulation(self) -> tuple[Any, Any]:
        found = simulation(self.env)  # an env may make a new one at every reset
        assert found is not None
        return found
