"""The likelihood that a fit maximises."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def beta_nll(mean: Tensor, log_std: Tensor, labels: Tensor) -> Tensor:
    """Likelihood weighted by its own deviation (Seitzer et al. 2022, arXiv:2203.09168, beta = 1/2).

    All ``(members, batch, target_dim)``, normalised; mean over rows and dimensions, summed over members.
    """
    nll = 0.5 * ((labels - mean) * (-log_std).exp()).square() + log_std
    return (nll * log_std.detach().exp()).mean((1, 2)).sum()


def termination_entropy(end_logit: Tensor, ends: Tensor) -> Tensor:
    """Cross entropy of terminations, ``(members, batch)``: mean over rows, summed over members."""
    return functional.binary_cross_entropy_with_logits(end_logit, ends, reduction="mean") * len(end_logit)
