"""Policy-gradient objectives. Results are per sample, (…); agents take the mean over the batch."""

import torch
from torch import Tensor


def a2c(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """``-log pi(a|s) A``: its gradient is minus the policy gradient (Williams 1992; Mnih et al. 2016, 1602.01783)."""
    return -log_prob * advantage


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """PPO's objective, negated (Schulman et al. 2017, arXiv 1707.06347, eq. 7).

    Args:
        ratio: pi(a|s) / pi_old(a|s), ``(…)``.
        advantage: ``(…)``, no gradient.
        clip_range: epsilon; beyond 1 ± epsilon nothing is gained in the favourable direction.
    """
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def clipped_value(value: Tensor, old_value: Tensor, target: Tensor, clip_range: float) -> Tensor:
    """Squared error of the value, or of its change clipped to ± ``clip_range`` if that is worse (openai/baselines)."""
    clipped = old_value + (value - old_value).clamp(-clip_range, clip_range)
    return torch.maximum((value - target).square(), (clipped - target).square())


def approx_kl(log_ratio: Tensor) -> Tensor:
    """``(r - 1) - log r``: unbiased and never negative (Schulman 2020, http://joschu.net/blog/kl-approx.html)."""
    return log_ratio.expm1() - log_ratio
