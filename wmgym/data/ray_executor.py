"""Units of work on a Ray cluster, or on a Ray that runs on this machine alone.

Ray executes what its driver sends, pickled with cloudpickle: whoever reaches a cluster can run code on it.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections import Counter, OrderedDict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from wmgym.data.own_envs import OwnEnv, own_envs, register_own
from wmgym.data.ray_cluster import cloudpickle, connect, exceptions, ray
from wmgym.data.units import Item, Outcome, Result, Unit, Work, attempt, outcome_of
from wmgym.data.unpicklable import culprit
from wmgym.io.progress import Advance

_LARGE = 1 << 16  # bytes from which an array travels on its own
_KEPT = 1 << 28  # bytes of arrays that stay on the cluster for the next call
_LOOK_SECONDS = 0.2
_CLUSTER_SECONDS = 5.0  # how often the cluster is asked what it has
_NODE_LOST = (exceptions.NodeDiedError, exceptions.ObjectLostError, exceptions.LocalRayletDiedError)
_PROCESS_LOST = (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError)
_ATTEMPTS = {True: 6, False: 2}
"""Of a unit whose node was lost, and of one whose process died while its node lived on."""


@dataclass(frozen=True)
class RayExecutor:
    """Does units on the nodes of a Ray cluster, which must trust whoever drives it.

    Arrays of 64 KiB or more, such as the weights of a world or the columns of transitions, go to Ray's object
    store under the hash of their content, once, and from there to each node once. Results come back as bytes;
    no file system is shared. A unit whose node is lost starts anew on another one.

    Attributes:
        address: of the cluster; ``"auto"`` is the one that this machine belongs to. None starts Ray on this
            machine, where it is not running in this process already, until this process ends.
        workers: CPUs of a Ray that is started here; None takes every core.
    """

    shares_files: ClassVar[bool] = False
    address: str | None = None
    workers: int | None = None
    _sent: _Sent = field(default_factory=lambda: _Sent(), init=False, repr=False, compare=False)

    def map(
        self, work: Work[Item, Result], units: Iterable[Unit[Item]], advance: Advance
    ) -> Generator[Outcome[Item, Result]]:
        """Outcomes as they come; progress with each.

        Raises:
            ConnectionError: no Ray answers at the address.
            ValueError: the work or a unit cannot be pickled, or asks for what the cluster does not have; the
                message names the unit and what of it.
        """
        connect(self.address, self.workers)
        payload, shared = self._sent.pack(work, "the work")
        tasks = _Tasks(self._sent, ray.put((own_envs(), payload)), shared)
        waiting = enumerate(units)
        more = True
        try:
            while more or tasks.running:
                while more and tasks.room():
                    following = next(waiting, None)
                    if following is None:
                        more = False
                        break
                    tasks.begin(*following)
                advance(0)
                for amount, outcome in tasks.ended():
                    advance(amount)
                    yield outcome
        finally:
            tasks.stop()


class _Tasks:
    """The units that Ray has been given, and what became of them."""

    def __init__(self, sent: _Sent, work: Any, shared: dict[str, Any]) -> None:
        self.running: dict[Any, tuple[int, Unit[Any]]] = {}
        self._sent, self._work, self._shared = sent, work, shared
        self._attempts: Counter[int] = Counter()
        self._do = ray.remote(_do)
        self._looked, self._there = -np.inf, dict[str, float]()
        self._last = {"CPU": 1.0}

    def room(self) -> bool:
        """Whether the cluster, as it is now, can hold one more unit like the last."""
        there = self._cluster()
        fits = min(there.get(name, 0.0) / amount for name, amount in self._last.items() if amount > 0)
        return len(self.running) < max(1, int(fits))

    def begin(self, index: int, unit: Unit[Any]) -> None:
        """Hand over a unit; one that the cluster cannot hold is refused, for it would wait for ever."""
        self._last = {"CPU": 1.0, **unit.resources}
        for name, amount in unit.resources.items():
            if amount > (found := self._cluster().get(name, 0.0)):
                raise ValueError(
                    f"unit {unit.name!r} asks for {amount:g} {name}, and the cluster has {found:g}"
                )
        self.start(index, unit)

    def start(self, index: int, unit: Unit[Any]) -> None:
        payload, own = self._sent.pack(unit, f"unit {unit.name!r}")
        arrays = {**self._shared, **own}
        options = _options(unit)
        ref = self._do.options(**options).remote(self._work, payload, list(arrays), *arrays.values())
        self.running[ref] = index, unit

    def ended(self) -> Iterator[tuple[int, Outcome[Any, Any]]]:
        """The progress of those that have ended since, and what came of them; lost ones start again."""
        if not self.running:
            return
        ready, _ = ray.wait(list(self.running), timeout=_LOOK_SECONDS)
        if ready:  # all others that have ended, too
            ready, _ = ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
        for ref in sorted(ready, key=lambda ref: self.running[ref][0]):
            index, unit = self.running.pop(ref)
            try:
                amount, payload = ray.get(ref)
            except (*_NODE_LOST, *_PROCESS_LOST) as error:
                self._attempts[index] += 1
                lost_node = isinstance(error, _NODE_LOST)
                if self._attempts[index] < _ATTEMPTS[lost_node]:
                    self.start(index, unit)
                    continue
                what = "its node was lost" if lost_node else "a worker process died"
                often = f"{self._attempts[index]} times"
                died = RuntimeError(f"unit {unit.name!r}: {what}, {often}; is memory short?")
                yield 0, Outcome(index, unit, error=died)
            except exceptions.RayError as error:
                said = " ".join(str(error).split())[:300]
                failed = RuntimeError(f"unit {unit.name!r}: Ray could not do it: {said}")
                yield 0, Outcome(index, unit, error=failed)
            else:
                yield amount, outcome_of(index, unit, payload, cloudpickle.loads)

    def _cluster(self) -> dict[str, float]:
        """What the cluster has, as of some seconds ago."""
        if time.monotonic() - self._looked > _CLUSTER_SECONDS:
            self._looked, self._there = time.monotonic(), ray.cluster_resources()
        return self._there

    def stop(self) -> None:
        for ref in self.running:
            ray.cancel(ref, force=True)
        self.running.clear()


class _Sent:
    """Arrays that are on the cluster already, by the hash of their content."""

    def __init__(self) -> None:
        self._refs: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._job = ""

    def pack(self, value: Any, what: str) -> tuple[bytes, dict[str, Any]]:
        """A pickle without its large arrays, and references to these by their hashes.

        Raises:
            ValueError: it cannot be pickled; names the part of it.
        """
        found: dict[str, np.ndarray] = {}
        try:
            payload = _dumps(value, found)
        except Exception as error:  # whatever the classes of users raise
            where, why = culprit(value, error, lambda part: _dumps(part, {}))
            said = " ".join(str(why).split())[:200]
            place = f" ({where})" if where else ""
            raise ValueError(f"{what}{place} cannot be sent to another machine: {said}") from error
        return payload, {name: self._ref(name, array) for name, array in found.items()}

    def _ref(self, name: str, array: np.ndarray) -> Any:
        job = ray.get_runtime_context().get_job_id()
        if job != self._job:  # another cluster, or the same one joined anew
            self._refs.clear()
            self._job = job
        if name not in self._refs:
            self._refs[name] = ray.put(array), array.nbytes
            while len(self._refs) > 1 and sum(size for _, size in self._refs.values()) > _KEPT:
                self._refs.popitem(last=False)
        self._refs.move_to_end(name)
        return self._refs[name][0]


class _Pickler(cloudpickle.Pickler):
    """Leaves large arrays out, each replaced by the hash of its content."""

    def __init__(self, file: io.BytesIO, found: dict[str, np.ndarray]) -> None:
        super().__init__(file)
        self._found = found

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is np.ndarray and obj.nbytes >= _LARGE and not obj.dtype.hasobject:
            array = np.ascontiguousarray(obj)
            name = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()).hexdigest()
            self._found[name] = array
            return _array, (name,)
        return super().reducer_override(obj)


def _dumps(value: Any, found: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, found).dump(value)
    return file.getvalue()


_arrived: dict[str, np.ndarray] = {}  # in a worker, while it unpickles


def _array(name: str) -> np.ndarray:
    return _arrived[name].copy()  # Ray's own is read-only


def _do(
    work: tuple[list[OwnEnv], bytes], unit: bytes, names: list[str], *arrays: np.ndarray
) -> tuple[int, bytes]:
    """In a worker: the progress of a unit and what came of it."""
    done = 0

    def advance(amount: int, note: str = "") -> None:
        nonlocal done
        done += amount

    envs, payload = work
    register_own(envs)
    _arrived.update(zip(names, arrays, strict=True))
    try:
        given, piece = cloudpickle.loads(payload), cloudpickle.loads(unit)
    finally:
        _arrived.clear()
    outcome = attempt(given, piece, advance, cloudpickle.dumps)
    return done, outcome


def _options(unit: Unit[Any]) -> dict[str, Any]:
    """What Ray is told of a unit."""
    asked = {"CPU": 1.0, **unit.resources}
    own = {key: asked.pop(name) for name, key in _KEYWORDS.items() if name in asked}
    return {"max_retries": 0, **own, "resources": asked}  # lost units are started again here


_KEYWORDS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
