"""Prioritized experience replay, proportional variant (Schaul et al. 2016, https://arxiv.org/abs/1511.05952).

``P(i) = p_i^alpha / sum p^alpha`` with ``p_i = |error_i| + epsilon`` (1), and weights ``w_i = (N P(i))^-beta / max w``
(section 3.4). Deviations from the paper and choices it leaves open:

- The maximum of the weights is the batch's, not the memory's: a single transition of tiny error anywhere in memory
  would otherwise shrink every update. N then cancels.
- What is new gets the greatest ``|error| + epsilon`` ever seen in its run, at least 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker.rl.functional import schedules
from worker.rl.noise import Noise
from worker.rl.replay.base import Replay
from worker.rl.replay.ring import Array, Ring
from worker.rl.replay.sumtree import SumTree
from worker.rl.types import Transition

GREATEST = 1e30
"""What an error beyond it counts for, and one that is no number: a run that diverges goes on until that is reported."""
AHEAD = 16
"""Batches for which randomness is drawn at a time."""
_DIGITS = 53


class Prioritized(Replay):
    """Draws transitions in proportion to a power of the errors they last had, stratified, one batch at a time.

    A leaf of the tree belongs to each place in the ring; those of steps no longer held have no mass. What changes is
    written down and carried into the tree before it is next asked.

    Args:
        ring, gamma, device, n_step: see :class:`Replay`.
        alpha: How much errors matter; 0 is a uniform replay.
        beta: How much of the bias of an uneven sample the weights take away at first; it grows linearly to 1.
        epsilon: Above zero: what has no error is drawn still.
    """

    def __init__(
        self,
        ring: Ring,
        gamma: float,
        device: torch.device,
        n_step: int = 1,
        *,
        alpha: float,
        beta: float,
        epsilon: float,
    ) -> None:
        super().__init__(ring, gamma, device, n_step)
        self.alpha, self.beta, self.epsilon = alpha, beta, epsilon
        replicas = len(ring.obs)
        self.tree = SumTree(replicas, ring.rows * ring.num_envs)
        self.greatest: Array = np.ones(replicas)
        """What is new weighs as much as the greatest error seen so far, (R,)."""
        self._seen = 0
        self._points: Array = np.zeros((replicas, 0, 0))
        """Where the batches to come are drawn, (R, batches, B)."""
        self._drawn: Array = np.zeros((replicas, 0), np.int64)
        self._rated: Array = np.zeros((replicas, 0))
        """Mass that the leaves drawn last are to have."""

    def sample(self, noise: Noise, batches: int, batch_size: int, done: float) -> Iterator[Transition]:
        """Draw batches, each only when it is asked for, so that :meth:`update` can follow the one before."""
        beta = schedules.linear(self.beta, 1.0, done)
        for _ in range(batches):
            self._carry()
            self._drawn = leaf = self.tree.find(self._next_points(noise, batch_size))
            weight = importance_weights(self.tree.mass(leaf), beta).astype(np.float32)
            yield self._transition(leaf, weight)

    def update(self, priority: Tensor | None) -> None:
        """The errors' sizes (R, B) of the batch drawn last decide how often it is drawn from now on."""
        assert priority is not None, "the agent does not rate what it learns from"
        size = np.add(np.fmin(priority.cpu().numpy(), GREATEST), self.epsilon, dtype=np.float64)
        self._rated = size**self.alpha
        np.maximum(self.greatest, np.maximum.reduce(self._rated, 1), out=self.greatest)

    def state(self) -> dict[str, Tensor | int]:
        self._carry()
        own = {"mass": self.tree.leaves, "greatest": self.greatest, "points": self._points}
        return super().state() | {name: torch.from_numpy(array) for name, array in own.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self.tree.fill(state["mass"].numpy())
        self.greatest = state["greatest"].numpy().copy()
        self._points = state["points"].numpy().copy()
        self._seen = self.ring.steps

    def select(self, keep: Sequence[int]) -> None:
        self._carry()
        super().select(keep)
        self.tree.select(keep)
        self.greatest = self.greatest[list(keep)]
        self._points = self._points[list(keep)]

    def _next_points(self, noise: Noise, batch_size: int) -> Array:
        """One point in each of ``batch_size`` equal parts of [0, 1), (R, B), uniform there."""
        if not self._points.shape[1] or self._points.shape[2] != batch_size:
            bits = noise.integers("replay", 1 << _DIGITS, AHEAD, batch_size).cpu().numpy()
            self._points = (np.arange(batch_size) + bits * 0.5**_DIGITS) / batch_size
        points: Array = self._points[:, 0]
        self._points = self._points[:, 1:]
        return points

    def _carry(self) -> None:
        """Carry into the tree how the last batch was rated, then the steps that came and went since (they may have
        taken places of that batch)."""
        ring, rated = self.ring, self._rated.shape[1]
        new, gone = min(ring.steps - self._seen, ring.size) * ring.num_envs, 0
        if new:
            gone = (ring.rows - ring.capacity) * ring.num_envs
        if not rated + new:
            return
        leaf = np.empty((len(self.greatest), rated + new + gone), np.int64)
        mass = np.zeros(leaf.shape)
        if rated:
            leaf[:, :rated] = self._drawn
            mass[:, :rated] = self._rated
            self._rated = self._rated[:, :0]
        if new:
            head = ring.head * ring.num_envs
            leaf[:, rated:] = np.arange(head - new, head + gone) % self.tree.slots
            mass[:, rated : rated + new] = self.greatest[:, None]
            self._seen = ring.steps
        self.tree.set(leaf, mass)


def importance_weights(mass: Array, beta: float) -> Array:
    """``(N P(i))^-beta`` over the greatest of each replica's batch, (R, B); P is in proportion to the mass."""
    return np.asarray((np.minimum.reduce(mass, 1, keepdims=True) / mass) ** beta)
