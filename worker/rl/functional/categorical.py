"""Categorical distributions; the last axis holds the choices."""

import torch
from torch import Tensor


def sample(logits: Tensor, gumbel: Tensor) -> Tensor:
    """A sample (…) from logits and standard Gumbel noise, (…, n) each: the argmax of their sum (Gumbel 1954)."""
    return (logits + gumbel).argmax(-1)


def log_prob(log_p: Tensor, action: Tensor) -> Tensor:
    """Log-probability of ``action`` (…) int64 under log-probabilities (…, n)."""
    return log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def epsilon_greedy(greedy: Tensor, actions: int, epsilon: float, deviate: Tensor) -> Tensor:
    """``greedy`` actions (…) but for a share ``epsilon`` > 0 of them, which are drawn uniformly.

    One uniform number (…) each does for both: where it is below epsilon, it is uniform there, too.
    """
    choice = (deviate * (actions / epsilon)).long()
    return torch.where(choice < actions, choice, greedy)
