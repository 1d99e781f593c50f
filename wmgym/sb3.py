"""Stable-Baselines3 over an imagined env: the public names of ``wmgym.agents.sb3``."""

from wmgym.agents.sb3 import *  # noqa: F403
from wmgym.agents.sb3 import __all__ as __all__
