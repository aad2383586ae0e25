"""From distribution parameters to actions, in numpy.

A draw is a function of the request's seed, the observation, and how many equal observations came before it in the
request; so neither the other observations of a batch nor their order change it. Such random access takes a
counter-based generator: SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195), keyed per
observation.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from app.schemas.bundle import PolicyBundle
from app.schemas.environments import BoxSpace, DiscreteSpace, MultiDiscreteSpace

Observations = NDArray[np.float32] | NDArray[np.uint8] | NDArray[np.int64]
Actions = NDArray[np.integer] | NDArray[np.floating]
Words = NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def keys(seed: int, observations: Observations) -> Words:
    """One key per observation, (B,). Equal observations get different keys, in the order they come.

    A key mixes the seed, 0 .. 2**64 - 1, with the observation's CRC-32 and the number of the same before it.
    """
    seen: dict[int, int] = {}
    words = []
    for row in observations:
        checksum = crc32(row)
        before = seen[checksum] = seen.get(checksum, -1) + 1
        words.append(checksum << 32 | before)
    return _mix(np.array(words, np.uint64) + _mix(np.array([seed], np.uint64) + _GAMMA))


def uniform(keys: Words, width: int) -> NDArray[np.float64]:
    """Draws from the open interval (0, 1): (B,) keys -> (B, width)."""
    return ((_stream(keys, width) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def normal(keys: Words, width: int) -> NDArray[np.float64]:
    """Standard normal draws by Box and Muller's transform: (B,) keys -> (B, width)."""
    u = uniform(keys, 2 * width)
    return np.sqrt(-2.0 * np.log(u[:, :width])) * np.cos(2.0 * np.pi * u[:, width:])


def gumbel(keys: Words, width: int) -> NDArray[np.float64]:
    """Standard Gumbel draws: the argmax of logits plus these is a sample of their softmax."""
    return -np.log(-np.log(uniform(keys, width)))


class Decoder:
    """Turns one policy's outputs into actions in its environment's own units."""

    outputs: tuple[str, ...]
    """Names of the graph's outputs that :meth:`actions` takes, in this order."""

    def __init__(self, bundle: PolicyBundle) -> None:
        self._distribution = bundle.distribution
        self._epsilon = bundle.epsilon
        match bundle.action:
            case BoxSpace(shape=shape, low=low, high=high):
                self.outputs = ("mean", "log_std")
                self._shape = shape
                self._low = np.array([-np.inf if bound is None else bound for bound in low], np.float32)
                self._high = np.array([np.inf if bound is None else bound for bound in high], np.float32)
            case DiscreteSpace(start=start):
                self.outputs = ("q_values",) if bundle.distribution == "epsilon_greedy" else ("logits",)
                self._start = start
            case MultiDiscreteSpace(nvec=nvec):
                self.outputs = ("logits",)
                self._splits = np.cumsum(nvec)[:-1]

    def actions(self, outputs: Sequence[NDArray[np.float32]], keys: Words | None) -> Actions:
        """Actions (B, …) for ``outputs``, (B, width) each: the most likely ones, or samples if ``keys`` are given."""
        action: NDArray[np.floating]
        match self._distribution:
            case "categorical":
                logits = outputs[0] if keys is None else outputs[0] + gumbel(keys, outputs[0].shape[1])
                return _argmax(logits) + self._start
            case "multi_categorical":
                logits = outputs[0] if keys is None else outputs[0] + gumbel(keys, outputs[0].shape[1])
                return np.stack([_argmax(part) for part in np.split(logits, self._splits, axis=1)], axis=1)
            case "epsilon_greedy":
                return _explore(_argmax(outputs[0]), outputs[0].shape[1], self._epsilon, keys) + self._start
            case "gaussian":
                action = np.minimum(np.maximum(_perturb(outputs, keys), self._low), self._high)
            case "tanh_gaussian":
                action = self._low + (np.tanh(_perturb(outputs, keys)) + 1.0) / 2.0 * (self._high - self._low)
        return action.astype(np.float32, copy=False).reshape(len(action), *self._shape)


def _argmax(values: NDArray[Any]) -> NDArray[np.intp]:
    best: NDArray[np.intp] = values.argmax(1)
    return best


def _explore(greedy: NDArray[np.intp], n: int, epsilon: float, keys: Words | None) -> NDArray[np.intp]:
    if keys is None:
        return greedy
    u = uniform(keys, 2)
    return np.where(u[:, 0] < epsilon, (u[:, 1] * n).astype(np.intp), greedy)


def _perturb(outputs: Sequence[NDArray[np.float32]], keys: Words | None) -> NDArray[np.floating]:
    mean, log_std = outputs
    return mean if keys is None else mean + np.exp(log_std) * normal(keys, mean.shape[1])


def _mix(words: Words) -> Words:
    """SplitMix64's output function, element by element."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _stream(keys: Words, length: int) -> Words:
    """The first ``length`` outputs of the generator of each key: (B,) -> (B, length)."""
    return _mix(keys[:, None] + _counters(length))


@lru_cache(maxsize=64)
def _counters(length: int) -> Words:
    return np.arange(1, length + 1, dtype=np.uint64) * _GAMMA
