"""gymnasium's spaces as data, and what agents want to know of them."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from app.schemas.environments import BoxSpace, DiscreteSpace, MultiDiscreteSpace, OtherSpace, kind
from worker.rl.errors import UnsupportedSpace

ActionSpace = DiscreteSpace | MultiDiscreteSpace | BoxSpace


def describe(space: gymnasium.Space[Any]) -> BoxSpace | DiscreteSpace | MultiDiscreteSpace | OtherSpace:
    """A gymnasium space as data."""
    if isinstance(space, gymnasium.spaces.Box):
        return BoxSpace(shape=space.shape, dtype=space.dtype.name, low=_bounds(space.low), high=_bounds(space.high))
    if isinstance(space, gymnasium.spaces.Discrete):
        return DiscreteSpace(n=int(space.n), start=int(space.start))
    if isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1 and not space.start.any():
        return MultiDiscreteSpace(nvec=tuple(map(int, space.nvec)))
    return OtherSpace(description=type(space).__name__)


def _bounds(values: np.ndarray) -> tuple[float | None, ...]:
    flat = values.ravel()
    if values.ndim == 3 and (flat == flat[0]).all():
        flat = flat[:1]
    return tuple(float(v) if math.isfinite(v) else None for v in flat)


@dataclass(frozen=True)
class EnvSpec:
    """What an agent needs to know of an environment: its spaces.

    Raises:
        UnsupportedSpace: unless observations are a vector, a uint8 image box or discrete and actions are discrete,
            multi-discrete or a bounded vector box.
    """

    id: str
    observation_space: BoxSpace | DiscreteSpace
    action_space: ActionSpace
    frame_stack: int = 1
    """Images an observation is made of, along its channel axis, the newest last."""

    @classmethod
    def of(cls, env_id: str, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> "EnvSpec":
        """From gymnasium's spaces."""
        observed, acted = describe(observation_space), describe(action_space)
        if isinstance(observed, MultiDiscreteSpace | OtherSpace) or kind(observed) == "other":
            raise UnsupportedSpace(
                f"{env_id}: observations are {_words(observation_space)}; vectors (Box of one axis), images "
                "(uint8 Box of three axes) and Discrete can be trained on"
            )
        if isinstance(observed, BoxSpace) and math.prod(observed.shape) == 0:
            raise UnsupportedSpace(f"{env_id}: observations are empty")
        if isinstance(acted, OtherSpace) or kind(acted) not in ("discrete", "multi_discrete", "vector"):
            raise UnsupportedSpace(
                f"{env_id}: actions are {_words(action_space)}; Discrete, MultiDiscrete (one axis, from 0) and Box "
                "(one axis) can be trained on"
            )
        if isinstance(acted, BoxSpace) and (None in acted.low or None in acted.high):
            raise UnsupportedSpace(f"{env_id}: actions are a box without finite bounds")
        if isinstance(action_space, gymnasium.spaces.Box) and (action_space.low >= action_space.high).any():
            raise UnsupportedSpace(f"{env_id}: actions are a box with an upper bound not above the lower one")
        return cls(env_id, observed, acted)

    @property
    def image(self) -> bool:
        return kind(self.observation_space) == "image"

    @property
    def observation_box(self) -> BoxSpace:
        """Observations that a network takes: of any environment whose observations aren't discrete."""
        assert isinstance(self.observation_space, BoxSpace)
        return self.observation_space

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation, without replica and copy: () for discrete ones."""
        return self.observation_space.shape if isinstance(self.observation_space, BoxSpace) else ()

    @property
    def observation_dtype(self) -> torch.dtype:
        """How observations are stored: int64 (from the space's start) if discrete, bytes for images, else float32."""
        if isinstance(self.observation_space, DiscreteSpace):
            return torch.int64
        return torch.uint8 if self.image else torch.float32

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one action, without replica and copy: () for discrete ones."""
        match self.action_space:
            case DiscreteSpace():
                return ()
            case MultiDiscreteSpace(nvec=nvec):
                return (len(nvec),)
            case BoxSpace(shape=shape):
                return shape

    @property
    def action_dtype(self) -> torch.dtype:
        return torch.float32 if isinstance(self.action_space, BoxSpace) else torch.int64

    @property
    def action_dim(self) -> int:
        """Numbers a policy's output is made of: logits of all choices together, or dimensions of a box."""
        match self.action_space:
            case DiscreteSpace(n=n):
                return n
            case MultiDiscreteSpace(nvec=nvec):
                return sum(nvec)
            case BoxSpace(shape=shape):
                return shape[0]

    @cached_property
    def action_low(self) -> Tensor:
        """Lower bounds of a box of actions, (dims,) float32."""
        return self._bound("low")

    @cached_property
    def action_high(self) -> Tensor:
        """Upper bounds of a box of actions, (dims,) float32."""
        return self._bound("high")

    def _bound(self, side: str) -> Tensor:
        assert isinstance(self.action_space, BoxSpace)
        return torch.tensor(getattr(self.action_space, side), dtype=torch.float32).expand(self.action_space.shape)


def _words(space: gymnasium.Space[Any]) -> str:
    if isinstance(space, gymnasium.spaces.Box):
        return f"a Box of shape {space.shape} and type {space.dtype}"
    return f"a {type(space).__name__}"
