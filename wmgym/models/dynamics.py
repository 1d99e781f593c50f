"""The protocol of a one-step model, what it predicts, and the names under which models are saved."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from wmgym.data.transitions import Transitions
from wmgym.io.artifacts import StoreError
from wmgym.models.coordinates import Coordinates

Propagation: TypeAlias = Literal["mean", "member", "sample"]
"""Mean of all members; one member an episode; one member an episode and its noise at every step."""

PROPAGATIONS: tuple[Propagation, ...] = get_args(Propagation)
Precision: TypeAlias = Literal["float32", "bfloat16"]

Carry: TypeAlias = Tensor | tuple[Tensor, ...] | None
"""What a model remembers of each episode: tensors with a leading batch dimension, or None for no memory.

The world never looks inside; it takes rows, repeats them and hands them back. An episode starts without one,
or with zeros where it starts beside episodes under way: a model treats the two alike.
"""

D = TypeVar("D", bound=type)


@dataclass(frozen=True)
class Prediction:
    """What ensemble members say of one step, in raw units.

    Attributes:
        mean: ``(..., target_dim)``, the change first.
        noise: the standard deviation, or a function that computes it: half of a network's last layer, and
            often not needed.
        end_logit: ``(...)`` logit of termination, or None where the task's formula decides.
        carry: what the model remembers for the next step, leading shape ``(batch,)``; None for no memory.
    """

    mean: Tensor
    noise: Tensor | Callable[[], Tensor]
    end_logit: Tensor | None = None
    carry: Carry = None

    @property
    def std(self) -> Tensor:
        """``(..., target_dim)``, of the target's own noise; > 0."""
        return self.noise() if callable(self.noise) else self.noise

    def sample(self, std_scale: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one target per row; ``std_scale`` ``(target_dim,)`` multiplies the noise."""
        draw = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return torch.addcmul(self.mean, std_scale * self.std, draw)


class Dynamics(Protocol):
    """A one-step model of ``num_members`` members; any object with these attributes and this method.

    What it predicts are ``targets(data)``: the change of the core in the task's ``Coordinates``, the root's
    displacement, then the reward where no formula for it is known. A single member is enough; the trust
    signal then knows of no disagreement.

    Five more attributes are used where a model has them:

    - ``predict_assigned(core, action, member, carry=None)``: each row by its own member ``(batch,)`` int64,
      leading shape ``(batch,)``; without it rows are picked from ``predict``, which costs all members.
    - ``predict_pair(core, companion, action, member, carry=None, companion_carry=None)``:
      ``predict_assigned`` of both, the companions by each row's next member; without it, two calls.
    - ``coordinates``: the ``Coordinates`` in which it predicts changes; without it, those of the task.
    - ``memory``: how many steps its carry tells of. Comparisons that start within a real episode show it
      that many real steps first; without it they start as an episode does.
    - ``settings``, or ``pack`` and ``unpack``, for saving; see ``register_dynamics``.
    """

    @property
    def num_members(self) -> int:
        """Number of ensemble members."""
        ...

    @property
    def target_dim(self) -> int:
        """Length of a predicted target."""
        ...

    def predict(self, core: Tensor, action: Tensor, carry: Carry = None) -> Prediction:
        """Predict a step of all members for all rows.

        Args:
            core: ``(batch, core_dim)``, raw units.
            action: ``(batch, action_dim)`` floats, clipped to the action space; one-hot for Discrete.
            carry: what the last prediction returned for these episodes; a model that returns none is called
                without it and need not take it.

        Returns:
            Leading shape ``(num_members, batch)``; the carry's is ``(batch,)``.
        """
        ...


def predict_assigned(
    model: Dynamics, core: Tensor, action: Tensor, member: Tensor, carry: Carry = None
) -> Prediction:
    """Each row by its own member ``(batch,)`` int64: leading shape ``(batch,)``."""
    given = () if carry is None else (carry,)
    own: Callable[..., Prediction] | None = getattr(model, "predict_assigned", None)
    if own is not None:
        return own(core, action, member, *given)
    every, rows = model.predict(core, action, *given), torch.arange(len(member), device=member.device)
    logit = None if every.end_logit is None else every.end_logit[member, rows]
    return Prediction(every.mean[member, rows], lambda: every.std[member, rows], logit, every.carry)


_REGISTERED: dict[str, Any] = {}
# Kinds of wmgym's own; a process that only loads a world may not have imported their modules yet.
_OWN_KINDS = {
    "ensemble": "ensemble",
    "mujoco": "residual",
    "residual": "residual",
    "flags": "flags",
    "classifier": "outcomes",
    "rewards": "pairs",
}


def register_dynamics(name: str) -> Callable[[D], D]:
    """Class decorator: worlds with dynamics of this class are saved, and found again, under ``name``.

    A ``torch.nn.Module`` has an attribute ``settings``, the keywords of its constructor, JSON values; what is
    stored are these and its state dict. Any other class has a method ``pack() -> (arrays, settings)``, NumPy
    arrays by name and a dict of JSON values, and a classmethod ``unpack(arrays, settings)``. A file names its
    class and holds no code: loading it needs the module imported that registers the name.

    Raises:
        ValueError: another class has that name.
    """

    def register(kind: D) -> D:
        held = _REGISTERED.setdefault(name, kind)
        if (held.__module__, held.__qualname__) != (kind.__module__, kind.__qualname__):
            raise ValueError(f"{held.__qualname__} is registered as {name!r} already; choose another name")
        _REGISTERED[name] = kind
        return kind

    return register


def pack_dynamics(model: Dynamics) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
    """The name under which a model's class is registered, and what its ``pack`` returns.

    Raises:
        ValueError: its class has no name.
    """
    name = next((name for name, kind in _REGISTERED.items() if type(model) is kind), None)
    if name is None:
        raise ValueError(
            f"{type(model).__name__} has no name to be saved under; "
            "decorate the class with @wmgym.register_dynamics('...')"
        )
    packed: Any = model
    if hasattr(model, "pack") or not isinstance(model, nn.Module):
        return name, *packed.pack()
    arrays = {key: value.detach().cpu().numpy() for key, value in packed.state_dict().items()}
    return name, arrays, dict(packed.settings)


def unpack_dynamics(name: str, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Dynamics:
    """Rebuild a model of the class registered as ``name``.

    Raises:
        StoreError: no class is.
    """
    if name in _OWN_KINDS:
        importlib.import_module(f"wmgym.models.{_OWN_KINDS[name]}")
    kind = _REGISTERED.get(name)
    if kind is None:
        raise StoreError(
            f"its dynamics are of the kind {name!r}, which no imported module registers; "
            f"import the one that holds @register_dynamics({name!r}) first"
        )
    model: Any
    if hasattr(kind, "unpack"):
        model = kind.unpack(arrays, settings)
    else:
        model = kind(**settings).requires_grad_(False).eval()
        model.load_state_dict({key: torch.tensor(array) for key, array in arrays.items()})
    return model  # type: ignore[no-any-return]


def targets(
    data: Transitions, coordinates: Coordinates | None = None, target_dim: int | None = None
) -> Tensor:
    """What a dynamics model should have predicted: ``(n, target_dim)`` float32, raw units.

    The reward is among it only where the task knows none, the data has it, and a model of this
    ``target_dim`` predicts it. Changes are in the task's coordinates unless others are given.
    """
    coordinates = coordinates or Coordinates(data.task.core.geometry)
    displacement = torch.tensor(data.displacement).float()
    change: Tensor = coordinates.difference(
        torch.tensor(data.core), torch.tensor(data.next_core), displacement
    )
    if data.task.reward is not None or data.reward is None or target_dim == change.shape[1]:
        return change
    return torch.cat([change, torch.tensor(data.reward).float()[:, None]], 1)
