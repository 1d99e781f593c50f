"""One episode's step, recorded from a world and run as NumPy calls: what ``gym.make`` steps.

A batch pays the same for its hundred small operations whether it holds one episode or a thousand, so a single
one has a way of its own. It is recorded from the code that the batch runs, hence the same by construction, to
rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wmgym.models.batching import beside
from wmgym.models.compiled_program import Program
from wmgym.models.compiled_record import (
    Recording,
    example_inputs,
    first_look,
    networks,
    predict,
    recordable,
    settle,
)
from wmgym.models.dynamics import Propagation
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.flags import TRACE
from wmgym.models.state import WorldState
from wmgym.models.step import outcome_of, put_back
from wmgym.models.world import WorldModel
from wmgym.tasks import actions


def compiled_step(world: WorldModel, propagation: Propagation, trust: bool) -> CompiledStep | None:
    """The step of one episode of this world, or None where it cannot be recorded."""
    if not recordable(world):
        return None
    try:
        return CompiledStep(world, propagation, trust)
    except Exception:  # a task's functions may do anything to what stands in for an array
        return None


@dataclass
class Outcome:
    """What a step comes to, beside the state."""

    reward: float
    terminated: bool
    diverged: bool


class CompiledStep:
    """Steps one episode, whose state is in buffers; see ``WorldModel.step``.

    Attributes:
        state: of one episode, over the buffers: every step changes it in place.
        buffers: ``obs`` ``(1, obs_dim)`` as the env shows it, unless the task's own code makes it;
            ``displacement``; once calibrated ``error_bound`` ``(1, core_dim)``, and with trust ``distrust``.
    """

    @torch.inference_mode(False)  # else the mode of the caller would stick to the state
    def __init__(self, world: WorldModel, propagation: Propagation, trust: bool) -> None:
        """Record it; raises where that cannot be."""
        self.world, self.propagation, self.trust = world, propagation, trust
        core = world.task.core
        assert isinstance(world.dynamics, EnsembleMLP)
        self._whole = actions.whole(world.task.action_space)
        start = torch.tensor(world.starts[:1])
        zeros = torch.zeros(1, core.dim)
        member = torch.zeros(1, dtype=torch.int64)
        self.state = WorldState(
            start[:, : core.dim].clone(), start[:, core.dim :].clone(), member, zeros.clone(), zeros.clone()
        )
        self._inputs = example_inputs(world) | {
            "core": self.state.core.numpy(),
            "shown": self.state.shown.numpy(),
            "companion": self.state.companion.numpy(),
            "lasting": self.state.lasting_disagreement.numpy(),
        }
        self._drawn_flags = world.flags is not None and world.flags.drawn
        if world.flags is not None:
            self._inputs["threshold"] = np.full((1, world.flags.network.target_dim), 0.5, np.float32)
        self._parts = {
            name: getattr(self.state, name).numpy()
            for name in ("core", "shown", "member", "companion", "lasting_disagreement")
        }
        self._stamp = _stamp(world)
        with np.errstate(all="ignore"):
            self._record()
        self.load(self.state)

    def _record(self) -> None:
        world = self.world
        predicted = Recording(self._inputs)
        first = predict(world, predicted, self.propagation, self.trust)
        self._first = Program({name: x.node for name, x in first.items()}, self._inputs)
        made = self._first.buffers
        for name, x in first.items():
            np.copyto(made[name], x.node.value)  # the example that what follows is recorded with
        held = {**self._inputs, **made}
        rescued = Recording(held)
        sound = put_back(world.limits, rescued["core"], rescued["raw"])
        self._rescue = Program({"sound": sound.node}, held)
        settled = Recording(held)
        second = settle(world, settled, self.propagation, self.trust)
        self._second = Program({name: x.node for name, x in second.items()}, held)
        self.buffers = {**made, **self._second.buffers}
        self._look = None
        if "obs" in second:
            self._look = Program({"first_obs": first_look(world, Recording(self._inputs)).node}, self._inputs)
            self.buffers |= self._look.buffers
        drawn = self.propagation == "sample" and world.task.terminated is None
        drawn |= world.outcomes is not None and world.outcomes.drawn
        self._known = "reward" in second and not drawn
        b = self.buffers
        kept = [(self._inputs["core"], b["next_core"]), (self._inputs["shown"], b["next_shown"])]
        if self.trust:
            kept += [
                (self._inputs["companion"], b["next_companion"]),
                (self._inputs["lasting"], b["next_lasting"]),
            ]
        self._kept = [(to, source) for to, source in kept if to.size]

    @property
    def current(self) -> bool:
        """Whether the weights, of which the step holds copies, are what they were."""
        return self._stamp == _stamp(self.world)

    def load(self, state: WorldState) -> None:
        """Go on from another state of one episode."""
        for name, here in self._parts.items():
            np.copyto(here, getattr(state, name).numpy())
        self.member = int(self.state.member)
        self._one, self._two = self._first.calls(self.member), self._second.calls(self.member)

    def start(self, state: np.ndarray, member: int) -> None:
        """Begin an episode of a member at a state ``(state_dim,)``; then ``first_obs`` is what it shows."""
        parts, dim = self._parts, self._parts["core"].shape[1]
        parts["core"][0] = parts["companion"][0] = state[:dim]
        parts["shown"][0], parts["lasting_disagreement"][0] = state[dim:], 0
        parts["member"][0] = self.member = member
        self._one, self._two = self._first.calls(member), self._second.calls(member)
        if self._look is not None:
            for call in self._look.calls(0):
                call()

    @np.errstate(all="ignore")
    def step(self, action: np.ndarray, elapsed: int, generator: torch.Generator) -> Outcome:
        """Advance the episode; ``action`` is flat, or an int64 where actions are whole numbers.

        Args:
            action: ``(action_dim,)``.
            elapsed: steps since the episode's start, this one included.
            generator: of noise and outcomes.
        """
        inputs, buffers = self._inputs, self.buffers
        given = None
        if self._whole:
            given = torch.as_tensor(action[None])
            inputs["action"][...] = self.world.encode_action(given).numpy()
        else:
            inputs["action"][0] = action
        noise = generator if self.propagation == "sample" else None
        if noise is not None:
            inputs["noise"][...] = torch.randn(inputs["noise"].shape, generator=noise).numpy()
        if self._drawn_flags:
            drawn = torch.rand(inputs["threshold"].shape, generator=generator)
            inputs["threshold"][...] = drawn.clamp(TRACE, 1 - TRACE).numpy()
        inputs["elapsed"][0] = elapsed
        for call in self._one:
            call()
        diverged = bool(np.count_nonzero(buffers["diverged"]))
        if diverged:
            for call in self._rescue.calls(0):
                call()
            np.copyto(buffers["sound"], self._rescue.buffers["sound"])
        for call in self._two:
            call()
        if self._known:
            reward, terminated = buffers["reward"].item(), buffers["terminated"].item()
        else:
            reward, terminated = self._outcome(given, generator, noise)
        for to, source in self._kept:
            np.copyto(to, source)
        return Outcome(reward, terminated, diverged)

    def _outcome(
        self, given: torch.Tensor | None, generator: torch.Generator, noise: torch.Generator | None
    ) -> tuple[float, bool]:
        """Reward and termination by code that cannot be recorded, or that the world has learned."""
        b, i, world = self.buffers, self._inputs, self.world
        flat: Any = i["action"].copy() if given is None else given
        known = beside(i["core"], i["shown"]).copy(), flat, b["next_full"].copy(), b["unobserved"].copy()
        encoded = world.encode_action(torch.as_tensor(flat))
        logit = torch.tensor(b["end_logit"])[0] if "end_logit" in b else None
        with torch.no_grad():
            reward, terminated = outcome_of(
                world.task,
                world.outcomes,
                known,
                encoded,
                torch.tensor(b["predicted"]),
                logit,
                generator,
                noise,
            )
        return float(reward), bool(terminated)


def _stamp(world: WorldModel) -> int:
    return sum(model.stamp() for model in networks(world) if isinstance(model, EnsembleMLP))
