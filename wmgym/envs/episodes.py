"""A batch of imagined episodes, without Gymnasium's conventions around it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch

from wmgym.models.compiled import CompiledStep
from wmgym.models.dynamics import Propagation
from wmgym.models.fallback import FallbackDynamics
from wmgym.models.state import WorldState, WorldStep, deal_members
from wmgym.models.world import WorldModel


@dataclass(frozen=True)
class EnvSnapshot:
    """Everything that the future of an imagined env depends on; see ``ImaginedVectorEnv.snapshot``.

    Attributes:
        state: of the world, ``num_envs`` episodes.
        elapsed: ``(num_envs,)`` int64, steps since each episode's start.
        ended: ``(num_envs,)`` bool, episodes that are over and not yet started anew.
        place: ``(num_envs, displacement_dim)``, where the root has moved to, for pictures.
        generator: state of the env's random generator.
    """

    state: WorldState
    elapsed: np.ndarray
    ended: np.ndarray
    place: np.ndarray
    generator: torch.Tensor

    def __repr__(self) -> str:
        return f"EnvSnapshot(num_envs={len(self.elapsed)})"

    def repeated(self, n: int) -> EnvSnapshot:
        """``n`` copies of every episode, those of one beside each other.

        Raises:
            ValueError: less than one copy.
        """
        if n < 1:
            raise ValueError(f"fork into at least 1 copy, got n={n}")
        state = self.state.map(lambda part: part.repeat_interleave(n, 0))
        elapsed, ended, place = (part.repeat(n, 0) for part in (self.elapsed, self.ended, self.place))
        return EnvSnapshot(state, elapsed, ended, place, self.generator)


class Episodes:
    """``count`` imagined episodes, not yet started, of which an ``EnvSnapshot`` tells at any time.

    ``starts`` ``(n, state_dim)`` are drawn from; ``place`` is kept by an env that draws pictures.
    """

    def __init__(
        self, world: WorldModel, count: int, starts: np.ndarray, propagation: Propagation, trust: bool
    ) -> None:
        self.world, self.propagation, self.trust = world, propagation, trust
        self.starts = torch.tensor(starts, device=world.device)
        self.elapsed, self.ended = np.zeros(count, np.int64), np.zeros(count, bool)
        self.place = np.zeros((count, world.task.core.displacement_dim))
        self.generator = torch.Generator(self.starts.device)
        self.generator.seed()
        self._state: WorldState | None = None

    @property
    def state(self) -> WorldState:
        """Where the episodes are; ResetNeeded where they have not been started."""
        if self._state is None:
            raise gym.error.ResetNeeded("first call reset() once without a reset_mask")
        return self._state

    def begin(self, mask: np.ndarray, given: np.ndarray | None = None) -> None:
        """Start those of a mask ``(count,)``, at given states or cores ``(count, ...)`` or at drawn ones."""
        rows = torch.as_tensor(mask, device=self.starts.device)
        if given is None:
            size = (int(mask.sum()),)
            start = self.starts[
                torch.randint(len(self.starts), size, generator=self.generator, device=rows.device)
            ]
        else:
            start = torch.tensor(given[mask], device=rows.device)
        with torch.no_grad():
            if mask.all():
                self._state = self.world.init(start, self.generator)
            else:
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

    def begin_lent(self, step: CompiledStep) -> None:
        """``begin`` of the only episode, with the same draws, in a compiled step's buffers."""
        size, none = (1,), torch.zeros(0, dtype=torch.int64)
        at = int(torch.randint(len(self.starts), size, generator=self.generator).item())
        member = deal_members(none, 1, self.world.dynamics.num_members, self.generator).item()
        step.start(self.starts[at].numpy(), int(member))
        self._state = step.state
        self.elapsed[:], self.place[:], self.ended[:] = 0, 0, False

    def lend(self, step: CompiledStep) -> None:
        """Let a compiled step change the state of the only episode in place, until something else does."""
        if self._state is not step.state:
            step.load(self.state)
            self._state = step.state

    def infos(self, diverged: np.ndarray) -> dict[str, np.ndarray]:
        """What ``ImaginedVectorEnv`` says in its infos, but for masks and ended episodes."""
        infos, table = {"diverged": diverged}, self.world.calibration
        if table is not None:
            core = self.state.core.cpu().numpy()
            disagreement = self.world.disagreement(self.state, self.elapsed) if self.trust else None
            bound = table.error_bound(self.elapsed, self.propagation, core, disagreement)
            infos["error_bound"] = bound
            if self.trust:
                infos["distrust"] = (bound / table.data_std).mean(1)
        if isinstance(self.world.dynamics, FallbackDynamics):
            carry = self.state.carry
            assert carry is None or isinstance(carry, torch.Tensor)
            none = np.zeros(len(diverged), bool)  # before the first step
            taken = none if carry is None else carry[:, 0].cpu().numpy() > 0
            infos["fallback"] = taken
        if self.trust and self.world.support is not None:
            infos["novelty"] = self.world.novelty(self.state.core).cpu().numpy()
        return infos

    def snapshot(self) -> EnvSnapshot:
        """A copy of everything that what follows depends on."""
        here = self.state, self.elapsed, self.ended, self.place, self.generator.get_state()
        return deepcopy(EnvSnapshot(*here))

    def restore(self, snapshot: EnvSnapshot) -> None:
        """Go on from a snapshot of as many episodes, of as many core dimensions, of members there are."""
        found, need = tuple(snapshot.state.core.shape), (len(self.elapsed), self.world.task.core.dim)
        if found != need:
            raise ValueError(f"the snapshot is of an env with cores of shape {found}, this one's are {need}")
        last, members = int(snapshot.state.member.max()), self.world.dynamics.num_members
        if last >= members:
            raise ValueError(f"the snapshot follows member {last} of its world, this one's has {members}")
        here = deepcopy(snapshot)
        self._state, self.elapsed, self.ended, self.place = here.state, here.elapsed, here.ended, here.place
        self.generator.set_state(here.generator)
