"""Returns and lengths of training episodes."""

from collections.abc import Sequence

import numpy as np


class Episodes:
    """Sums up the episodes that finished since the last :meth:`take`. Episodes that are cut don't count."""

    def __init__(self, replicas: int, num_envs: int) -> None:
        self._return = np.zeros((replicas, 1, num_envs))
        self._length = np.zeros((replicas, 1, num_envs), np.int64)
        self.returns, self.lengths, self.count = _nothing(replicas)
        self.finite = np.ones(replicas, bool)
        """Whether all rewards up to the last :meth:`take` or :meth:`cut` were finite numbers."""

    def add(self, reward: np.ndarray, ended: np.ndarray) -> None:
        """Take in steps (R, T, N); ``ended`` where an episode terminated or was truncated."""
        if not ended.any():
            self._return += reward if reward.shape[1] == 1 else reward.sum(1, dtype=np.float64, keepdims=True)
            self._length += reward.shape[1]
            return
        # One row per copy: what it had, its steps, a zero. Sums begin anew at the step after an end, so that each is of
        # one episode alone, and an infinite one spoils no other.
        replicas, steps, num_envs = reward.shape
        begins = np.zeros((replicas, num_envs, steps + 2), bool)
        begins[..., 0] = True
        begins[..., 2:] = ended.transpose(0, 2, 1)
        first = np.flatnonzero(begins)
        at_rest = np.append(first[1:], begins.size) % (steps + 2) == 0  # the last of its row, still in flight
        replica = first[~at_rest] // (num_envs * (steps + 2))
        for total, running, values in (
            (self.returns, self._return, reward),
            (self.lengths, self._length, np.broadcast_to(1, reward.shape)),
        ):
            sums = np.add.reduceat(_rows(running, values), first)
            running[:] = sums[at_rest].reshape(running.shape)
            total += np.bincount(replica, sums[~at_rest], replicas)
        self.count += np.bincount(replica, minlength=replicas)

    def take(self) -> dict[str, np.ndarray]:
        """Means per replica, (R,) each, NaN where no episode finished; begins a new window."""
        self._check()
        with np.errstate(invalid="ignore"):
            means = {
                "train/episode_return": self.returns / self.count,
                "train/episode_length": self.lengths / self.count,
            }
        self.returns, self.lengths, self.count = _nothing(self.count.size)
        return means

    def cut(self) -> None:
        """All episodes in flight are over and forgotten."""
        self._check()
        self._return[:], self._length[:] = 0.0, 0

    def select(self, keep: Sequence[int]) -> None:
        """Keep these replicas, in this order."""
        rows = list(keep)
        self._return, self._length = self._return[rows], self._length[rows]
        self.returns, self.lengths, self.count = self.returns[rows], self.lengths[rows], self.count[rows]
        self.finite = self.finite[rows]

    def _check(self) -> None:
        self.finite &= np.isfinite(self.returns) & np.isfinite(self._return).all((1, 2))


def _rows(running: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(R, 1, N) and (R, T, N), followed by a zero, with the copies' rows one after the other: (R * N * (T + 2),)."""
    return np.concatenate((running, values, np.zeros_like(running)), 1).transpose(0, 2, 1).ravel()


def _nothing(replicas: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros(replicas), np.zeros(replicas), np.zeros(replicas, np.int64)
