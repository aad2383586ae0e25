"""Returns and lengths of training episodes."""

from collections.abc import Sequence

import numpy as np


class Episodes:
    """Sums up the episodes that finished since the last :meth:`take`. Episodes that are cut don't count."""

    def __init__(self, replicas: int, num_envs: int) -> None:
        self._return = np.zeros((replicas, 1, num_envs))
        self._length = np.zeros((replicas, 1, num_envs), np.int64)
        self.returns, self.lengths, self.count = _nothing(replicas)

    def add(self, reward: np.ndarray, ended: np.ndarray) -> None:
        """Take in steps (R, T, N); ``ended`` where an episode terminated or was truncated."""
        if not ended.any():
            self._return += reward.sum(1, dtype=np.float64, keepdims=True)
            self._length += reward.shape[1]
            return
        returns = reward.cumsum(1, dtype=np.float64) + self._return
        steps = reward.shape[1]
        lengths = np.arange(1, steps + 1).reshape(1, -1, 1) + self._length
        self._return, self._length = returns[:, -1:].copy(), lengths[:, -1:].copy()
        r, n, t = np.nonzero(ended.transpose(0, 2, 1))
        first = np.ones(r.size, bool)
        first[1:] = (r[1:] != r[:-1]) | (n[1:] != n[:-1])
        last = np.append(first[1:], True)
        for total, running, series in ((self.returns, self._return, returns), (self.lengths, self._length, lengths)):
            at_end = series[r, t, n]
            total += np.bincount(r, np.where(first, at_end, np.diff(at_end, prepend=0.0)), total.size)
            running[r[last], 0, n[last]] -= at_end[last]
        self.count += np.bincount(r, minlength=self.count.size)

    def take(self) -> dict[str, np.ndarray]:
        """Means per replica, (R,) each, NaN where no episode finished; begins a new window."""
        with np.errstate(invalid="ignore"):
            means = {
                "train/episode_return": self.returns / self.count,
                "train/episode_length": self.lengths / self.count,
            }
        self.returns, self.lengths, self.count = _nothing(self.count.size)
        return means

    def cut(self) -> None:
        """All episodes in flight are over and forgotten."""
        self._return[:], self._length[:] = 0.0, 0

    def select(self, keep: Sequence[int]) -> None:
        """Keep these replicas, in this order."""
        rows = list(keep)
        self._return, self._length = self._return[rows], self._length[rows]
        self.returns, self.lengths, self.count = self.returns[rows], self.lengths[rows], self.count[rows]


def _nothing(replicas: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros(replicas), np.zeros(replicas), np.zeros(replicas, np.int64)
