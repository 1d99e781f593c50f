"""Names of version 0.1 that go on working for one release, each with a warning that says the new one."""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.util
import operator
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

OLD_MODULES: dict[str, tuple[str, ...]] = {
    "archive": ("models.saving",),
    "arrays": ("models.batching",),
    "calibrating": ("calibration.calibrate", "calibration.conformal"),
    "chart": ("models.coordinates", "models.rotations"),
    "cli": ("app.cli",),
    "collecting": ("data.collect",),
    "console": ("app.console",),
    "doctor": ("app.doctor",),
    "drift": ("calibration.online", "calibration.shift_detection"),
    "dynamics": ("models.dynamics", "models.ensemble", "models.config"),
    "env": ("envs.env", "envs.registration"),
    "files": ("io.artifacts", "io.files"),
    "fitting": ("models.fit",),
    "groundtruth": ("tasks.ground_truth", "tasks.rendering", "data.branch"),
    "ledger": ("io.provenance",),
    "optimising": ("models.training_loop", "models.config", "models.losses"),
    "pipeline": ("app.run",),
    "policy": ("data.policy", "data.pool"),
    "progress": ("io.progress",),
    "recipes": ("app.recipes",),
    "records": ("tasks.schema", "io.schema", "io.provenance"),
    "replaying": ("calibration.open_loop",),
    "rules": ("calibration.scoring_rules",),
    "sb3.export": ("agents.sb3.export",),
    "sb3.importing": ("agents.sb3.load_zip",),
    "sb3.training": ("agents.sb3.train", "agents.sb3.agent_state"),
    "sb3.vec_env": ("agents.sb3.vec_env",),
    "scoring": ("evaluation.score", "evaluation.gap_report", "evaluation.intervals"),
    "store": ("io.artifacts", "io.files"),
    "streams": ("data.rollout_worker", "data.policy"),
    "support": ("models.support",),
    "symmetry": ("models.symmetry",),
    "task": ("tasks.task",),
    "tasks.floating": ("tasks.mujoco_v5.floating_base",),
    "tasks.jointed": ("tasks.mujoco_v5.fixed_base",),
    "tasks.known": ("tasks.layout", "tasks.spec"),
    "tasks.planar": ("tasks.mujoco_v5.planar",),
    "vector_env": ("envs.vector_env", "envs.snapshot", "envs.trust"),
    "world": ("models.world", "models.state", "io.provenance"),
}
"""Each old module, and the new ones that hold what was in it; the first is named in the warning."""

OLD_PACKAGES = {
    "calibration": ("models.error_bounds",),
    "data": ("data.transitions", "data.logs"),
    "tasks.mujoco_v5": ("tasks.registry",),
}
"""Modules that are packages now, and where the names are that they held."""

OLD_NAMES = {
    "Chart": "Coordinates",
    "Mode": "Propagation",
    "MODES": "PROPAGATIONS",
    "OnDistrust": "OnExceed",
    "Replay": "OpenLoopStep",
}
"""Names in those modules that changed on the way."""


def warn_renamed(old: str, new: str) -> None:
    """Say that ``old`` is ``new`` now, at the line outside wmgym that used it."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED_ON and frame.f_back is not None:
        frame = frame.f_back
    text = f"{old} is {new} now; the old name goes in the next release"
    where = frame.f_code.co_filename, frame.f_lineno, frame.f_globals.get("__name__")
    seen = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(text, DeprecationWarning, *where, registry=seen)


_PASSED_ON = {"wmgym", "gymnasium", "importlib"}
"""Packages that hand on what a user gave them."""


def renamed_keywords(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take keywords by their old names: ``@renamed_keywords(mode="propagation")``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given: dict[str, Any] = kwargs
            if new_names.keys().isdisjoint(given):  # as every step of a world passes here
                return function(*args, **kwargs)
            for old, new in new_names.items():
                if old in given:
                    if new in given:
                        raise TypeError(f"{function.__qualname__}: {old} is {new} now; pass {new} alone")
                    warn_renamed(f"{old}=", f"{new}=")
                    given[new] = given.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def renamed_fields(**new_names: str) -> Callable[[type[T]], type[T]]:
    """Let a dataclass take, and give, fields by their old names: ``@renamed_fields(mode="propagation")``."""

    def decorate(kind: type[T]) -> type[T]:
        kind.__init__ = renamed_keywords(**new_names)(kind.__init__)  # type: ignore[method-assign]
        for old, new in new_names.items():
            setattr(kind, old, old_attribute(f"{kind.__name__}.{old}", new))
        return kind

    return decorate


def old_attribute(old: str, new: str) -> property:
    """A property that gives the attribute ``new``, which may be dotted, and warns."""

    def look_up(self: object) -> Any:
        warn_renamed(old, new)
        return operator.attrgetter(new)(self)

    return property(look_up, doc=f"Old name of ``{new}``.")


class OldModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``wmgym.<old module>``: a module that looks names up in their new homes."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> Any:
        """Answer for the old modules alone."""
        if not fullname.startswith("wmgym.") or fullname.removeprefix("wmgym.") not in OLD_MODULES:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: types.ModuleType) -> None:
        """Warn, and look names up as they are asked for."""
        old = module.__name__
        homes = [f"wmgym.{home}" for home in OLD_MODULES[old.removeprefix("wmgym.")]]
        warn_renamed(old, homes[0])

        def look_up(name: str) -> Any:
            wanted = OLD_NAMES.get(name, name)
            for home in homes:
                found = importlib.import_module(home)
                if hasattr(found, wanted):
                    return getattr(found, wanted)
            raise AttributeError(f"module {old!r} has no attribute {name!r}")

        module.__getattr__ = look_up  # type: ignore[method-assign]


def old_module(name: str) -> types.ModuleType:
    """The old module ``wmgym.<name>``, for who asks for it as an attribute of ``wmgym``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = importlib.import_module(f"wmgym.{name}")
    warn_renamed(f"wmgym.{name}", f"wmgym.{OLD_MODULES[name][0]}")
    return module


def old_names(package: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for a package that was a module, which finds the names that the module held."""
    homes = [f"wmgym.{home}" for home in OLD_PACKAGES[package]]

    def look_up(name: str) -> Any:
        if not name.startswith("_"):
            for home in homes:
                found = importlib.import_module(home)
                if hasattr(found, name):
                    warn_renamed(f"wmgym.{package}.{name}", f"{home}.{name}")
                    return getattr(found, name)
        raise AttributeError(f"module 'wmgym.{package}' has no attribute {name!r}")

    return look_up


def install() -> None:
    """Make the old modules importable."""
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.append(OldModules())
