"""What becomes of steps that the model is unsure of."""

from __future__ import annotations

from typing import Literal, TypeAlias

OnDistrust: TypeAlias = Literal["ignore", "truncate", "terminate", "penalise"]
