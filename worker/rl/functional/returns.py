"""Advantages and returns along time. Arrays are time-major from the right: axis -2 is time, axis -1 the environment."""

import torch
from torch import Tensor


def backward_sum(x: Tensor, decay: Tensor) -> Tensor:
    """``y[t] = x[t] + decay[t] * y[t + 1]`` with ``y[T] = 0``.

    The recurrence behind every trace, as a parallel scan (Blelloch 1990): log2 T passes over whole arrays instead of T
    steps, since on short rollouts call overhead is all there is.

    Args:
        x: ``(…, T, N)``.
        decay: ``(…, T, N)``; zero where the sum must not reach into the next episode.
    """
    y, decay = x.clone(), decay.clone()
    span, steps = 1, x.shape[-2]
    while span < steps:
        head, tail = slice(0, steps - span), slice(span, steps)
        y[..., head, :] += decay[..., head, :] * y[..., tail, :]
        decay[..., head, :] = decay[..., head, :] * decay[..., tail, :]
        span *= 2
    return y


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    discount: Tensor,
    episode_end: Tensor,
    gamma: float,
    lambda_: float,
) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

    Args:
        reward, value: r_t and V(s_t), ``(…, T, N)``.
        next_value: V of the true next observation, final ones included, ``(…, T, N)``.
        discount: gamma, or 0 where s_{t+1} is terminal, ``(…, T, N)``.
        episode_end: bool, where a trace stops (terminated, truncated or cut), ``(…, T, N)``.
        gamma, lambda_: the trace decays by their product.

    Returns:
        Advantages ``(…, T, N)``; plus ``value`` they are the lambda-returns.
    """
    td_error = reward + discount * next_value - value
    return backward_sum(td_error, (gamma * lambda_) * (~episode_end).to(reward.dtype))


def q_lambda(reward: Tensor, next_value: Tensor, discount: Tensor, episode_end: Tensor, lambda_: float) -> Tensor:
    """Peng's Q(lambda), ``G[t] = r[t] + discount[t] * ((1 - lambda) * next_value[t] + lambda * G[t + 1])``.

    Traces go on through exploratory actions (Peng & Williams 1996, https://doi.org/10.1007/BF00114731;
    Kozuno et al. 2021, arXiv 2103.00107). Where one stops, so at the last step, the whole weight is on ``next_value``.

    Args:
        reward: ``(…, T, N)``.
        next_value: largest action value in the true next observation, final ones included, ``(…, T, N)``.
        discount: gamma, or 0 where s_{t+1} is terminal, ``(…, T, N)``.
        episode_end: bool, where a trace stops (terminated, truncated or cut), ``(…, T, N)``.
        lambda_: decay of the traces.

    Returns:
        Targets of the taken actions' values, ``(…, T, N)``.
    """
    decay = lambda_ * discount.masked_fill(episode_end, 0.0)
    decay[..., -1, :] = 0.0
    return backward_sum(torch.addcmul(reward, discount - decay, next_value), decay)


def discounted_return(reward: Tensor, episode_end: Tensor, start: Tensor, gamma: float) -> Tensor:
    """Running discounted sum of past rewards, ``G[t] = r[t] + gamma * G[t - 1]`` within an episode.

    What reward normalisation takes the scale of (Engstrom et al. 2020, arXiv 2005.12729).

    Args:
        reward: ``(…, T, N)``.
        episode_end: bool ``(…, T, N)``; the sum starts anew after it.
        start: the sum brought along from before, ``(…, N)``.
    """
    carried = torch.cat((torch.zeros_like(episode_end[..., :1, :]), episode_end[..., :-1, :]), -2)
    decay = gamma * (~carried).to(reward.dtype)
    reward = reward.clone()
    reward[..., 0, :] += gamma * start
    return backward_sum(reward.flip(-2), decay.flip(-2)).flip(-2)
