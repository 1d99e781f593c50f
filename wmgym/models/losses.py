"""The likelihood that a fit maximises."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from wmgym.models.ensemble import EnsembleMLP


def loss_of(model: EnsembleMLP, outputs: Tensor, labels: Tensor, ends: Tensor) -> Tensor:
    """Beta-NLL (Seitzer et al. 2022, arXiv:2203.09168, beta = 1/2) and termination entropy, over members."""
    mean, log_std, end_logit = model.split(outputs)
    nll = 0.5 * ((labels - mean) * (-log_std).exp()).square() + log_std
    loss = (nll * log_std.detach().exp()).mean((1, 2)).sum()
    if end_logit is not None:
        loss = loss + functional.binary_cross_entropy_with_logits(end_logit, ends, reduction="mean") * len(
            outputs
        )
    return loss
