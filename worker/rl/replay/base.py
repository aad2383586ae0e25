"""What replays share: a ring of transitions, and batches made of its rows."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker.rl.noise import Noise
from worker.rl.replay.ring import Array, Ring
from worker.rl.types import Transition


class Replay(ABC):
    """Draws past transitions of each replica from a ring.

    Transitions of ``n_step`` steps (Sutton 1988; for deep Q-learning Hessel et al. 2018, arXiv 1710.02298) are put
    together as they are drawn, see :meth:`Ring.gather`; the behaviour's choices on the way are not corrected for.

    Args:
        ring: Where the transitions lie.
        gamma: Discount per env step.
        device: Where batches go.
        n_step: Env steps from ``obs`` to ``next_obs``, fewer at an episode's end.
    """

    def __init__(self, ring: Ring, gamma: float, device: torch.device, n_step: int = 1) -> None:
        self.ring, self.gamma, self.device, self.n_step = ring, gamma, device, n_step
        self._discounts: Array = (gamma ** np.arange(n_step + 1, dtype=np.float64)).astype(np.float32)

    def __len__(self) -> int:
        """Transitions held per replica."""
        return self.ring.size * self.ring.num_envs

    @abstractmethod
    def sample(self, noise: Noise, batches: int, batch_size: int, done: float) -> Iterator[Transition]:
        """Draw ``batches`` batches (R, B, …), the same as by as many calls for one.

        Args:
            done: Share of the run that is over, for schedules.
        """

    @abstractmethod
    def update(self, priority: Tensor | None) -> None:
        """Take note of the size of the errors (R, B) of the batch drawn last."""

    def state(self) -> dict[str, Tensor | int]:
        """Everything that decides what is drawn. The tensors may be the live ones: copy before going on."""
        return self.ring.state()

    def load(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.ring.load(state)

    def select(self, keep: Sequence[int]) -> None:
        """Keep the replicas ``keep``, in that order; one named twice is copied."""
        self.ring.select(keep)

    def _transition(self, place: Array, weight: Array | None = None) -> Transition:
        """The transitions that begin at these places (…, R, B), see :meth:`Ring.at`."""
        rows = self.ring.at(place, self.n_step, self.gamma)
        discount = np.where(rows.terminated, np.float32(0), self._discounts[rows.steps])
        fields = [rows.obs, rows.action, rows.reward, discount, rows.next_obs]
        if weight is not None:
            fields.append(weight)
        tensors = [torch.from_numpy(field) for field in fields]
        if self.device.type != "cpu":
            tensors = [tensor.to(self.device) for tensor in tensors]
        return Transition(*tensors)
