"""Sampling in proportion to masses that change: a sum tree (Schaul et al. 2016, appendix B.2.1), wide, not binary.

Two levels do for a quarter of a million leaves and three for millions, and one call of numpy or torch serves a level of
all replicas' trees. A parent is always the sum of its children, never its old value plus a difference, so nothing
drifts and a tree rebuilt from its leaves is the same to the last bit.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from worker.rl.replay.ring import Array

FAN_OUT = 32
ROOTS = 8192
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
        widths = [roots * FAN_OUT**above for above in range(self._depth, 0, -1)]
        self._levels: list[Array] = [np.zeros((replicas, width)) for width in widths]
        self._levels.append(np.zeros((replicas, 1 + roots)))  # behind a zero, so that sums start with it
        replica = np.arange(replicas)[:, None]
        self._first = replica * roots
        self._first_leaf = self._first * span
        self._first_root = replica * (1 + roots) + 1

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
        for children, parents in pairwise(self._levels):
            node = node // FAN_OUT
            at = node if parents is not self._levels[-1] else node + (self._first_root - self._first)
            parents.reshape(-1)[at] = _sums(children.reshape(-1, FAN_OUT).take(node, axis=0))

    def fill(self, leaves: Array) -> None:
        """Set the first leaves to (R, up to ``slots``) masses."""
        self._levels[0][:, : leaves.shape[1]] = leaves
        self._sum_up()

    def find(self, point: Array) -> Array:
        """The leaves in whose share of the mass, laid end to end, the points (R, B) in [0, 1) lie, (R, B).

        Never a leaf without mass, whatever rounding does, so long as its replica has any.
        """
        before: Array = torch.from_numpy(self._levels[-1]).cumsum(1).numpy()
        rest = _below(point, 1.0) * before[:, -1:]
        child = np.empty(rest.shape, np.int64)
        for found, replica_before, replica_rest in zip(child, before, rest, strict=True):
            found[:] = replica_before.searchsorted(replica_rest, "right")
        rest -= before.take(child + (self._first_root - 2))
        node = child + (self._first - 1)
        for depth in range(self._depth - 1, -1, -1):
            blocks = self._levels[depth].reshape(-1, FAN_OUT).take(node, axis=0)
            ends: Array = torch.from_numpy(blocks).cumsum(-1).numpy()
            rest = _below(rest, ends[..., -1])
            child = (ends <= rest[..., None]).argmin(-1)
            node = node * FAN_OUT + child
            if depth:
                rest -= np.where(child, np.take_along_axis(ends, child[..., None] - 1, -1)[..., 0], 0)
        leaf: Array = node - self._first_leaf
        return leaf

    def select(self, keep: Sequence[int]) -> None:
        """Keep the replicas ``keep``, in that order; one named twice is copied."""
        levels = self._levels
        self._allocate(len(keep))
        self._levels = [level[list(keep)] for level in levels]

    def _sum_up(self) -> None:
        for children, parents in pairwise(self._levels):
            sums = _sums(children.reshape(-1, FAN_OUT)).reshape(len(parents), -1)
            parents[:, -sums.shape[1] :] = sums


def _sums(blocks: Array) -> Array:
    """Sums over the last axis, which add in the same order however many there are."""
    return np.asarray(np.einsum("...c->...", blocks))


def _below(point: Array, end: Array | float) -> Array:
    """Points, those that rounding has brought to the end or beyond moved before it."""
    return np.minimum(point, end * (1 - 2**-52))
