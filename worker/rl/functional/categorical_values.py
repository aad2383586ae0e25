"""Distributions of returns over fixed atoms: C51 (Bellemare et al. 2017, arXiv 1707.06887).

The atoms z_0 < … < z_{N-1} lie evenly spaced; the last axis of every distribution holds their probabilities.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def target(reward: Tensor, discount: Tensor, next_probs: Tensor, support: Tensor) -> Tensor:
    """The distribution of ``r + discount * Z(s')`` projected on the support (eq. 7 of the paper).

    The mass of an atom moved between two neighbours is shared by them in proportion to its nearness; beyond the support
    it goes to the edge. An atom moved exactly to another gives it all its mass.

    Args:
        reward: ``(…, B)``.
        discount: ``gamma`` to the number of steps summed, zero iff s' is terminal, ``(…, B)``.
        next_probs: Distribution of the return from s', ``(…, B, N)``.
        support: The atoms, ``(N,)``, N > 1.

    Returns:
        ``(…, B, N)``.
    """
    last = support.shape[0] - 1
    low = support[0]
    spacing = (support[last] - low) / last
    moved = torch.addcmul(reward.unsqueeze(-1), discount.unsqueeze(-1), support)
    position = ((moved - low) / spacing).clamp_(0, last)
    lower = position.long().clamp_(0, last)  # a reward that is no number has no place, and must not bring down a pack
    upper_share = next_probs * (position - lower)
    projected = torch.zeros_like(next_probs).scatter_add_(-1, lower, next_probs - upper_share)
    return projected.scatter_add_(-1, (lower + 1).clamp_(max=last), upper_share)


def mean(logits: Tensor, support: Tensor) -> Tensor:
    """Expected return (…) of distributions given by logits (…, N)."""
    return torch.matmul(logits.softmax(-1), support)


def cross_entropy(logits: Tensor, probs: Tensor) -> Tensor:
    """``-sum_i p_i log q_i`` of the predicted q against the target p, both (…, N) -> (…)."""
    return -(probs * F.log_softmax(logits, -1)).sum(-1)


def entropy(probs: Tensor) -> Tensor:
    """``-sum_i p_i log p_i``, (…, N) -> (…): what of the cross-entropy no prediction can avoid."""
    total: Tensor = torch.special.entr(probs).sum(-1)
    return total
