"""Temporal-difference targets and losses (Sutton 1988; Mnih et al. 2015, https://doi.org/10.1038/nature14236).

Every loss keeps axis 0, the replica: the mean over the batch (the last axis) and the sum over ensemble members, if any.
"""

import torch
from torch import Tensor


def target(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """Bootstrapped target ``r + discount * v(s')``.

    Args:
        reward: Reward of the step, or the discounted sum of n of them, ``(…, B)``.
        discount: ``gamma`` to the number of steps summed, zero iff s' is terminal, ``(…, B)``.
        next_value: Value of the state bootstrapped from, ``(…, B)``.
    """
    return torch.addcmul(reward, discount, next_value)


def expected_value(q: Tensor, epsilon: float) -> Tensor:
    """Value of the epsilon-greedy policy (van Seijen et al. 2009, https://doi.org/10.1109/ADPRL.2009.4927542).

    Args:
        q: Action values, ``(…, A)``. It doesn't matter how the policy breaks ties.
        epsilon: Probability of an action drawn uniformly.

    Returns:
        ``(…)``.
    """
    return torch.lerp(q.amax(-1), q.mean(-1), epsilon)


def weighted_mse(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Half the mean squared error.

    Args:
        prediction: ``(R, B)`` or, for an ensemble, ``(R, E, B)``.
        target: What it should be, of the same number of axes.
        weight: Weight of each sample (importance sampling), ``(R, B)``; None weighs all alike.

    Returns:
        Loss of each replica, ``(R,)``.
    """
    return weighted_mean((prediction - target).square(), weight) * 0.5


def weighted_huber(prediction: Tensor, target: Tensor, weight: Tensor | None = None, delta: float = 1.0) -> Tensor:
    """Mean Huber loss: half the square within ``delta`` of zero, linear with slope ``delta`` outside.

    Arguments and result as of :func:`weighted_mse`.
    """
    return weighted_mean(torch.nn.functional.huber_loss(prediction, target, "none", delta), weight)


def weighted_mean(loss: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of any loss of each sample; arguments and result as of :func:`weighted_mse`."""
    if weight is not None:
        loss = loss * (weight if loss.ndim == weight.ndim else weight.unsqueeze(1))
    mean = loss.mean(-1)
    return mean if mean.ndim == 1 else mean.sum(1)
