"""Uniform experience replay (Lin 1992; Mnih et al. 2015)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker.rl.noise import Noise
from worker.rl.replay.ring import Array, Ring
from worker.rl.types import Transition

AT_ONCE = 32 * 2**20
"""Bytes of observations gathered at once, about."""


class Uniform:
    """Draws past transitions of each replica with equal probability, with replacement.

    Args:
        ring: Where the transitions lie.
        gamma: Discount per env step.
        device: Where batches go.
    """

    def __init__(self, ring: Ring, gamma: float, device: torch.device) -> None:
        self.ring, self.gamma, self.device = ring, np.float32(gamma), device

    def __len__(self) -> int:
        """Transitions held per replica."""
        return self.ring.size * self.ring.num_envs

    def sample(self, noise: Noise, batches: int, batch_size: int) -> Iterator[Transition]:
        """Draw ``batches`` batches (R, B, …), many at once; the draws are those of as many single calls."""
        obs = self.ring.obs
        held = 2 * batch_size * len(obs) * obs[0, 0, 0].nbytes
        at_once = max(1, AT_ONCE // held)
        for start in range(0, batches, at_once):
            yield from self._draw(noise, min(at_once, batches - start), batch_size)

    def state(self) -> dict[str, Tensor | int]:
        return self.ring.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.ring.load(state)

    def select(self, keep: Sequence[int]) -> None:
        self.ring.select(keep)

    def _draw(self, noise: Noise, batches: int, batch_size: int) -> Iterator[Transition]:
        index = noise.integers("replay", len(self), batches, batch_size)
        rows = self.ring.gather(index.movedim(0, 1).cpu().numpy())
        discount = np.where(rows.terminated, np.float32(0), self.gamma)
        fields = (rows.obs, rows.action, rows.reward, discount, rows.next_obs)
        for batch in zip(*map(self._batches, fields), strict=True):
            yield Transition(*batch)

    def _batches(self, array: Array) -> tuple[Tensor, ...]:
        return torch.from_numpy(array).to(self.device).unbind(0)
