"""Rollouts learned from in pieces, in an order of their own."""

from collections.abc import Sequence

import torch
from torch import Tensor


def shuffled(samples: Sequence[Tensor], order: Tensor) -> list[Tensor]:
    """Samples (R, B, …) in the order (R, B), int64, of each replica."""
    replicas, size = order.shape
    rows = (order + size * torch.arange(replicas, device=order.device).unsqueeze(1)).flatten()
    return [x.flatten(0, 1).index_select(0, rows).view(x.shape) for x in samples]
