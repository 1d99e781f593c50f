"""What an imagined env does about steps that the model is unsure of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from wmgym.envs.conventions import one_of
from wmgym.io.arguments import number
from wmgym.io.deprecation import UNSET
from wmgym.io.schema import STRICT, read_settings

OnExceed: TypeAlias = Literal["ignore", "truncate", "terminate", "penalise"]


@dataclass(frozen=True)
class Trust:
    """What becomes of an imagined step whose distrust is above a threshold.

    Distrust is the step's error bound in units of the data's standard deviation, mean over core dimensions.
    Any ``Trust``, "ignore" included, makes the env ask a second ensemble member at every step, for about
    twice the cost, and needs a calibrated world.

    Attributes:
        on_exceed: "truncate" or "terminate" the episode there; "penalise" every reward by ``penalty`` times
            distrust, whatever the threshold (as MOPO does, Yu et al. 2020, arXiv:2005.13239); "ignore" leaves
            the step as it is, for ``infos["distrust"]`` to tell.
        threshold: above 0, in units of the data's standard deviation.
        penalty: at least 0, reward for one unit of distrust.

    Raises:
        ValueError: a value outside these ranges.
    """

    __pydantic_config__ = STRICT

    on_exceed: OnExceed = "ignore"
    threshold: float = 0.75
    penalty: float = 0.01

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        one_of("on_exceed", self.on_exceed, get_args(OnExceed))
        for name in ("threshold", "penalty"):
            object.__setattr__(self, name, number(name, getattr(self, name)))
        if not self.threshold > 0:
            raise ValueError(f"threshold must be above 0, got {self.threshold}")
        if not self.penalty >= 0:
            raise ValueError(f"penalty must be at least 0, got {self.penalty}")

    @classmethod
    def of(cls, given: Trust | Mapping[str, Any] | bool | None) -> Trust | None:
        """The ``trust=`` of an env as one value.

        Args:
            given: True for the defaults, False or None for none; a mapping is what JSON makes of a ``Trust``
                in the keywords of a Gymnasium spec.
        """
        if given is None or isinstance(given, Trust):
            return given
        if isinstance(given, Mapping):
            found: Trust = read_settings(cls, given, "trust")
            return found
        if isinstance(given, bool):
            return cls() if given else None
        raise ValueError(f"trust must be a wmgym.Trust, True, False or None, got {given!r}")

    def apply(
        self, distrust: np.ndarray, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reward, terminated and truncated of steps with such distrust, all ``(n,)``."""
        if self.on_exceed == "penalise":
            return reward - self.penalty * distrust, terminated, truncated
        if self.on_exceed == "terminate":
            return reward, terminated | (distrust > self.threshold), truncated
        if self.on_exceed == "truncate":
            return reward, terminated, truncated | (distrust > self.threshold)
        return reward, terminated, truncated


OLD_TRUST = {"on_distrust": "trust.on_exceed", "tolerance": "trust.threshold", "penalty": "trust.penalty"}
"""Keywords of version 0.1 that one ``Trust`` has replaced."""
UNSET["trust"] = Trust()  # version 0.1 had its values on every env
