"""What a driver is given, and what the parts are that it gives the loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from app.schemas.experiment import ExperimentSpec
from worker.rl.algorithms.agent import Agent, Value
from worker.rl.envs import VectorEnv
from worker.rl.reporter import Reporter, State


@dataclass(frozen=True)
class Pack:
    """What a driver trains: the runs of these seeds side by side."""

    spec: ExperimentSpec
    """Resolved."""
    seeds: Sequence[int]
    agent: Agent
    """Built for these seeds, as is the environment."""
    env: VectorEnv
    reporter: Reporter
    device: torch.device
    resume: State | None = None
    """To go on from."""


class Selectable(Protocol):
    """What carries the replica axis."""

    def select(self, keep: Sequence[int]) -> None: ...


class Part(Selectable, Protocol):
    """A part of a driver that belongs to the resume state."""

    def state(self) -> Mapping[str, Value]: ...

    def load(self, state: Any) -> None: ...
