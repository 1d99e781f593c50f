"""Episodes that data hold twice: apart in a split, they would be judged by themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def together(parts: Sequence[np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
    """Parts of the episodes ``(k,)`` int64 each, with every copy of an episode where the first one is.

    ``names`` are the same for copies.

    Raises:
        ValueError: no episode of a part is left there.
    """
    if len(set(names)) == len(names):
        return list(parts)
    at = {names[episode]: k for k, part in reversed([*enumerate(parts)]) for episode in part[::-1]}
    where = [at[name] for name in names]
    found = [
        np.array([i for i in np.concatenate(parts) if where[i] == k], np.int64) for k in range(len(parts))
    ]
    if not all(map(len, found)):
        raise ValueError(
            f"{len(names)} episodes, of which {len(set(names))} are different, cannot be split {len(parts)} "
            "ways; collect more"
        )
    return found
