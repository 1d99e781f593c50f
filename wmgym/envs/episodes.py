"""A batch of imagined episodes, without Gymnasium's conventions around it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np
import torch

from wmgym.envs.parts import each_part, parts_of, separable
from wmgym.models.compiled import CompiledStep
from wmgym.models.dynamics import Propagation
from wmgym.models.fallback import FallbackDynamics
from wmgym.models.state import WorldState, WorldStep, deal_members, join_carries, put_carry
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


@dataclass(frozen=True)
class Stepped:
    """What a step of ``count`` episodes comes to; the arrays are the caller's.

    Attributes:
        obs: ``(count, *obs_shape)`` as the space has them, flat where it is a Dict.
        reward: ``(count,)`` float64.
        terminated: ``(count,)`` bool.
        displacement: ``(count, displacement_dim)``.
        infos: see ``Episodes.infos``.
    """

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    displacement: np.ndarray
    infos: dict[str, np.ndarray]


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
        self._ours = False  # whether nobody else has its arrays
        self._separable = separable(world, propagation)
        space = world.task.observation_space
        sides = space.low.reshape(1, -1), space.high.reshape(1, -1)
        self._bounds = sides if np.isfinite(sides).any() else None  # a prediction knows nothing of them

    @property
    def state(self) -> WorldState:
        """Where the episodes are; ResetNeeded where they have not been started."""
        if self._state is None:
            raise gym.error.ResetNeeded("first call reset() once without a reset_mask")
        return self._state

    def begin(self, mask: np.ndarray, given: np.ndarray | None = None) -> None:
        """Start those of a mask ``(count,)``, at given states or cores ``(count, ...)`` or at drawn ones."""
        device, rows = self.starts.device, np.flatnonzero(mask)
        if given is None:
            drawn = torch.randint(len(self.starts), (len(rows),), generator=self.generator, device=device)
            start = self.starts.index_select(0, drawn)
        else:
            start = torch.tensor(given[rows], device=device)
        with torch.no_grad():
            if mask.all():
                self._state, self._ours = self.world.init(start, self.generator), False
            else:
                going = torch.from_numpy(~mask).to(device)
                fresh = self.world.init(start, self.generator, held=self.state.member[going])
                self._state = self._put(rows, fresh) if self._ours else self.state.put(~going, fresh)
        self.elapsed[rows], self.place[rows], self.ended[rows] = 0, 0, False

    def _put(self, rows: np.ndarray, fresh: WorldState) -> WorldState:
        """``WorldState.put`` into arrays of our own; ``rows`` are counted."""
        state = self.state
        parts = ("core", "companion", "lasting_disagreement")
        for name in (*parts, "shown", "full") if state.shown.shape[1] else parts:
            getattr(state, name).numpy()[rows] = getattr(fresh, name).numpy()
        over = torch.zeros(len(state.member), dtype=torch.bool)
        over[torch.from_numpy(rows)] = True
        after = replace(
            state,
            member=state.member.masked_scatter(over, fresh.member),
            carry=put_carry(over, state.carry, fresh.carry),
            companion_carry=put_carry(over, state.companion_carry, fresh.companion_carry),
        )
        after.keep_full(state.full)
        return after

    def step(self, action: torch.Tensor) -> Stepped:
        """Advance every episode by one step."""
        self.elapsed += 1
        count, task = len(action), self.world.task
        parts = parts_of(count, self.world) if self._separable else [slice(count)]
        obs = np.empty((count, task.obs_dim), task.observation_space.dtype)
        done: dict[int, tuple[WorldStep, dict[str, np.ndarray]]] = {}
        before = self.state
        with torch.inference_mode(False):
            core = torch.empty(count, task.core.dim) if len(parts) > 1 else None
            full = (
                torch.empty(count, task.core.state_dim) if core is not None and task.core.shown_dim else core
            )

        def step(part: slice) -> None:
            state = before if core is None else before.rows(part)
            outcome = self.world.step(state, action[part], self.propagation, self.generator, self.trust)
            after = outcome.state
            infos = self._infos(after, self.elapsed[part], outcome.diverged.cpu().numpy().copy())
            self.observe(after.full, obs[part])
            if core is not None and full is not None:
                core[part] = after.core
                if full is not core:
                    full[part] = after.full
            done[part.start or 0] = outcome, infos

        with torch.no_grad():
            each_part(step, parts, self.world)
        found = [done[at] for at in sorted(done)]
        outcomes, infos = [outcome for outcome, _ in found], [each for _, each in found]
        self._state = (
            outcomes[0].state if core is None or full is None else self._joined(core, full, outcomes)
        )
        self._ours = self._separable

        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(outcome, name).cpu().numpy() for outcome in outcomes])

        return Stepped(
            obs.reshape(count, *task.observation_space.shape),
            joined("reward").astype(np.float64),
            joined("terminated"),
            joined("displacement"),
            {name: np.concatenate([each[name] for each in infos]) for name in infos[0]},
        )

    def _joined(self, core: torch.Tensor, full: torch.Tensor, outcomes: list[WorldStep]) -> WorldState:
        """The next state of all episodes, whose parts are in ``core`` and ``full``."""
        parts = [outcome.state for outcome in outcomes]
        state = replace(
            self.state,
            core=core,
            shown=full[:, core.shape[1] :],
            carry=join_carries([part.carry for part in parts]),
            companion_carry=join_carries([part.companion_carry for part in parts]),
        )
        if self.trust:
            state = replace(
                state,
                companion=torch.cat([part.companion for part in parts]),
                lasting_disagreement=torch.cat([part.lasting_disagreement for part in parts]),
            )
        state.keep_full(full)
        return state

    def observe(self, full: torch.Tensor, into: np.ndarray) -> None:
        """What states ``(n, state_dim)`` show, into ``(n, obs_dim)`` of the space's type."""
        flat = self.world.task.core.observe(full.cpu().numpy())
        if into.dtype.kind in "iu":
            flat = np.rint(flat)  # a cast would cut the fraction off
        np.copyto(into, flat, "unsafe")
        if self._bounds is not None:
            np.clip(into, *self._bounds, out=into)

    def observed(self, rows: np.ndarray | None = None) -> np.ndarray:
        """What all or some episodes show now: ``(n, *obs_shape)``, flat where it is a Dict."""
        task, full = self.world.task, self.state.full
        full = full if rows is None else full[torch.from_numpy(rows).to(full.device)]
        obs = np.empty((len(full), task.obs_dim), task.observation_space.dtype)
        self.observe(full, obs)
        return obs.reshape(len(full), *task.observation_space.shape)

    def begin_lent(self, step: CompiledStep) -> None:
        """``begin`` of the only episode, with the same draws, in a compiled step's buffers."""
        size, none = (1,), torch.zeros(0, dtype=torch.int64)
        at = int(torch.randint(len(self.starts), size, generator=self.generator).item())
        member = deal_members(none, 1, self.world.dynamics.num_members, self.generator).item()
        step.start(self.starts[at].numpy(), int(member))
        self._state, self._ours = step.state, False
        self.elapsed[:], self.place[:], self.ended[:] = 0, 0, False

    def lend(self, step: CompiledStep) -> None:
        """Let a compiled step change the state of the only episode in place, until something else does."""
        if self._state is not step.state:
            step.load(self.state)
            self._state, self._ours = step.state, False

    def infos(self, diverged: np.ndarray) -> dict[str, np.ndarray]:
        """What ``ImaginedVectorEnv`` says in its infos, but for masks and ended episodes."""
        return self._infos(self.state, self.elapsed, diverged)

    def _infos(self, state: WorldState, elapsed: np.ndarray, diverged: np.ndarray) -> dict[str, np.ndarray]:
        infos, table = {"diverged": diverged}, self.world.calibration
        if table is not None:
            core = state.core.cpu().numpy()
            disagreement = self.world.disagreement(state, elapsed) if self.trust else None
            bound = table.error_bound(elapsed, self.propagation, core, disagreement)
            infos["error_bound"] = bound
            if self.trust:
                infos["distrust"] = (bound / table.data_std).mean(1)
        if isinstance(self.world.dynamics, FallbackDynamics):
            carry = state.carry
            assert carry is None or isinstance(carry, torch.Tensor)
            none = np.zeros(len(diverged), bool)  # before the first step
            taken = none if carry is None else carry[:, 0].cpu().numpy() > 0
            infos["fallback"] = taken
        if self.trust and self.world.support is not None:
            infos["novelty"] = self.world.novelty(state.core).cpu().numpy()
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
        self._ours = False
        self._state, self.elapsed, self.ended, self.place = here.state, here.elapsed, here.ended, here.place
        self.generator.set_state(here.generator)
