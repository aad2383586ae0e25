"""How well runs did in their evaluations."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker.rl.algorithms.agent import Value
from worker.rl.reporter import Result


@dataclass
class Scores:
    """Mean returns of the best and the latest evaluation, (R,) float64 each; NaN before the first."""

    best: Tensor
    latest: Tensor

    @classmethod
    def none(cls, replicas: int) -> "Scores":
        return cls(*(torch.full((replicas,), math.nan, dtype=torch.float64) for _ in range(2)))

    def add(self, means: np.ndarray) -> list[int]:
        """Take in an evaluation, (R,); the replicas that did better than ever."""
        self.latest = torch.from_numpy(means)
        better = ~(self.latest.isnan() | (self.latest <= self.best))
        self.best = torch.where(better, self.latest, self.best)
        return [int(r) for r in better.nonzero()]

    def result(self, replica: int) -> Result:
        return Result(*(None if math.isnan(v) else v for v in (float(self.best[replica]), float(self.latest[replica]))))

    def state(self) -> dict[str, Value]:
        return {"best": self.best, "latest": self.latest}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.best, self.latest = state["best"], state["latest"]

    def select(self, keep: Sequence[int]) -> None:
        self.best, self.latest = self.best[list(keep)], self.latest[list(keep)]
