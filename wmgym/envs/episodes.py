"""A batch of imagined episodes, without Gymnasium's conventions around it."""

from __future__ import annotations

from copy import deepcopy

import gymnasium as gym
import numpy as np
import torch

from wmgym.envs.snapshot import EnvSnapshot
from wmgym.models.dynamics import Propagation
from wmgym.models.state import WorldState, WorldStep
from wmgym.models.world import WorldModel


class Episodes:
    """``count`` imagined episodes: the world's state, their ages, and the generator that they draw from.

    Attributes:
        elapsed: ``(count,)`` int64, steps since each episode's start.
        ended: ``(count,)`` bool, episodes that are over and not yet started anew.
        place: ``(count, displacement_dim)``, where each root has moved to; kept by an env that draws them.
        generator: all random draws are its.
    """

    def __init__(
        self, world: WorldModel, count: int, starts: np.ndarray, propagation: Propagation, trust: bool
    ) -> None:
        """Make episodes of a world, not yet started; ``starts`` ``(n, state_dim)`` are drawn from."""
        self.world, self.propagation, self.trust = world, propagation, trust
        self.device = world.device  # kept, for a world looks it up
        self.starts = torch.tensor(starts, device=self.device)
        self.elapsed = np.zeros(count, np.int64)
        self.ended = np.zeros(count, bool)
        self.place = np.zeros((count, world.task.core.displacement_dim))
        self.generator = torch.Generator(self.device)
        self.generator.seed()
        self._state: WorldState | None = None

    @property
    def begun(self) -> bool:
        """Whether there is a state yet."""
        return self._state is not None

    @property
    def state(self) -> WorldState:
        """Where the episodes are.

        Raises:
            ResetNeeded: nowhere yet.
        """
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() first")
        return self._state

    def begin(self, mask: np.ndarray, given: np.ndarray | None = None) -> None:
        """Start the episodes of a mask ``(count,)``, all of them at first.

        Args:
            mask: which to start.
            given: states ``(count, state_dim)`` or cores ``(count, core_dim)`` to start from; None draws.
        """
        if given is None:
            size = (int(mask.sum()),)
            draw = torch.randint(len(self.starts), size, generator=self.generator, device=self.device)
            start = self.starts[draw]
        else:
            start = torch.tensor(given[mask], device=self.device)
        with torch.no_grad():
            if mask.all():
                self._state = self.world.init(start, self.generator)
            else:
                rows = torch.as_tensor(mask, device=self.device)
                fresh = self.world.init(start, self.generator, held=self.state.member[~rows])
                self._state = self.state.put(rows, fresh)
        self.elapsed[mask], self.place[mask], self.ended[mask] = 0, 0, False

    def step(self, action: torch.Tensor) -> WorldStep:
        """Advance every episode by one step."""
        with torch.no_grad():
            outcome = self.world.step(self.state, action, self.propagation, self.generator, self.trust)
        self._state = outcome.state
        self.elapsed += 1
        return outcome

    def infos(self, diverged: np.ndarray, mask: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """What infos say of all episodes, or of those of a mask; see ``ImaginedVectorEnv``."""
        state, elapsed = self.state, self.elapsed
        if mask is not None:
            rows = torch.as_tensor(mask, device=self.device)
            state, elapsed, diverged = state.map(lambda part: part[rows]), elapsed[mask], diverged[mask]
        infos, table = {"diverged": diverged}, self.world.calibration
        if table is not None:
            disagreement = self.world.disagreement(state, elapsed) if self.trust else None
            bound = table.error_bound(elapsed, self.propagation, state.core.cpu().numpy(), disagreement)
            infos["error_bound"] = bound
            if self.trust:
                infos["distrust"] = (bound / table.data_std).mean(1)
        if self.trust and self.world.support is not None:
            infos["novelty"] = self.world.novelty(state.core).cpu().numpy()
        return infos

    def snapshot(self) -> EnvSnapshot:
        """Everything that what follows depends on, in memory of its own."""
        here = self.state, self.elapsed, self.ended, self.place, self.generator.get_state()
        return deepcopy(EnvSnapshot(*here))

    def restore(self, snapshot: EnvSnapshot) -> None:
        """Go on from a snapshot.

        Raises:
            ValueError: it is of another number of episodes, or of another core.
        """
        found, need = tuple(snapshot.state.core.shape), (len(self.elapsed), self.world.task.core.dim)
        if found != need:
            raise ValueError(f"the snapshot is of an env with cores of shape {found}, this one's are {need}")
        here = deepcopy(snapshot)
        self._state, self.elapsed = here.state, here.elapsed
        self.ended, self.place = here.ended, here.place
        self.generator.set_state(here.generator)
