"""Time-major storage of transitions, each observation kept once.

Row ``t`` holds what N environments of R replicas did at one lockstep env step. The observation after it is row ``t+1``
save where an episode ended: there row ``t+1`` belongs to the next episode and the true final observation lies in a
side store. Of an observation that is a stack of frames only the newest is kept: the others lie in the rows before, and
before an episode's first there were none (zeros). Arrays live in host memory, which the system hands out page by page
as rows are first written, so a large capacity costs nothing until it is used.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

Array = NDArray[Any]
_ROW_ARRAYS = ("obs", "action", "reward", "terminated", "final")
_FINAL_ARRAYS = ("final_obs", "finals", "oldest_final")


class Rows(NamedTuple):
    """Transitions gathered from a ring, every array with the leading shape of the index they were gathered by."""

    obs: Array
    action: Array
    reward: Array
    """Sum over the steps taken together, the i-th discounted by ``gamma ** i``."""
    terminated: Array
    next_obs: Array
    """The observation after the last of these steps: at an episode's end its true final one."""
    steps: Array | int
    """How many steps were taken together; the number 1 when no more were asked for."""


class Ring:
    """The last ``capacity`` env steps of R replicas x N environments.

    Args:
        replicas, num_envs: R and N.
        capacity: Env steps kept per environment.
        obs: Shape and dtype of one observation.
        action: Shape and dtype of one action.
        stack: Frames that an observation, an image, is made of, the newest last.
        channel_axis: Axis of an observation along which they are stacked.
    """

    def __init__(
        self,
        replicas: int,
        num_envs: int,
        capacity: int,
        obs: tuple[Sequence[int], DTypeLike],
        action: tuple[Sequence[int], DTypeLike],
        stack: int = 1,
        channel_axis: int = 0,
    ) -> None:
        self.num_envs, self.capacity, self.stack = num_envs, capacity, stack
        self._channel_axis = channel_axis
        shape = list(obs[0])
        if stack > 1:
            shape.insert(0, shape.pop(channel_axis) // stack)  # frames lie with their channels outermost
        # The row after the newest step holds the observation it led to, those before the oldest the frames it saw.
        self.rows = capacity + stack
        self.steps = 0
        """Env steps ever added per environment."""
        self.head = 0
        """Row of the step that comes next."""
        self.size = 0
        """Env steps held per environment, at most ``capacity``."""
        lead = (replicas, self.rows, num_envs)
        self.obs: Array = np.zeros((*lead, *shape), obs[1])
        step = [
            ("action", action[1], tuple(action[0])),
            ("final", np.int64),
            ("reward", np.float32),
            ("terminated", np.bool_),
        ]
        # Side by side, so that drawing a step touches one place in memory, not four.
        self._step: Array = np.zeros(lead, np.dtype(step, align=True))
        self.final_obs: Array = np.zeros((replicas, 16, *shape), obs[1])
        """Final observation k of a replica in slot ``k % len``, for every k still held."""
        self.finals: Array = np.zeros(replicas, np.int64)
        """Final observations numbered so far, per replica."""
        self.oldest_final: Array = np.zeros(replicas, np.int64)
        """A lower bound of the numbers still held."""
        self._number_replicas()

    @property
    def action(self) -> Array:
        """What was done, (R, rows, N, …)."""
        return self._step["action"]

    @property
    def reward(self) -> Array:
        """(R, rows, N)."""
        return self._step["reward"]

    @property
    def terminated(self) -> Array:
        """(R, rows, N)."""
        return self._step["terminated"]

    @property
    def final(self) -> Array:
        """-1 within an episode; at its end k, the running number of its final observation, (R, rows, N). Never negative
        in a row that was not written: nothing goes on from there."""
        return self._step["final"]

    @property
    def obs_bytes(self) -> int:
        """Size of an observation as it is gathered."""
        return self.stack * int(self.obs[0, 0, 0].nbytes)

    def observe(self, obs: Array) -> None:
        """What is acted on next, (R, N, …)."""
        self.obs[:, self.head] = self._newest(obs)

    def add(self, action: Array, reward: Array, terminated: Array, ended: Array, next_obs: Array) -> None:
        """Append one env step from the observations given last, all (R, N, …).

        Args:
            action: What was done.
            reward: Its reward.
            terminated: Whether it reached a terminal state.
            ended: Whether the episode ended with it, terminated or truncated.
            next_obs: The observation it led to, at an episode's end its true final one.
        """
        row = self.head
        self._count(self.steps + 1)
        step = self._step[:, row]
        step["action"] = action
        step["reward"] = reward
        step["terminated"] = terminated
        step["final"] = -1
        self.obs[:, self.head] = newest = self._newest(next_obs)
        if ended.any():
            self._end(row, ended, newest)

    def cut(self, replicas: Array) -> None:
        """End the episodes in flight of some replicas, (R,) bool, with their last step, truncated."""
        if self.size:
            last = (self.head - 1) % self.rows
            self._end(last, replicas[:, None] & (self.final[:, last] < 0), self.obs[:, self.head])

    def gather(self, index: Array, n_step: int = 1, gamma: float = 1.0) -> Rows:
        """Transitions of each replica by age: ``index`` (…, R, B) is ``env step * N + environment``, 0 the oldest.

        With ``n_step`` > 1 the steps that follow are taken together with the one named, until there are ``n_step``, the
        episode ends (also by truncation or cut), or the newest is reached. So each step held begins a transition: the
        newest few bootstrap earlier, which is as true a return, and none waits for successors or is lost at a cut.

        Raises:
            IndexError: where an index is not below ``size * N``.
        """
        if index.size and index.view(np.uint64).max() >= self.size * self.num_envs:  # negative ones are huge
            raise IndexError(f"index outside the {self.size * self.num_envs} transitions held")
        return self.at(self.place(index), n_step, gamma)

    def place(self, age: Array) -> Array:
        """Where steps lie, ``row * N + environment``, by their age as :meth:`gather` counts it."""
        place: Array = (age + (self.head - self.size) * self.num_envs) % (self.rows * self.num_envs)
        return place

    def at(self, place: Array, n_step: int = 1, gamma: float = 1.0) -> Rows:
        """Transitions that begin at the places (…, R, B) of steps that are held, see :meth:`gather`."""
        period = self.rows * self.num_envs
        first = self._first
        at = place + first
        step = last_step = _take(self._step, at)
        last = place
        steps: Array | int = 1
        if n_step == 1:
            reward: Array = step["reward"].copy()
        else:
            reward, steps = self._returns(place, n_step, gamma)
            last = place + (steps - 1) * self.num_envs
            last_step = _take(self._step, last % period + first)
        if self.stack == 1:
            obs, next_obs = _take(self.obs, at), _take(self.obs, (last + self.num_envs) % period + first)
            newest = next_obs
        else:
            obs = self._stacks(place, self._going(place, self.stack - 1))
            next_obs = self._stacks(last + self.num_envs, self._going(last, self.stack - 2))
            newest = next_obs[..., -self.obs.shape[3] :, :, :]
        final = last_step["final"]
        where = np.nonzero(final >= 0)
        if where[0].size:
            newest[where] = self.final_obs[where[-2], final[where] % self.final_obs.shape[1]]
        if self.stack > 1:
            obs, next_obs = (np.moveaxis(stacks, -3, self._channel_axis - 3) for stacks in (obs, next_obs))
        return Rows(obs, step["action"].copy(), reward, last_step["terminated"], next_obs, steps)

    def state(self) -> dict[str, Tensor | int]:
        """The rows written so far and the counters. The tensors are the live ones: copy before the next ``add``."""
        rows = {name: getattr(self, name)[:, : self._used()] for name in _ROW_ARRAYS}
        arrays = rows | {name: getattr(self, name) for name in _FINAL_ARRAYS}
        return {"steps": self.steps} | {name: torch.from_numpy(a) for name, a in arrays.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state`, for a ring of the same shape."""
        self._count(state["steps"])
        for name in _ROW_ARRAYS:
            getattr(self, name)[:, : self._used()] = state[name].numpy()
        for name in _FINAL_ARRAYS:
            setattr(self, name, state[name].numpy().copy())

    def select(self, keep: Sequence[int]) -> None:
        """Keep the replicas ``keep``, in that order; one named twice is copied."""
        for name in ("obs", "_step"):
            old: Array = getattr(self, name)
            new = np.zeros((len(keep), *old.shape[1:]), old.dtype)
            new[:, : self._used()] = old[keep, : self._used()]
            setattr(self, name, new)
        for name in _FINAL_ARRAYS:
            setattr(self, name, getattr(self, name)[keep])
        self._number_replicas()

    def _number_replicas(self) -> None:
        self._first: Array = np.arange(len(self.finals))[:, None] * (self.rows * self.num_envs)

    def _at(self, position: Array) -> Array:
        """Where ``row * N + environment`` (…, R, B), counted on through the ring's end, lies in a flat array."""
        period = self.rows * self.num_envs
        return position % period + self._first

    def _newest(self, obs: Array) -> Array:
        """Newest frames of observations (R, N, …), as they are stored."""
        if self.stack == 1:
            return obs
        return np.moveaxis(obs, 2 + self._channel_axis, 2)[:, :, -self.obs.shape[3] :]

    def _going(self, position: Array, back: int) -> Array:
        """Which steps before each position (…, R, B) are of its episode, (back, …, R, B), the oldest first."""
        before = np.arange(back, 0, -1).reshape(-1, *(1,) * position.ndim) * self.num_envs
        going = _take(self._step, self._at(position - before))["final"] < 0
        return np.logical_and.accumulate(going[::-1])[::-1]

    def _stacks(self, position: Array, going: Array) -> Array:
        """Stacks of frames up to each position (…, R, B), channels first.

        Args:
            going: What :meth:`_going` says of the oldest of their frames; the others are there.
        """
        before = np.arange(self.stack - 1, -1, -1).reshape(-1, *(1,) * position.ndim) * self.num_envs
        frames = _take(self.obs, np.moveaxis(self._at(position - before), 0, -1))
        frames[..., : len(going), :, :, :][np.moveaxis(~going, 0, -1)] = 0
        return frames.reshape(*position.shape, -1, *frames.shape[-2:])

    def _returns(self, place: Array, n_step: int, gamma: float) -> tuple[Array, Array]:
        """Discounted reward of up to ``n_step`` steps from each place on, and how many they are."""
        end = self.head * self.num_envs
        place = np.where(place < end, place, place - self.rows * self.num_envs)  # so that it counts on to the newest
        ahead = np.arange(n_step).reshape(-1, *(1,) * place.ndim)
        window = place + ahead * self.num_envs
        step = _take(self._step, self._at(window))
        taken = np.ones(window.shape, np.bool_)
        taken[1:] = (step["final"][:-1] < 0) & (window[1:] < end)
        np.logical_and.accumulate(taken, out=taken)
        reward = np.where(taken, step["reward"], 0) * np.power(gamma, ahead, dtype=np.float64)
        return reward.sum(0).astype(np.float32), taken.sum(0)

    def _count(self, steps: int) -> None:
        self.steps, self.head, self.size = steps, steps % self.rows, min(steps, self.capacity)

    def _used(self) -> int:
        """Rows ever written, that of the newest observation among them."""
        return self.rows if self.size == self.capacity else self.head + 1

    def _end(self, row: int, ended: Array, next_obs: Array) -> None:
        """Number the final observations of the episodes that ``ended`` (R, N) at ``row`` and keep them aside."""
        replica, env = np.nonzero(ended)
        if not replica.size:
            return
        number = self.finals[replica] + (ended.cumsum(1) - 1)[replica, env]
        self.finals += ended.sum(1)
        self.final[replica, row, env] = number
        self._reserve()
        self.final_obs[replica, number % self.final_obs.shape[1]] = next_obs[replica, env]

    def _reserve(self) -> None:
        """Grow the store of final observations while those held by steps of the ring would fill over half of it."""
        slots = self.final_obs.shape[1]
        if (self.finals - self.oldest_final <= slots).all():
            return
        held = (self.head - 1 - np.arange(self.size)) % self.rows
        numbers = self.final[:, held].reshape(len(self.finals), -1)
        self.oldest_final = np.where(numbers < 0, self.finals[:, None], numbers).min(1)
        needed = int((self.finals - self.oldest_final).max())
        if 2 * needed <= slots:
            return
        grown = np.zeros((len(self.finals), 2 * needed, *self.final_obs.shape[2:]), self.final_obs.dtype)
        for replica, (oldest, newest) in enumerate(zip(self.oldest_final, self.finals, strict=True)):
            kept = np.arange(oldest, newest)
            grown[replica, kept % grown.shape[1]] = self.final_obs[replica, kept % slots]
        self.final_obs = grown


def _take(array: Array, flat: Array) -> Array:
    """Elements of ``array`` (R, rows, N, …) by their position in the first three axes taken as one."""
    return array.reshape(-1, *array.shape[3:]).take(flat, axis=0)
