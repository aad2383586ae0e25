"""What every driver does between updates: report, evaluate, save, and obey.

A driver advances the loop, asks :meth:`Loop.look` whose episodes are to be cut, lets the agent learn, and calls
:meth:`Loop.turn`. All cadences count env steps of one replica, so that every run sees the same ones in every pack.
"""

import time
from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np
import torch
from torch import Tensor

from worker.rl import export
from worker.rl.drivers.episodes import Episodes
from worker.rl.drivers.pack import Pack, Part, Selectable
from worker.rl.drivers.scores import Scores
from worker.rl.errors import IncompatibleState
from worker.rl.evaluation import Evaluator
from worker.rl.noise import Noise
from worker.rl.reporter import CheckpointKind, Order, PolicyFiles, Reason, State

ASK_EVERY = 0.25
"""Seconds between two looks at what users want while a rollout is collected or a policy evaluated."""
BAD_REWARDS = "the environment gave rewards that are no finite numbers"
OTHERWISE = "the learning rate may be too high, or an observation of the environment no finite number"
"""Why a run diverged, as far as can be told."""


class Loop:
    """Cadences, control and state of one pack.

    Args:
        emit_every: env steps between two points of a metric.
        parts: further parts of the resume state (a replay), by name.
        followers: what else must be told when replicas leave.
        cut: ends the episodes in flight of some replicas, (R,) bool, after an update; None: the driver cannot, and
            orders given during an evaluation wait, unless all are to stop.
    """

    def __init__(
        self,
        pack: Pack,
        *,
        emit_every: int,
        parts: Mapping[str, Part] | None = None,
        followers: Sequence[Selectable] = (),
        cut: Callable[[np.ndarray], object] | None = None,
    ) -> None:
        spec, seeds, agent, env, device = pack.spec, pack.seeds, pack.agent, pack.env, pack.device
        training = spec.training
        self.spec, self.agent, self.env, self.reporter = spec, agent, env, pack.reporter
        self._resume = pack.resume
        self.noise = Noise(seeds, device)
        self.replicas = len(seeds)
        self._cut = cut
        self.env_step = 0
        self.episodes = Episodes(self.replicas, env.num_envs)
        self.scores = Scores.none(self.replicas)
        self._evaluator = Evaluator(spec.environment, seeds, training.evaluation_episodes, device)
        self._parts: dict[str, Part] = {"agent": agent, "noise": self.noise, "scores": self.scores, **(parts or {})}
        self._followers: list[Selectable] = [*self._parts.values(), env, self.episodes, self._evaluator, *followers]
        self._total = training.total_env_steps
        self._evaluate_every = training.evaluate_every or self._total
        self._checkpoint_every = training.checkpoint_every or self._total
        self._emit_every = emit_every
        self._orders: Mapping[int, Order] = {}
        self._metrics: Mapping[str, Tensor] = {}
        self._seen = self._evaluated = self._published = self._idle_until = 0
        self._asked = 0.0

    def begin(self) -> np.ndarray | None:
        """Load the state, if any, reset the environments, and make up for an evaluation that was left.

        Returns:
            obs (R, N, …), or None when there is nothing to be trained.

        Raises:
            IncompatibleState: the state is not one of these parts.
        """
        if self._resume is not None:
            self._load(self._resume)
        obs = self.env.reset(self.env_step)
        self.reporter.started(self.env_step)
        self._emitted = self.env_step
        self._clock = time.perf_counter()
        return self.turn(obs)

    def advance(self, env_steps: int) -> None:
        """So many env steps were taken per replica."""
        self.env_step += env_steps

    def look(self) -> np.ndarray:
        """Hear what users want. Which replicas' episodes end here, (R,) bool: to be known before the update."""
        self._orders = self.reporter.poll()
        cut = np.zeros(self.replicas, bool)
        if not self._orders and self.env_step < self._idle_until:
            return cut
        if self._due(self._checkpoint_every) or "preempt" in self._orders.values():
            cut[:] = True
        cut[[r for r, order in self._orders.items() if order == "pause"]] = True
        return cut

    def stopped(self) -> bool:
        """Whether all are to be cancelled or killed: nobody waits for anything but the end."""
        return self._all_ordered({"cancel", "kill"})

    def interrupted(self) -> bool:
        """Whether all are to leave: then a rollout, a round of updates or an evaluation need not be finished."""
        return self._all_ordered({"cancel", "kill", "pause", "preempt"})

    def record(self, metrics: Mapping[str, Tensor]) -> None:
        """Metrics of an update, (R, …) each, left on the device until they are reported."""
        self._metrics = metrics

    def turn(self, obs: np.ndarray) -> np.ndarray | None:
        """Do what is due after an update: the observations to go on from, or None when the driver is to return."""
        if not self._orders and self.env_step < self._idle_until:
            return obs
        over = self.env_step >= self._total
        saving = self._due(self._checkpoint_every)
        evaluating = self._evaluation_due(over)
        obs = self._leave(self._emit(), obs)
        if not self.replicas:
            return None
        exported: dict[int, PolicyFiles] = {}
        best = self._evaluate() if evaluating else []
        self._save("best", best or [], exported)
        if over and best is not None:
            self._finish_all(exported)
            return None
        if saving and not over:
            staying = [r for r in range(self.replicas) if self._orders.get(r) not in ("cancel", "kill")]
            self._save("scheduled", staying, exported)
        preempted = "preempt" in self._orders.values()
        obs = self._leave(self._obey(exported), obs)
        if not self.replicas:
            return None
        if saving or preempted:
            self._publish()
        if preempted:
            self.reporter.preempted(self.env_step)
            return None
        if saving:
            self.episodes.cut()
            obs = self.env.reset(self.env_step)
        self._seen = self.env_step
        self._idle_until = self._next_due()
        self._clock = time.perf_counter()
        return obs

    def state(self, replicas: Sequence[int] | None = None) -> State:
        """A copy of everything that decides how training goes on after a cut at this step, of all or some replicas."""
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, int | float] = {}
        for name, part in self._parts.items():
            for key, value in part.state().items():
                if isinstance(value, Tensor):
                    held = value.detach()
                    taken = held.to("cpu", copy=True) if replicas is None else held[list(replicas)].cpu()
                    tensors[f"{name}/{key}"] = taken
                else:
                    numbers[f"{name}/{key}"] = value
        return State(tensors, {"env_step": self.env_step, "evaluated": self._evaluated, "numbers": numbers})

    def close(self) -> None:
        """Release what the loop has made."""
        self._evaluator.close()

    def _load(self, resume: State) -> None:
        held = {**resume.tensors, **resume.meta["numbers"]}
        for name, part in self._parts.items():
            prefix = f"{name}/"
            try:
                part.load({k.removeprefix(prefix): v for k, v in held.items() if k.startswith(prefix)})
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise  # RuntimeErrors, too, but of the device
            except (LookupError, ValueError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
                raise IncompatibleState(
                    f"the resume state was written by a version that saves other things of the {name}"
                    f" ({type(error).__name__}: {error}); train anew, or go on with that version"
                ) from error
        self.env_step = self._seen = self._published = resume.env_step
        self._evaluated = resume.meta["evaluated"]

    def _all_ordered(self, orders: Set[Order]) -> bool:
        """Whether all replicas have one of these orders, which are then to be obeyed. Asks four times a second."""
        now = time.perf_counter()
        if now - self._asked < ASK_EVERY:
            return False
        self._asked = now
        given = self.reporter.poll()
        if len(given) < self.replicas or not set(given.values()) <= orders:
            return False
        self._orders = given
        return True

    def _next_due(self) -> int:
        """The env step at which there is something to be done again."""
        multiples = (self._seen // every * every + every for every in (self._checkpoint_every, self._evaluate_every))
        return min(self._total, self._emitted + self._emit_every, *multiples)

    def _due(self, every: int) -> bool:
        return self.env_step // every > self._seen // every

    def _evaluation_due(self, over: bool) -> bool:
        """Whether the evaluation of this step is still to be done, perhaps because it was left before a resume."""
        last = self._total if over else self.env_step // self._evaluate_every * self._evaluate_every
        return self._evaluated < last

    def _emit(self) -> set[int]:
        """Report what was measured since the last time. The replicas that diverged, already finished."""
        if self.env_step == self._emitted:  # stopped before anything new was learned
            return set()
        values = self.episodes.take()
        rate = (self.env_step - self._emitted) / max(time.perf_counter() - self._clock, 1e-9)
        values["train/env_steps_per_second"] = np.full(self.replicas, rate)
        finite = self.agent.finite()
        if self._metrics:
            means = (m.float().reshape(self.replicas, -1).mean(1) for m in self._metrics.values())
            stacked = torch.stack([*means, finite.float()]).cpu().numpy()
            values |= dict(zip(self._metrics, stacked.astype(np.float64), strict=False))
            losses = [row for key, row in zip(self._metrics, stacked, strict=False) if key.startswith("losses/")]
            sound = np.isfinite(losses).all(0) & (stacked[-1] > 0)
        else:
            sound = finite.cpu().numpy()
        self.reporter.metrics(self.env_step, values)
        self._metrics = {}
        self._emitted = self.env_step
        self.reporter.progress(self.env_step)
        diverged = {int(r) for r in np.flatnonzero(~sound)}
        for r in diverged:
            cause = OTHERWISE if self.episodes.finite[r] else BAD_REWARDS
            message = f"a loss or weight is no longer finite after {self.env_step} env steps: {cause}"
            self.reporter.finish(r, "failed", self.scores.result(r), Reason("diverged", message), None)
        return diverged

    def _evaluate(self) -> list[int] | None:
        """Evaluate all replicas; those that did better than ever. None when it was left because all are to leave.

        An order heard here comes after the update: episodes in flight are cut now, where the driver can do so.
        """
        result = self._evaluator.run(self.agent, self.env_step, self.interrupted if self._cut else self.stopped)
        if result is None:
            if self._cut:
                self._cut(np.ones(self.replicas, bool))
            return None
        means = result.returns.mean(1)
        self.reporter.evaluation(self.env_step, result.returns, result.lengths)
        self.reporter.metrics(
            self.env_step, {"evaluation/return_mean": means, "evaluation/return_std": result.returns.std(1)}
        )
        self._evaluated = self.env_step
        if self._cut and (heard := self.reporter.poll()):
            self._cut(np.isin(range(self.replicas), list(heard)))
            self._orders = {**self._orders, **heard}
        return self.scores.add(means)

    def _save(self, kind: CheckpointKind, replicas: Sequence[int], exported: dict[int, PolicyFiles]) -> None:
        for r in replicas:
            if r not in exported:
                exported[r] = export.export_policy(self.agent, r, self.env.spec, self.spec)
            fresh = self._evaluated == self.env_step
            mean = self.scores.result(r).final_return if fresh else None
            self.reporter.checkpoint(self.env_step, kind, r, exported[r], mean)

    def _publish(self) -> None:
        """Publish the state of this step, unless that has been done."""
        if self._published < self.env_step:
            self.reporter.publish(self.env_step, self.state())
            self._published = self.env_step

    def _finish_all(self, exported: dict[int, PolicyFiles]) -> None:
        self._save("final", range(self.replicas), exported)
        for r in range(self.replicas):
            self.reporter.finish(r, "succeeded", self.scores.result(r), None, None)
        self.reporter.drop([])

    def _obey(self, exported: dict[int, PolicyFiles]) -> set[int]:
        """Carry out the orders; those that leave."""
        orders = {r: order for r, order in self._orders.items() if order != "preempt"}
        self._orders = {}
        paused = [r for r, order in orders.items() if order == "pause"]
        state = self.state(paused) if paused else None
        for r, order in orders.items():
            match order:
                case "kill":
                    self.reporter.finish(r, "cancelled", None, Reason("killed", "killed on request"), None)
                case "cancel":
                    self._save("final", [r], exported)
                    reason = Reason("cancelled", "cancelled on request")
                    self.reporter.finish(r, "cancelled", self.scores.result(r), reason, None)
                case "pause":
                    self.reporter.finish(r, "paused", None, None, state)
        return set(orders)

    def _leave(self, leaving: set[int], obs: np.ndarray) -> np.ndarray:
        """Compact the pack; those who stay notice nothing."""
        if not leaving:
            return obs
        keep = [r for r in range(self.replicas) if r not in leaving]
        self.reporter.drop(keep)
        self.replicas = len(keep)
        self._orders = {i: self._orders[r] for i, r in enumerate(keep) if r in self._orders}
        if keep:
            for follower in self._followers:
                follower.select(keep)
        return obs[keep]
