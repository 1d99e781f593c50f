"""Error bounds from held-out episodes, and whether they still hold."""

from wmgym.io.deprecation import old_names

__getattr__ = old_names("calibration")
