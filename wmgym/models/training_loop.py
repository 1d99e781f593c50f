"""The gradient steps of a fit: likelihood of single steps, then of rollouts, and early stopping."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from wmgym.data.transitions import Transitions
from wmgym.io.progress import track
from wmgym.models.config import FitConfig
from wmgym.models.ensemble import EnsembleMLP
from wmgym.models.muon import Muon
from wmgym.models.symmetry import Views, mapped, placed
from wmgym.tasks import actions

CONSTANT = 1e-8  # a standard deviation below this is none
_PAST_LIMIT = 0.02  # share of its range by which an imagined joint may pass its limit


@dataclass(frozen=True)
class FitState:
    """A network and the data that it is fitted to.

    Attributes:
        model: with its normalisers set.
        inputs: ``(n, input_dim)``, normalised.
        labels: ``(n, target_dim)``, normalised.
        ends: ``(n,)`` of 0 and 1, whether the episode terminated.
        rows: indices into all of these, the training rows.
        config: settings.
        generator: source of the batches.
        validation_fn: held-out error of the model; the weights with the smallest are kept.
        progress: show a bar on a terminal.
        views: symmetry augmentation; every row of a batch is seen through one at random.
    """

    model: EnsembleMLP
    inputs: Tensor
    labels: Tensor
    ends: Tensor
    rows: Tensor
    config: FitConfig
    generator: torch.Generator
    validation_fn: Callable[[EnsembleMLP], float]
    progress: bool
    views: Views | None = None

    def on_device(self) -> FitState:
        """The same where the settings say that it learns; the network itself moves there."""
        device = self.config.device
        if torch.device(device).type == "cpu":
            return self
        self.model.to(device)
        drawn = torch.randint(2**62, (), generator=self.generator)
        return replace(
            self,
            **{name: getattr(self, name).to(device) for name in ("inputs", "labels", "ends", "rows")},
            generator=torch.Generator(device).manual_seed(int(drawn)),
            views=None if self.views is None else self.views.to(device),
        )


def optimise(fitting: FitState, name: str) -> list[float]:
    """Fit to single steps, with early stopping; returns the validation errors."""
    fitting = fitting.on_device()
    model, config = fitting.model, fitting.config
    inputs, labels, ends = (x[fitting.rows] for x in (fitting.inputs, fitting.labels, fitting.ends))
    batches = _Batches(len(inputs), config, fitting.generator)

    def loss() -> Tensor:
        rows = batches.draw()  # (members, batch)
        seen, wanted = inputs[rows], labels[rows]
        if fitting.views is not None:
            view = torch.randint(
                len(fitting.views.inputs), rows.shape, generator=fitting.generator, device=rows.device
            )
            seen, wanted = fitting.views.of(seen, wanted, view)
        return model.loss(model.network(seen), wanted, ends[rows])

    rate = config.learning_rate
    schedule = config.max_updates, rate, rate / (10 if config.optimizer == "AdamW" else 50)
    return _descend(fitting, loss, name, schedule, clip=100.0, patience=config.patience)


def finetune(fitting: FitState, train: Transitions) -> list[float]:
    """Fit to rollouts of every member over windows of the data; returns the validation errors.

    At each step the label is the change from the imagined state to the next real one. Its likelihood is
    differentiated through the rollout, so errors that accumulate cost more than those that cancel. The
    weights with the smallest validation error are kept, those before the first update included.
    """
    length = fitting.config.finetune_steps
    found = windows(train, fitting.rows.numpy(), length)
    if not len(found):
        return []
    fitting = fitting.on_device()
    model, config, labels, ends = fitting.model, fitting.config, fitting.labels, fitting.ends
    here = torch.device(config.device)
    starts, core, next_core = (torch.tensor(x, device=here) for x in (found, train.core, train.next_core))
    action, displacement = encoded_actions(train).to(here), torch.tensor(train.displacement).float().to(here)
    low, high = (torch.tensor(x, device=here)[: core.shape[1]] for x in data_range(train, config.margin))
    symmetries = () if fitting.views is None else fitting.views.symmetries
    geometry = train.task.core.geometry
    coordinates, changes = model.coordinates, model.coordinates.change_dim
    unit, middle = model.target_std[:changes], model.target_mean[:changes]
    shape = (model.num_members, max(1, config.batch_size // 4))

    def loss() -> Tensor:
        draw = partial(torch.randint, generator=fitting.generator, device=here)
        first = starts[draw(len(starts), shape)].flatten()
        through = int(draw(len(symmetries) + 1, ())) if symmetries else 0

        def seen(core: Tensor) -> Tensor:
            return mapped(symmetries[through - 1], geometry, core) if through else core

        state, total = seen(core[first]), torch.zeros((), device=here)
        for at in (first + step for step in range(length)):
            given, shift = action[at], displacement[at]
            if through:
                given = placed(symmetries[through - 1].action, given)
                shift = placed(symmetries[through - 1].displacement, shift)
            outputs = model.network(model.encode(state, given).view(*shape, -1))
            wanted = coordinates.difference(state, seen(next_core[at]), shift)
            wanted = torch.cat([(wanted - middle) / unit, labels[at][:, changes:]], 1)
            total = total + model.loss(outputs, wanted.view(*shape, -1), ends[at].view(shape)) / length
            change = torch.addcmul(middle, outputs[..., :changes].flatten(0, 1), unit)
            moved = coordinates.followed(state, coordinates.move(state, change)[0], given)
            state = torch.clamp(moved, low, high)
        return total

    rate = config.learning_rate / 5
    schedule = config.finetune_updates, rate, rate / 20
    return _descend(fitting, loss, "fine-tune", schedule, clip=10.0)


def _descend(
    fitting: FitState,
    loss_now: Callable[[], Tensor],
    name: str,
    schedule: tuple[int, float, float],
    clip: float,
    patience: float = math.inf,
) -> list[float]:
    """Updates from a first learning rate to a last one; keeps the weights of the least error, on the CPU."""
    model, config, validation_fn = fitting.model, fitting.config, fitting.validation_fn
    updates, rate, last_rate = schedule
    optimizers = _optimizers(model, config, rate)
    schedulers = [
        torch.optim.lr_scheduler.CosineAnnealingLR(each, updates, eta_min=last_rate) for each in optimizers
    ]
    best, best_error, since, history = copy.deepcopy(model.state_dict()), validation_fn(model), 0, []
    with track(name, updates, show=fitting.progress) as advance:
        for update in range(1, updates + 1):
            loss = loss_now()
            model.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip, foreach=True)
            for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                optimizer.step()
                scheduler.step()
            note = ""
            if update % config.eval_every == 0 or update == updates:
                error = validation_fn(model)
                history.append(round(error, 6))
                note = f"error {error:.3f}"
                if error < best_error:
                    best, best_error, since = copy.deepcopy(model.state_dict()), error, 0
                else:
                    since += 1
            advance(1, note)
            if since >= patience:
                break
    model.load_state_dict(best)
    model.to("cpu")
    return history


def _optimizers(model: EnsembleMLP, config: FitConfig, rate: float) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon beside it for the hidden layers where the settings ask for that."""
    hidden = [*model.weights][1:-1] if config.optimizer == "Muon" else []
    own = {id(each) for each in hidden}
    rest = [each for each in model.parameters() if id(each) not in own]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=rate, weight_decay=config.weight_decay, fused=True)
    ]
    return [*found, Muon(hidden, rate, config.weight_decay)] if hidden else found


