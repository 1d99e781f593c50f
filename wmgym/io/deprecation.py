"""Names of version 0.1 that keep working for one release, each with a warning that says the new one."""

from __future__ import annotations

import functools
import importlib
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

T = TypeVar("T", bound=Callable[..., Any])

OLD_MODULES = {
    "archive": "models.saving",
    "arrays": "models.batching",
    "calibrating": "calibration.calibrate calibration.conformal",
    "calibration": "models.error_bounds",
    "chart": "models.coordinates models.rotations",
    "cli": "app.cli",
    "collecting": "data.collect",
    "console": "app.console",
    "data": "data.transitions data.logs data.joining",
    "doctor": "app.doctor",
    "drift": "calibration.online calibration.shift_detection",
    "dynamics": "models.dynamics models.ensemble models.config",
    "env": "envs.env envs.registration",
    "files": "io.files",
    "fitting": "models.fit",
    "groundtruth": "tasks.ground_truth tasks.rendering data.branch",
    "ledger": "io.provenance",
    "optimising": "models.config models.training_loop models.ensemble",
    "pipeline": "app.run",
    "policy": "data.policy data.pool",
    "progress": "io.progress",
    "recipes": "app.recipes",
    "records": "tasks.schema io.schema io.provenance",
    "replaying": "calibration.open_loop",
    "rules": "calibration.scoring_rules",
    "scoring": "evaluation.score evaluation.gap_report evaluation.intervals",
    "store": "io.artifacts io.files",
    "streams": "data.rollout_worker data.policy",
    "support": "models.support",
    "symmetry": "models.symmetry",
    "task": "tasks.task",
    "tasks": "tasks.layout tasks.registry",
    "vector_env": "envs.vector_env envs.trust envs.episodes",
    "world": "models.world models.state models.dynamics io.provenance",
}
"""Each module that moved, and the new ones that hold what was in it; three are packages by that name now."""

_OLD_NAMES = {
    "Chart": "Coordinates",
    "MODES": "PROPAGATIONS",
    "Mode": "Propagation",
    "OnDistrust": "OnExceed",
    "SMALLEST_DOUBT": "SMALLEST_DISAGREEMENT",
    "groundtruth.replay": "open_loop",
    "replay_errors": "open_loop_errors",
    "replaying.replay": "open_loop_steps",
}
"""Names in those modules that changed on the way."""


def warn_renamed(old: str, new: str) -> None:
    """Say that ``old`` is ``new`` now, at the line outside wmgym that used it."""
    _warn(f"{old} is {new} now; the old name goes in the next release")


def warn_old_file(path: str) -> None:
    """Say that version 0.1 saved what is at ``path``, at the line outside wmgym that loads it."""
    _warn(f"{path} is from wmgym 0.1, whose files the next release will not load; save it again")


def _warn(text: str) -> None:
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED_ON and frame.f_back is not None:
        frame = frame.f_back
    where = frame.f_code.co_filename, frame.f_lineno, frame.f_globals.get("__name__")
    seen = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(text, DeprecationWarning, *where, registry=seen)


_PASSED_ON = {"wmgym", "gymnasium", "importlib"}
"""Packages that hand on what a user gave them."""


def renamed(**new_names: str) -> Callable[[T], T]:
    """Let a function or a class take keywords by their old names, and a class give attributes by them.

    ``@renamed(mode="propagation", tolerance="trust.threshold")``: the second one is a field of the keyword
    ``trust=``, which takes a mapping of its fields.
    """

    def decorate(target: T) -> T:
        if isinstance(target, type):
            kind: Any = target
            kind.__init__ = renamed(**new_names)(kind.__init__)
            for old, new in new_names.items():
                give = functools.partial(_give, f"{kind.__name__}.{old}", new)
                setattr(kind, old, property(give, doc=""))  # the documentation leaves it out
            return target

        @functools.wraps(target)
        def call(*args: Any, **kwargs: Any) -> Any:
            if new_names.keys().isdisjoint(kwargs):  # as every step of a world passes here
                return target(*args, **kwargs)
            return target(*args, **_moved(kwargs, new_names))

        return cast(T, call)

    return decorate


def _give(old: str, new: str, value: object) -> Any:
    warn_renamed(old, new)
    name, _, field = new.partition(".")
    found = getattr(value, name)
    return getattr(UNSET[name] if found is None else found, field) if field else found


UNSET: dict[str, object] = {}
"""Of keywords that hold several old ones, by name: whose fields the old attributes give where it is None."""


def _moved(given: Mapping[str, Any], new_names: Mapping[str, str]) -> dict[str, Any]:
    """The keywords by their new names."""
    found = {name: value for name, value in given.items() if name not in new_names}
    for old, value in given.items():
        if old not in new_names:
            continue
        name, _, field = new_names[old].partition(".")
        there = found.get(name)
        if field and isinstance(there, bool | None):
            there = {}
        if name in found and not (field and isinstance(there, Mapping) and field not in there):
            raise ValueError(f"{old} is {new_names[old]} now; pass that alone")
        warn_renamed(old, new_names[old])
        found[name] = {**there, field: value} if isinstance(there, Mapping) else value
    trust = found.get("trust")
    if "trust" not in given and isinstance(trust, Mapping) and trust.get("on_exceed", "ignore") == "ignore":
        del found["trust"]  # without trust=True the old keywords asked for nothing
    return found


def install() -> None:
    """Make the old modules importable; each looks names up in its new homes as they are asked for."""
    for name in OLD_MODULES.keys() - {"calibration", "data", "tasks"}:
        module = types.ModuleType(f"wmgym.{name}", "Old names; see the migration page of the documentation.")
        module.__getattr__ = functools.partial(look_up, name)  # type: ignore[method-assign]
        sys.modules[module.__name__] = module


def look_up(module: str, name: str) -> Any:
    """What had this name in an old module."""
    new = _OLD_NAMES.get(f"{module}.{name}") or _OLD_NAMES.get(name, name)
    for home in () if name.startswith("_") else OLD_MODULES[module].split():  # ``inspect`` asks for __file__
        found = importlib.import_module(f"wmgym.{home}")
        if new in vars(found):
            warn_renamed(f"wmgym.{module}.{name}", f"wmgym.{home}.{new}")
            return getattr(found, new)
    raise AttributeError(f"module 'wmgym.{module}' has no attribute {name!r}")
