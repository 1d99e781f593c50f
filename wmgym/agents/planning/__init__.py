"""Policies that plan in a world instead of being trained."""

from wmgym.agents.planning.cem import CEM
from wmgym.agents.planning.mppi import MPPI

__all__ = ["CEM", "MPPI"]
