"""What MuJoCo says where ``MUJOCO_GL`` names a GL back end that this machine does not have."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import TracebackType


@contextlib.contextmanager
def back_end_errors() -> Iterator[None]:
    """Make one line, with the cure, of whatever the import of a GL back end raises.

    MuJoCo imports the one that ``MUJOCO_GL`` names whenever it is imported itself, be anything drawn or not.

    Raises:
        ImportError: it does not work here.
    """
    try:
        yield
    except Exception as error:
        chosen = os.environ.get("MUJOCO_GL")
        if chosen and _of_back_end(error.__traceback__):
            raise ImportError(
                f"MUJOCO_GL={chosen} does not work on this machine, so MuJoCo cannot be imported "
                f"({type(error).__name__}: {' '.join(str(error).split())}); unset it where nothing is drawn, "
                "or see `wmgym doctor` for one that works"
            ) from error
        raise


def _of_back_end(traceback: TracebackType | None) -> bool:
    """Whether an error came out of MuJoCo's choice of a back end, or of the back end."""
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        if module.startswith("OpenGL.") or (module.startswith("mujoco.") and "gl_context" in module):
            return True
        traceback = traceback.tb_next
    return False
