"""The only way out of a driver. Arrays index the replicas that are still active, in pack order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

PolicyFiles = Mapping[str, bytes]
"""A checkpoint's files by name."""
Outcome = Literal["succeeded", "cancelled", "paused", "failed"]
CheckpointKind = Literal["scheduled", "best", "final"]
Order = Literal["cancel", "pause", "kill", "preempt"]


@dataclass(frozen=True, slots=True)
class State:
    """All that decides how training goes on. Axis 0 of tensors is the replica; ``meta`` is JSON shared by all."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def env_step(self) -> int:
        return int(self.meta["env_step"])

    def select(self, replicas: Sequence[int]) -> "State":
        """The state of some of the replicas, in this order."""
        rows = list(replicas)
        return State({name: tensor[rows] for name, tensor in self.tensors.items()}, self.meta)


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended: mean returns of its best and its last evaluation."""

    best_return: float | None
    final_return: float | None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a run ended early: a stable code, a message in words."""

    code: str
    message: str


class Reporter(Protocol):
    """Where a driver tells what happens, and asks what users want."""

    def started(self, env_step: int) -> None:
        """Built, and the state (if any) loaded; the first training step is next."""

    def metrics(self, env_step: int, values: Mapping[str, np.ndarray]) -> None:
        """Key -> (R,), NaN where a replica has no value now. ``env_step`` grows strictly per key."""

    def progress(self, env_step: int) -> None:
        """How far training is. Cheap, any time."""

    def evaluation(self, env_step: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        """Returns and lengths of the episodes of one evaluation, (R, episodes)."""

    def checkpoint(
        self, env_step: int, kind: CheckpointKind, replica: int, files: PolicyFiles, return_mean: float | None
    ) -> None:
        """One replica's exported policy."""

    def publish(self, env_step: int, state: State) -> None:
        """The resume state of all active replicas, to be stored together with every metric up to ``env_step``.

        The tensors are the caller's own copies.
        """

    def poll(self) -> Mapping[int, Order]:
        """What users want of which replica. Cheap (no I/O); called between updates."""

    def finish(
        self, replica: int, outcome: Outcome, result: Result | None, reason: Reason | None, state: State | None
    ) -> None:
        """A replica ends here. ``state`` is given when it is paused: that of all replicas paused at this point."""

    def drop(self, keep: Sequence[int]) -> None:
        """After the finishes of one point: the replicas left, as indices into the pack until now."""

    def preempted(self, env_step: int) -> None:
        """The state is published and the driver returns."""


@dataclass
class MemoryReporter:
    """Keeps everything in lists, by seed: for tests and for calling a driver directly."""

    seeds: list[int]
    orders: dict[int, dict[int, Order]] = field(default_factory=dict)
    """What users want: env step -> seed -> order, from the first poll after that step on."""
    active: list[int] = field(init=False)
    env_step: int = 0
    series: dict[int, dict[str, list[tuple[int, float]]]] = field(default_factory=dict)
    evaluations: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = field(default_factory=dict)
    checkpoints: dict[int, list[tuple[int, CheckpointKind, PolicyFiles, float | None]]] = field(default_factory=dict)
    states: list[tuple[int, State]] = field(default_factory=list)
    finished: dict[int, tuple[Outcome, Result | None, Reason | None]] = field(default_factory=dict)
    paused: list[State] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    preempted_at: int | None = None

    def __post_init__(self) -> None:
        self.active = list(self.seeds)
        for seed in self.seeds:
            self.series[seed], self.evaluations[seed], self.checkpoints[seed] = {}, [], []

    def started(self, env_step: int) -> None:
        self.starts.append(env_step)

    def metrics(self, env_step: int, values: Mapping[str, np.ndarray]) -> None:
        self.env_step = env_step
        for key, row in values.items():
            for seed, value in zip(self.active, row.tolist(), strict=True):
                points = self.series[seed].setdefault(key, [])
                if points and points[-1][0] >= env_step:
                    raise ValueError(f"{key} goes from step {points[-1][0]} to {env_step}")
                if value == value:
                    points.append((env_step, value))

    def progress(self, env_step: int) -> None:
        self.env_step = env_step

    def evaluation(self, env_step: int, returns: np.ndarray, lengths: np.ndarray) -> None:
        for seed, row, steps in zip(self.active, returns, lengths, strict=True):
            self.evaluations[seed].append((env_step, row, steps))

    def checkpoint(
        self, env_step: int, kind: CheckpointKind, replica: int, files: PolicyFiles, return_mean: float | None
    ) -> None:
        self.checkpoints[self.active[replica]].append((env_step, kind, files, return_mean))

    def publish(self, env_step: int, state: State) -> None:
        self.states.append((env_step, state))

    def poll(self) -> Mapping[int, Order]:
        if not self.orders:
            return {}
        wanted = {
            s: order for step, orders in self.orders.items() if step <= self.env_step for s, order in orders.items()
        }
        return {self.active.index(seed): order for seed, order in wanted.items() if seed in self.active}

    def finish(
        self, replica: int, outcome: Outcome, result: Result | None, reason: Reason | None, state: State | None
    ) -> None:
        self.finished[self.active[replica]] = (outcome, result, reason)
        if state is not None and not any(state is held for held in self.paused):
            self.paused.append(state)

    def drop(self, keep: Sequence[int]) -> None:
        self.active = [self.active[i] for i in keep]

    def preempted(self, env_step: int) -> None:
        self.preempted_at = env_step
