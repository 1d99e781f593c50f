"""Transitions of the real env: collected, split, saved, and the policies that act in it."""

import functools

from wmgym.io import deprecation

__getattr__ = functools.partial(deprecation.look_up, "data")  # it was a module
