"""Constants in the kind and type of the arrays that they meet."""

from __future__ import annotations

from typing import Any

import numpy as np

from wmgym.tasks.layout import Array


def as_kind(constant: np.ndarray, like: Array) -> Array:
    """The constant in the array's kind and type, which nobody may change."""
    made = getattr(like, "new_tensor", None)
    if made is None:
        return constant.astype(like.dtype)
    key = constant.tobytes(), constant.shape, like.dtype, like.device
    found = _COPIES.get(key)
    if found is None:
        found = made(constant)
        if not found.is_inference():  # else no gradient could flow past it later
            if len(_COPIES) >= _MOST_COPIES:
                _COPIES.clear()
            _COPIES[key] = found
    return found


_COPIES: dict[Any, Array] = {}  # on their device, since to copy them at every step is to wait for it
_MOST_COPIES = 512


def places(numbers: list[int], like: Array) -> Array:
    """Places in an array, as something that indexes it."""
    found = as_kind(np.array(numbers, float), like)
    return found.astype(int) if isinstance(found, np.ndarray) else found.long()
