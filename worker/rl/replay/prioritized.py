"""Prioritized experience replay, proportional variant (Schaul et al. 2016, https://arxiv.org/abs/1511.05952).

``P(i) = p_i^alpha / sum p^alpha`` with ``p_i = |error_i| + epsilon`` (1), and weights ``w_i = (N P(i))^-beta / max w``
(section 3.4). Deviations from the paper and choices it leaves open:

- The maximum of the weights is the batch's, not the memory's: a single transition of tiny error anywhere in memory
  would otherwise shrink every update. N then cancels.
- What is new gets the greatest ``|error| + epsilon`` ever seen in its run, at least 1.
- A share ``uniform_mix`` of the draws may be uniform, which bounds the weights (as in DQN Zoo).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker.rl.noise import Noise
from worker.rl.replay.base import Replay
from worker.rl.replay.ring import Array, Ring
from worker.rl.replay.sumtree import SumTree
from worker.rl.types import Transition

GREATEST = 1e30
"""What an error beyond it counts for, and one that is no number: a run that diverges goes on until that is reported."""
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
        uniform_mix: Share of draws that are uniform.
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
        uniform_mix: float = 0.0,
    ) -> None:
        super().__init__(ring, gamma, device, n_step)
        self.alpha, self.beta, self.epsilon, self.uniform_mix = alpha, beta, epsilon, uniform_mix
        replicas = len(ring.obs)
        self.tree = SumTree(replicas, ring.rows * ring.num_envs)
        self.greatest: Array = np.ones(replicas)
        """Greatest ``|error| + epsilon`` seen so far, (R,)."""
        self._seen = 0
        self._drawn: Array = np.zeros((replicas, 0), np.int64)
        self._rated: Array = np.zeros((replicas, 0))
        """Mass that the leaves drawn last are to have."""

    def sample(self, noise: Noise, batches: int, batch_size: int, done: float) -> Iterator[Transition]:
        """Draw batches, each only when it is asked for, so that :meth:`update` can follow the one before."""
        beta = self.beta + min(done, 1.0) * (1 - self.beta)
        for _ in range(batches):
            bits = noise.integers("replay", 1 << _DIGITS, batch_size).cpu().numpy()
            self._carry()
            self._drawn = leaf = self._find((np.arange(batch_size) + bits * 0.5**_DIGITS) / batch_size)
            weight = importance_weights(self._probability(leaf), beta).astype(np.float32)
            yield from self._batches((leaf - self._oldest)[None] % self.tree.slots, weight[None])

    def update(self, priority: Tensor | None) -> None:
        """The errors' sizes (R, B) of the batch drawn last decide how often it is drawn from now on."""
        assert priority is not None, "the agent does not rate what it learns from"
        error = np.fmin(priority.cpu().numpy().astype(np.float64), GREATEST)
        self.greatest = np.maximum(self.greatest, error.max(1) + self.epsilon)
        self._rated = (error + self.epsilon) ** self.alpha

    def state(self) -> dict[str, Tensor | int]:
        self._carry()
        own = {"mass": self.tree.leaves, "greatest": self.greatest}
        return super().state() | {name: torch.from_numpy(array) for name, array in own.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self.tree.fill(state["mass"].numpy())
        self.greatest = state["greatest"].numpy().copy()
        self._seen = self.ring.steps

    def select(self, keep: Sequence[int]) -> None:
        self._carry()
        super().select(keep)
        self.tree.select(keep)
        self.greatest = self.greatest[list(keep)]

    @property
    def _oldest(self) -> int:
        """Leaf of the oldest transition, counted on through the ring's end."""
        return (self.ring.head - self.ring.size) * self.ring.num_envs

    def _carry(self) -> None:
        """Carry into the tree how the last batch was rated, then the steps that came and went since (they may have
        taken places of that batch)."""
        ring = self.ring
        leaves, masses = [], []
        if self._rated.size:
            leaves.append(self._drawn)
            masses.append(self._rated)
            self._rated = self._rated[:, :0]
        if ring.steps > self._seen:
            new = min(ring.steps - self._seen, ring.size)
            rows = np.arange(ring.head - new, ring.head - ring.capacity + ring.rows) % ring.rows
            places = (rows[:, None] * ring.num_envs + np.arange(ring.num_envs)).reshape(1, -1)
            mass = np.zeros((len(self.greatest), places.size))
            mass[:, : new * ring.num_envs] = (self.greatest**self.alpha)[:, None]
            leaves.append(np.broadcast_to(places, mass.shape))
            masses.append(mass)
            self._seen = ring.steps
        if leaves:
            self.tree.set(np.concatenate(leaves, 1), np.concatenate(masses, 1))

    def _find(self, point: Array) -> Array:
        """The leaves at points (R, B) of the chances laid end to end, the uniform share first."""
        mix = self.uniform_mix
        if not mix:
            return self.tree.find(point)
        proportional = self.tree.find(np.maximum(point - mix, 0) / (1 - mix))
        age = np.minimum((point / mix * len(self)).astype(np.int64), len(self) - 1)
        uniform = (age + self._oldest) % self.tree.slots
        return np.where(point < mix, uniform, proportional)

    def _probability(self, leaf: Array) -> Array:
        """Chance (R, B) of each leaf to be drawn."""
        proportional = self.tree.mass(leaf) / self.tree.total[:, None]
        return (1 - self.uniform_mix) * proportional + self.uniform_mix / len(self)


def importance_weights(probability: Array, beta: float) -> Array:
    """``(N P(i))^-beta`` over the greatest of each replica's batch; probability (R, B), (R, B)."""
    return np.asarray((probability.min(1, keepdims=True) / probability) ** beta)
