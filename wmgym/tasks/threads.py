"""Whether a thread is one of several that share the processor's cores, and so should use no others."""

from __future__ import annotations

import threading

_here = threading.local()


def share_cores() -> None:
    """Say that this thread is one of several side by side, one a core."""
    _here.shared = True


def shares_cores() -> bool:
    """Whether this thread has said so."""
    return bool(getattr(_here, "shared", False))
