"""Policies scored in the real env beside the imagined one."""
