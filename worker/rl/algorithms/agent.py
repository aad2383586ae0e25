"""The one base of all agents: it saves, loads and selects named attributes, and says what an agent answers to."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from app.schemas.bundle import Distribution
from worker.rl.nets.convolutions import PatchConv2d
from worker.rl.nets.layers import Conv2d, LayerNorm, Linear
from worker.rl.noise import Noise
from worker.rl.types import Act, Update

M = TypeVar("M", bound=nn.Module)
Value = Tensor | int | float
EVALUATED = 2048
"""Samples per forward pass of what is not learned from: bounds memory where observations are images."""


class Agent(ABC):
    """Acts and learns for R replicas at a time.

    Built by its module's ``build(config, env_spec, seeds, device, total_env_steps, num_envs)``. Everything that decides
    the next update is named in ``saved``: tensors with axis 0 the replica, host numbers shared by the pack, and objects
    with ``state``, ``load`` and ``select``.
    """

    saved: ClassVar[tuple[str, ...]]
    driver: ClassVar[str]
    """Module of ``worker.rl.drivers`` whose ``run`` executes the agent."""
    distribution: Distribution
    epsilon: float = 0.0
    """Share of random actions when an epsilon-greedy policy is served."""
    env_step: int = 0
    """Env steps of the run so far, for schedules; set by an off-policy driver."""

    @abstractmethod
    def act(self, obs: Tensor, noise: Noise, *, explore: bool) -> Act:
        """Actions for obs (R, N, …). Without ``explore``: the most likely ones, as in evaluation."""

    @abstractmethod
    def update(self, batch: Any, noise: Noise) -> Update:
        """Learn from what the agent's driver collects: a ``Rollout`` or a ``Transition``."""

    @abstractmethod
    def policy(self, replica: int) -> nn.Module:
        """What is exported: obs (B, …) -> distribution parameters, with the normaliser inside and R squeezed.

        ``logits``, ``(mean, log_std)`` or ``q_values`` by ``distribution``. A copy: later updates don't change it.
        """

    @abstractmethod
    def finite(self) -> Tensor:
        """Whether all weights of a replica are finite, (R,) bool."""

    def state(self) -> dict[str, Value]:
        """Everything in ``saved`` as one flat dict. The tensors are the live ones: copy before the next update."""
        flat: dict[str, Value] = {}
        for name in self.saved:
            value = getattr(self, name)
            if isinstance(value, Value):
                flat[name] = value
            elif value is not None:
                flat |= {f"{name}/{key}": item for key, item in value.state().items()}
        return flat

    def load(self, state: Mapping[str, Value]) -> None:
        """Inverse of :meth:`state`; the agent must have been built from the same spec."""
        for name in self.saved:
            value = getattr(self, name)
            if isinstance(value, Tensor):
                given = state[name]
                assert isinstance(given, Tensor)
                value.copy_(given)
            elif isinstance(value, Value):
                setattr(self, name, state[name])
            elif value is not None:
                prefix = f"{name}/"
                value.load({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def select(self, keep: Sequence[int]) -> None:
        """Keep (or repeat) these replicas, in this order."""
        for name in self.saved:
            value = getattr(self, name)
            if isinstance(value, Tensor):
                setattr(self, name, value[list(keep)])
            elif value is not None and not isinstance(value, Value):
                value.select(keep)


def replica_of(module: M, replica: int) -> M:
    """A copy of one replica of a module whose layers are stacked one to a replica, for export.

    It has no replica axis: (B, …) in, (B, …) out.
    """
    live = {id(parameter): parameter for parameter in module.parameters()}
    copied = deepcopy(module, dict(live))
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Linear | Conv2d | PatchConv2d | LayerNorm):
                setattr(parent, name, child.one(replica))
    assert not any(id(parameter) in live for parameter in copied.parameters()), "a parameter is shared with the agent"
    return copied
