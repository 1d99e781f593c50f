"""Planning in a world, without training: the public names of ``wmgym.agents.planning``."""

from wmgym.agents.planning import *  # noqa: F403
from wmgym.agents.planning import __all__ as __all__
