"""Running statistics of observations and rewards, one set per replica. Not updating is freezing."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

CLIP = 10.0
"""Normalised values are clipped to ± this."""


class RunningNorm:
    """Mean and variance over everything seen (Chan et al. 1979, parallel update), in float64.

    The count is a host number shared by the pack: replicas see equally many samples.
    """

    def __init__(self, replicas: int, shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.mean = torch.zeros(replicas, *shape, dtype=torch.float64, device=device)
        self.var = torch.ones(replicas, *shape, dtype=torch.float64, device=device)
        self.count = 0
        self._cast()

    def update(self, x: Tensor) -> None:
        """Take in a batch (R, B, *shape)."""
        batch = x.to(torch.float64)
        n = batch.shape[1]
        var, mean = torch.var_mean(batch, 1, correction=0)
        total = self.count + n
        delta = mean - self.mean
        self.mean += delta * (n / total)
        self.var = (self.var * self.count + var * n + delta.square() * (self.count * n / total)) / total
        self.count = total
        self._cast()

    def __call__(self, x: Tensor) -> Tensor:
        """(R, B, *shape) shifted and scaled, clipped to ± 10. Before the first update only clipped."""
        return ((x - self.shift) * self.scale).clamp(-CLIP, CLIP)

    def rescale(self, x: Tensor) -> Tensor:
        """(R, B, *shape) scaled but not shifted, clipped to ± 10: for rewards, whose sign means something."""
        return (x * self.scale).clamp(-CLIP, CLIP)

    def state(self) -> dict[str, Tensor | int]:
        return {"mean": self.mean, "var": self.var, "count": self.count}

    def load(self, state: Mapping[str, Tensor | int]) -> None:
        mean, var, count = state["mean"], state["var"], state["count"]
        assert isinstance(mean, Tensor) and isinstance(var, Tensor) and isinstance(count, int)
        self.mean.copy_(mean)
        self.var.copy_(var)
        self.count = count
        self._cast()

    def select(self, keep: Sequence[int]) -> None:
        self.mean, self.var = self.mean[list(keep)], self.var[list(keep)]
        self._cast()

    def _cast(self) -> None:
        self.shift = self.mean.to(torch.float32).unsqueeze(1)
        self.scale = (self.var + 1e-8).rsqrt().to(torch.float32).unsqueeze(1)
