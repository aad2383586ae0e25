"""Entropies of policies by their parameters, in nats."""

import math

from torch import Tensor


def categorical(log_p: Tensor) -> Tensor:
    """Entropy (…) of log-probabilities (…, n)."""
    return -(log_p.exp() * log_p).sum(-1)


def gaussian(log_std: Tensor) -> Tensor:
    """Differential entropy (…) of a diagonal Gaussian with log standard deviations (…, A)."""
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
