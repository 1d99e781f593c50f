"""Transitions of the real env: collected, split, saved, and the policies that act in it."""

from wmgym.io.deprecation import old_names

__getattr__ = old_names("data")
