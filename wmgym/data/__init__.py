"""Transitions of the real env: collected, split, saved, and the policies that act in it."""
