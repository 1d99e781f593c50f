"""Infos of a vector env in Gymnasium's form: each key beside a mask of the envs that it speaks of."""

from __future__ import annotations

from typing import Any

import numpy as np


def named(infos: dict[str, Any]) -> list[tuple[str, np.ndarray]]:
    """Entries of infos without their masks."""
    return [(key, value) for key, value in infos.items() if not key.startswith("_")]


def masked(infos: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Infos with a mask ``(num_envs,)`` for each key."""
    return {**infos, **{f"_{key}": mask.copy() for key in infos}}


def final_infos(obs: np.ndarray, infos: dict[str, Any], ended: np.ndarray) -> dict[str, Any]:
    """What the last step's infos add about the episodes of a mask ``(num_envs,)`` that have ended.

    "final_obs" is an object array of their last observations, out of ``obs`` ``(num_envs, *obs_shape)``, or
    None; "final_info" is the infos, zero for the other envs; each has its mask.
    """
    last = np.full(len(ended), None, dtype=object)
    for i in np.flatnonzero(ended):
        last[i] = obs[i]
    info = {key: value.copy() for key, value in named(infos)}
    for value in info.values():
        value[~ended] = 0
    return masked({"final_obs": last, "final_info": masked(info, ended)}, ended)
