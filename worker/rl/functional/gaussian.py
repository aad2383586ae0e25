"""Diagonal Gaussians, plain and squashed by tanh (Haarnoja et al. 2018, arXiv 1812.05905, appendix C)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_LOG_2 = math.log(2)


def log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density ``(…)`` of actions ``(…, A)`` under diagonal Gaussians of this mean and log standard deviation."""
    z = (action - mean) * (-log_std).exp()
    return (-0.5 * z.square() - log_std - _HALF_LOG_2PI).sum(-1)


def tanh_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A reparameterised sample ``tanh(mean + std * noise)`` and its log-density in ``(-1, 1)^A``.

    The density of ``u = mean + std * noise`` is written in terms of the noise, on which it depends alone but for
    ``log_std``, and the Jacobian ``log(1 - tanh(u)^2)`` as ``2 (log 2 - u - softplus(-2u))``: exact for any u.

    Args:
        mean: Mean before squashing, ``(…, A)``.
        log_std: Log standard deviation before squashing, ``(…, A)``.
        noise: Standard normal noise, ``(…, A)``.

    Returns:
        Action ``(…, A)`` and log-probability ``(…)``.
    """
    u = torch.addcmul(mean, log_std.exp(), noise)
    # log N(u) - log(1 - tanh(u)^2), term by term
    density = -0.5 * noise.square() - log_std - _HALF_LOG_2PI
    jacobian = 2.0 * (_LOG_2 - u - F.softplus(-2.0 * u))
    return u.tanh(), (density - jacobian).sum(-1)