def encoded_actions(train: Transitions) -> Tensor:
    """Actions as the dynamics take them: ``(n, action_dim)`` floats, clipped or one-hot."""
    return torch.tensor(actions.seen(train.task.action_space, train.action), dtype=torch.float32)


def safe_std(values: Tensor) -> Tensor:
    """Standard deviation, 1 for a dimension that never moves (a fixed target, say)."""
    std = values.std(0)
    return torch.where(std < CONSTANT, torch.ones_like(std), std)


def in_one_unit(std: Tensor, groups: Iterable[Sequence[int]]) -> Tensor:
    """Deviations ``(n,)`` in which the components of a vector count alike.

    How a box that stands on a table trembles is no larger an error for being small.
    """
    std = std.clone()
    for group in groups:
        std[list(group)] = std[list(group)].square().mean().sqrt()
    return std


def target_unit(target: Tensor) -> Tensor:
    """Standard deviation, or so small a unit that a constant target is predicted all but exactly."""
    std = target.std(0)
    return torch.where(std < CONSTANT, (1e-3 * target.mean(0).abs()).clamp(min=1e-6), std)


def data_range(
    train: Transitions, margin: float, joint_limits: tuple[tuple[int, float, float], ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest core and displacement allowed; places and directions are not limited.

    Joints ``(core dimension, low, high)`` may pass their limits a little, or as far as the data does.
    """
    seen = np.concatenate([train.core, train.displacement.astype(np.float32)], 1)
    last = np.concatenate([train.next_core, train.displacement.astype(np.float32)], 1)
    least, most = np.minimum(seen.min(0), last.min(0)), np.maximum(seen.max(0), last.max(0))
    span = np.maximum(most - least, 1e-3)
    low, high = least - margin * span, most + margin * span
    geometry = train.task.core.geometry
    base = (i for at in geometry.quaternions for i in range(at, at + 4))
    unlimited = [*geometry.angles, *geometry.free, *(i for i, _, _ in geometry.wrapped), *base]
    low[unlimited], high[unlimited] = -np.inf, np.inf
    for joint, first, final in joint_limits:
        slack = _PAST_LIMIT * (final - first)
        low[joint], high[joint] = min(first, least[joint]) - slack, max(final, most[joint]) + slack
    for i, (first, final) in geometry.told_by_actions(actions.bounds(train.task.action_space)).items():
        low[i], high[i] = np.fmin(first, low[i]), np.fmax(final, high[i])  # data may be of timid policies
    return low.astype(np.float32), high.astype(np.float32)


def windows(train: Transitions, rows: np.ndarray, length: int) -> np.ndarray:
    """Starts of windows that begin and end in ``rows``."""
    starts = np.intersect1d(train.window_starts(length), rows)
    inside: np.ndarray = starts[np.isin(starts + length - 1, rows)]
    return inside


class _Batches:
    """Every member walks through its own permutation of the data."""

    def __init__(self, n: int, config: FitConfig, generator: torch.Generator) -> None:
        self.n, self.size, self.members = n, min(config.batch_size, n), config.members
        self.generator, self.at = generator, n

    def draw(self) -> Tensor:
        if self.at + self.size > self.n:
            noise = torch.rand(self.members, self.n, generator=self.generator, device=self.generator.device)
            self.order, self.at = noise.argsort(1), 0
        rows = self.order[:, self.at : self.at + self.size]
        self.at += self.size
        return rows
