"""The weights of an SB3 agent as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm


def agent_arrays(model: BaseAlgorithm) -> dict[str, np.ndarray]:
    """All weights of the agent ``model`` as arrays, without pickle; optimiser moments are left out."""
    state = model.policy.state_dict()
    arrays = {f"policy.{key}": np.array(value.cpu().numpy()) for key, value in state.items()}
    entropy = getattr(model, "log_ent_coef", None)
    if entropy is not None:
        arrays["log_ent_coef"] = np.array(entropy.detach().cpu().numpy())
    return arrays


def load_agent(model: BaseAlgorithm, arrays: Mapping[str, np.ndarray]) -> None:
    """Put the weights of ``agent_arrays`` into ``model``, an agent of the same architecture.

    Raises:
        RuntimeError: the architecture is another one.
    """
    state = {key[7:]: torch.tensor(value) for key, value in arrays.items() if key.startswith("policy.")}
    model.policy.load_state_dict(state)
    entropy = getattr(model, "log_ent_coef", None)
    if entropy is not None and "log_ent_coef" in arrays:
        with torch.no_grad():
            entropy.copy_(torch.tensor(arrays["log_ent_coef"]))
