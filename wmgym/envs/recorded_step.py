"""A step of imagined episodes as a CUDA graph: recorded once, it launches a hundred kernels in one go.

Launched one by one from Python, the small kernels of a step take longer to launch than to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at the operations of a step.

    Attributes:
        waits: whether one of them makes the host wait for the device, which no graph can hold.
        read: tensors that were there before. A graph reads them where they lie, so they have to stay.
    """

    _WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "repeat_interleave", "equal")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits = False
        self.read: dict[int, Tensor] = {}
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        given, made = list(_tensors([*args, *(kwargs or {}).values()])), list(_tensors([found]))
        masked = name.startswith("index") and any(each.dtype == torch.bool for each in _tensors(args[1:2]))
        devices = {each.device.type for each in (*given, *made)}
        numbers = name in ("_to_copy", "copy_") or any(each.ndim for each in given if each.is_cpu)
        # A single number of the host's is passed on with the call, unless it is copied.
        if name in self._WAITING or masked or (len(devices) > 1 and numbers):
            self.waits = True
        for tensor in given:
            place = tensor.untyped_storage().data_ptr()
            if place not in self._made:
                self.read.setdefault(place, tensor)
        self._made.update(each.untyped_storage().data_ptr() for each in made)
        return found


def _tensors(found: Any) -> Iterator[Tensor]:
    for each in found:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, (list, tuple)):
            yield from _tensors(each)


def fits(work: Callable[[], T]) -> tuple[T, bool]:
    """Do the work, and say whether a graph can hold it."""
    with Watch() as watch:
        found = work()
    return found, not watch.waits


def record(work: Callable[[], T], generator: torch.Generator) -> tuple[T, Callable[[], None]]:
    """What the work gives, in tensors that the function beside it fills anew by doing the work again.

    Recording alone does no work. The work has to read and write the same tensors each time.
    """
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph), Watch() as watch:
        found = work()

    def replay(read: dict[int, Tensor] = watch.read) -> None:  # which keeps what it reads
        graph.replay()

    return found, replay
