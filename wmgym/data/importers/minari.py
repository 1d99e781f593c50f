"""Minari data sets in HDF5: their arrays and spaces; the env that they name is neither made nor imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from wmgym.data.importers.hdf5 import HINT
from wmgym.data.importers.table import Table

_ROOT = ("x_position", "y_position")  # infos of Gymnasium's MuJoCo envs: where the root is


def read(path: str) -> list[Table]:
    """The one table of a data set, whole episodes one after the other.

    Where the infos say how far the root has moved, that is the column ``displacement``.

    Raises:
        ImportError: h5py is missing.
        ValueError: stored in another format than HDF5, observations that are no arrays, or no episode.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(HINT) from error
    home = Path(path) / "data"
    about: dict[str, Any] = {}
    if (home / "metadata.json").is_file():
        about = json.loads((home / "metadata.json").read_text())
    if about.get("data_format", "hdf5") != "hdf5":
        raise ValueError(f"its data are stored as {about['data_format']}; only HDF5 is read")
    parts: dict[str, list[np.ndarray]] = {}
    with h5py.File(home / "main_data.hdf5", "r") as file:
        about = {**dict(file.attrs), **about}
        names = sorted((n for n in file if n.startswith("episode_")), key=lambda n: int(n.rpartition("_")[2]))
        for number, name in enumerate(names):
            for column, values in _episode(file[name]).items():
                parts.setdefault(column, []).append(values)
            parts.setdefault("episode", []).append(np.full(len(values), number))
    if not names:
        raise ValueError("it has no episodes")
    shown = {name: each for name, each in parts.items() if len(each) == len(names)}
    return [Table(path, {name: np.concatenate(each) for name, each in shown.items()}, _facts(about))]


def _episode(group: Any) -> dict[str, np.ndarray]:
    """The columns of an episode, a row a step."""
    obs = _flat(group["observations"])
    steps = len(obs) - 1
    found = {"observations": obs[:-1], "next_observations": obs[1:]}
    actions = group["actions"]
    if not hasattr(actions, "shape"):
        raise ValueError("its actions are no arrays (Dict or Tuple); only Box and Discrete ones can be read")
    found["actions"] = np.asarray(actions)
    for name in ("rewards", "terminations", "truncations"):
        found[name] = np.asarray(group[name])
    infos = group.get("infos", {})
    root = [np.asarray(infos[name]) for name in _ROOT if name in infos and infos[name].shape == (steps + 1,)]
    if root:
        found["displacement"] = np.diff(np.stack(root, 1), axis=0)
    return found


def _flat(item: Any) -> np.ndarray:
    """Observations ``(n, k)``, those of a Dict side by side by name, as Gymnasium flattens them."""
    if hasattr(item, "shape"):
        values = np.asarray(item)
        return values.reshape(len(values), -1)
    if any(name.startswith("_index_") for name in item):
        raise ValueError("its observations are Tuples; only Box and Dict ones can be read")
    return np.concatenate([_flat(item[name]) for name in sorted(item)], 1)


def _facts(about: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("observation_space", "action_space"):
        if name in about:
            said = about[name]
            found[name] = json.loads(said) if isinstance(said, (str, bytes)) else said
    spec = json.loads(about["env_spec"]) if about.get("env_spec") else {}
    kwargs = dict(spec.get("kwargs") or {})
    kwargs.pop("render_mode", None)
    if spec.get("id"):
        found |= {"env_id": spec["id"], "env_kwargs": kwargs}
    if spec.get("max_episode_steps"):
        found["max_episode_steps"] = spec["max_episode_steps"]
    return found
