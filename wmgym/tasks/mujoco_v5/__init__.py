"""The eleven Gymnasium MuJoCo v5 tasks, mirrored from their documented formulas."""

from wmgym.io.deprecation import old_names

__getattr__ = old_names("tasks.mujoco_v5")
