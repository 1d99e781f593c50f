"""Error bounds from held-out episodes, and whether they still hold."""

import functools

from wmgym.io import deprecation

__getattr__ = functools.partial(deprecation.look_up, "calibration")  # it was a module
