"""Stable-Baselines3 over an imagined env; needs ``pip install 'wmgym[sb3]'``."""

try:
    import stable_baselines3  # noqa: F401
except ImportError as error:
    raise ImportError("wmgym.sb3 needs Stable-Baselines3: pip install 'wmgym[sb3]'") from error

from wmgym.agents.config import TrainConfig
from wmgym.agents.sb3.dyna_sac import DynaSAC
from wmgym.agents.sb3.dyna_sac_data import StateReader
from wmgym.agents.sb3.dyna_sac_policy import DynaSACPolicy
from wmgym.agents.sb3.export import export_policy, to_policy
from wmgym.agents.sb3.load_zip import import_sb3
from wmgym.agents.sb3.train import agent_arrays, check_agent, load_agent, new_agent, train
from wmgym.agents.sb3.train_seeds import train_seeds
from wmgym.agents.sb3.vec_env import ImaginedVecEnv

__all__ = [
    "DynaSAC",
    "DynaSACPolicy",
    "ImaginedVecEnv",
    "StateReader",
    "TrainConfig",
    "agent_arrays",
    "check_agent",
    "export_policy",
    "import_sb3",
    "load_agent",
    "new_agent",
    "to_policy",
    "train",
    "train_seeds",
]
