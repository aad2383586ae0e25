"""Distributions of returns by their quantiles: QR-DQN (Dabney et al. 2018, arXiv 1710.10044) and IQN (1806.06923)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def midpoints(count: int) -> Tensor:
    """The fractions ``(2 i + 1) / (2 N)`` whose quantiles fit a distribution best by N values (lemma 2 of QR-DQN)."""
    return (torch.arange(count, dtype=torch.float32) + 0.5) / count


def quantile_huber(predicted: Tensor, target: Tensor, fractions: Tensor, kappa: float) -> Tensor:
    """``sum_i mean_j |tau_i - 1{u_ij < 0}| L_kappa(u_ij) / kappa`` with ``u_ij = target_j - predicted_i``.

    Eq. 10 of QR-DQN, over kappa as in IQN. L_kappa is half the square within kappa of zero and linear beyond. For small
    kappa the predictions of least loss are the quantiles of the target at the fractions.

    Args:
        predicted: ``(…, N)``.
        target: Samples or quantiles of the target distribution, ``(…, M)``.
        fractions: tau of each prediction, ``(N,)`` or ``(…, N)``.
        kappa: Above zero.

    Returns:
        ``(…)``.
    """
    predicted, target = torch.broadcast_tensors(predicted.unsqueeze(-1), target.unsqueeze(-2))
    tau = fractions.unsqueeze(-1)
    weight = torch.where(target.detach() < predicted.detach(), 1 - tau, tau)
    loss = F.huber_loss(predicted, target, reduction="none", delta=kappa)
    return (weight * loss).mean(-1).sum(-1) / kappa
