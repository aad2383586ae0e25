"""Sampling in proportion to masses that change: a sum tree (Schaul et al. 2016, appendix B.2.1), wide, not binary.

Two levels do for a quarter of a million leaves and three for millions, and one call of numpy or torch serves a level of
all replicas' trees. A parent is always the sum of its children, never its old value plus a difference, so nothing
drifts and a tree rebuilt from its leaves is the same to the last bit.
"""

from collections.abc import Sequence

import numpy as np
import torch

from worker.rl.replay.ring import Array

FAN_OUT = 64
ROOTS = 4096
"""At most; so many are looked at one by one."""


class SumTree:
    """Masses of ``slots`` leaves of each of R replicas, zero at first; fp64.

    Leaves have a parent to each ``FAN_OUT``, and so on until at most ``ROOTS`` are left: there a search begins.
    """

    def __init__(self, replicas: int, slots: int) -> None:
        self.slots = slots
        self._depth = 1
        while slots > ROOTS * FAN_OUT**self._depth:
            self._depth += 1
        self._allocate(replicas)

    def _allocate(self, replicas: int) -> None:
        span = FAN_OUT**self._depth
        roots = -(-self.slots // span)
        self._levels: list[Array] = [
            np.zeros((replicas, roots * FAN_OUT**above)) for above in range(self._depth, -1, -1)
        ]
        self._first: Array = np.arange(replicas)[:, None] * roots
        self._first_leaf = self._first * span

    @property
    def leaves(self) -> Array:
        """Mass of each leaf, (R, slots): the live array, to be changed by the methods only."""
        return self._levels[0][:, : self.slots]

    @property
    def total(self) -> Array:
        """Mass of each replica, (R,)."""
        total: Array = self._levels[-1].sum(1)
        return total

    def mass(self, index: Array) -> Array:
        """Mass of the leaves at ``index`` (R, C)."""
        mass: Array = self._levels[0].take(index + self._first_leaf)
        return mass

    def set(self, index: Array, mass: Array) -> None:
        """Give the leaves at ``index`` (R, C) their ``mass`` (R, C), not negative; of repeated ones the last counts."""
        if index.shape[1] > self._levels[1].shape[1]:
            np.put_along_axis(self._levels[0], index, mass, 1)
            self._sum_up()
            return
        node = index + self._first_leaf
        self._levels[0].reshape(-1)[node] = mass
        for children, parents in zip(self._levels[:-1], self._levels[1:], strict=True):
            node = node // FAN_OUT
            parents.reshape(-1)[node] = np.add.reduce(children.reshape(-1, FAN_OUT).take(node, axis=0), -1)

    def fill(self, leaves: Array) -> None:
        """Set the first leaves to (R, up to ``slots``) masses."""
        self._levels[0][:, : leaves.shape[1]] = leaves
        self._sum_up()

    def find(self, point: Array) -> Array:
        """The leaves in whose share of the mass, laid end to end, the points (R, B) in [0, 1) lie, (R, B).

        Never a leaf without mass, whatever rounding does, so long as its replica has any.
        """
        ends: Array = torch.from_numpy(self._levels[-1]).cumsum(1).numpy()
        total = ends[:, -1:]
        rest = _below(point * total, total)
        child = torch.searchsorted(torch.from_numpy(ends), torch.from_numpy(rest), right=True).numpy()
        node = at = child + self._first
        for level in self._levels[-2::-1]:
            rest = rest - np.where(child, ends.take(at - 1), 0)
            ends = torch.from_numpy(level.reshape(-1, FAN_OUT).take(node, axis=0)).cumsum(-1).numpy()
            rest = _below(rest, ends[..., -1])
            child = (ends <= rest[..., None]).argmin(-1)
            at = child + np.arange(0, ends.size, FAN_OUT).reshape(child.shape)
            node = node * FAN_OUT + child
        leaf: Array = node - self._first_leaf
        return leaf

    def select(self, keep: Sequence[int]) -> None:
        """Keep the replicas ``keep``, in that order; one named twice is copied."""
        levels = self._levels
        self._allocate(len(keep))
        self._levels = [level[list(keep)] for level in levels]

    def _sum_up(self) -> None:
        for i, parents in enumerate(self._levels[1:]):
            parents[:] = np.add.reduce(self._levels[i].reshape(-1, FAN_OUT), -1).reshape(parents.shape)


def _below(point: Array, end: Array) -> Array:
    """Points, those that rounding has brought to the end or beyond moved before it."""
    return np.minimum(point, end * (1 - 2**-52))
