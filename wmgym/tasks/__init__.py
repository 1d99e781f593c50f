"""What is known of published tasks: state layout, reward and termination in code."""

from wmgym.tasks.known import Array, Core, Geometry, Known, Placement, Symmetry, identity_core
from wmgym.tasks.mujoco_v5 import UnknownOptionError, lookup

__all__ = [
    "Array",
    "Core",
    "Geometry",
    "Known",
    "Placement",
    "Symmetry",
    "UnknownOptionError",
    "identity_core",
    "lookup",
]
