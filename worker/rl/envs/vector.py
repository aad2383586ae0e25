"""What drivers see of environments, and the backend that fits every gymnasium environment."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import TimeLimit

from app.schemas.environments import BoxSpace, DiscreteSpace, catalogue
from worker.rl.envs import atari, minatar
from worker.rl.envs.mujoco import is_mujoco, listen
from worker.rl.envs.spaces import EnvSpec
from worker.rl.errors import EnvironmentFailure, TrainingError
from worker.rl.noise import derive_seed

THREADED = 8
"""Copies of a MuJoCo environment from which threads share them."""
REGISTER = {"ALE": atari.register, "MinAtar": minatar.register}
"""What makes the ids of a namespace known to gymnasium."""
LONGEST_EPISODE = 108_000
"""Env steps after which an episode of an environment without a limit is truncated."""


class Step(NamedTuple):
    """One real transition of every copy, (R, N, …) each. The next call may overwrite the arrays: copy what you keep.

    ``next_obs`` is the true outcome of the step, final observations included; ``obs`` is what to act on next, which
    differs from it where an episode ended and the next one began.
    """

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_obs: np.ndarray


class VectorEnv(Protocol):
    """N copies of an environment for each of R replicas, in lockstep."""

    spec: EnvSpec
    num_envs: int

    def reset(self, cut: int) -> np.ndarray:
        """Begin new episodes everywhere, seeded by (run seed, cut, index): obs (R, N, *obs).

        What happened before a reset has no influence on what comes after it.
        """

    def step(self, action: np.ndarray) -> Step:
        """Take actions (R, N, …) in the environment's units: integers from 0, or box values, which are clipped.

        A box value that is no number counts as the lower bound: a run that diverged must not bring down its pack.
        """

    def select(self, keep: Sequence[int]) -> None:
        """Keep these replicas, in this order, in the middle of their episodes."""

    def close(self) -> None: ...


def env_seeds(seed: int, purpose: str, cut: int, count: int) -> list[int]:
    """Seeds of one replica's copies after a cut. ``purpose`` tells training from evaluation."""
    return [derive_seed(seed, "env", purpose, cut, i) for i in range(count)]


def make_one(env_id: str, kwargs: dict[str, Any], max_episode_steps: int | None = None) -> gymnasium.Env:
    """One environment, truncated after so many env steps; None: as it is registered, or after ``LONGEST_EPISODE``.

    Raises:
        EnvironmentFailure: when it can't be made.
    """
    if is_mujoco(env_id):
        listen()
    try:
        if (namespace := env_id.partition("/")[0]) in REGISTER:
            REGISTER[namespace]()
        env = gymnasium.make(env_id, disable_env_checker=True, max_episode_steps=max_episode_steps, **kwargs)
    except Exception as error:
        raise EnvironmentFailure(f"{env_id} cannot be made: {type(error).__name__}: {error}") from error
    limited = env.spec is not None and env.spec.max_episode_steps is not None
    return env if limited else TimeLimit(env, LONGEST_EPISODE)


def is_box2d(env_id: str) -> bool:
    """Whether gymnasium's own Box2D code is behind this id. Its worlds outlive a reset: contacts, order of bodies."""
    return env_id in gymnasium.registry and "gymnasium.envs.box2d" in str(gymnasium.registry[env_id].entry_point)


class LoopVectorEnv:
    """Any gymnasium environment, one Python object per copy."""

    def __init__(
        self, env_id: str, kwargs: dict[str, Any], seeds: Sequence[int], num_envs: int, *, purpose: str = "train"
    ) -> None:
        self.num_envs = num_envs
        self._id, self._purpose = env_id, purpose
        self._seeds = list(seeds)
        self._envs: list[gymnasium.Env] = []
        self._threads: ThreadPoolExecutor | None = None
        # The catalogue's limit is also that of environments registered without one.
        limit = entry.max_episode_steps if (entry := catalogue().get(env_id)) else None
        self._make = partial(make_one, env_id, kwargs, limit)
        self._outlived = is_box2d(env_id)
        try:
            for _ in range(len(self._seeds) * num_envs):
                self._envs.append(self._make())
            self.spec = EnvSpec.of(env_id, self._envs[0].observation_space, self._envs[0].action_space)
        except TrainingError:
            self.close()
            raise
        space = self.spec.action_space
        self._start = space.start if isinstance(space, DiscreteSpace) else None
        self._box = (
            (self.spec.action_low.numpy(), self.spec.action_high.numpy()) if isinstance(space, BoxSpace) else None
        )
        # MuJoCo steps without the interpreter's lock; for fewer copies handing them out costs more than it saves.
        if is_mujoco(env_id) and len(self._envs) >= THREADED and torch.get_num_threads() > 1:
            self._threads = ThreadPoolExecutor(torch.get_num_threads(), "env")
        self._allocate()

    def reset(self, cut: int) -> np.ndarray:
        seeds = [s for seed in self._seeds for s in env_seeds(seed, self._purpose, cut, self.num_envs)]
        if self._outlived:
            for i, env in enumerate(self._envs):
                env.close()
                self._envs[i] = self._make()
        for i, env in enumerate(self._envs):
            try:
                # Spaces draw too when an environment samples from them.
                env.action_space.seed(seeds[i])
                self._obs[i] = env.reset(seed=seeds[i])[0]
            except Exception as error:
                raise self._failure("reset", error) from error
        return self._shaped(self._obs)

    def step(self, action: np.ndarray) -> Step:
        flat = action.reshape(len(self._envs), *action.shape[2:])
        if self._box is not None:
            low, high = self._box
            flat = np.fmin(np.fmax(flat, low), high)  # unlike clip they let no NaN through, which Box2D dies of
        if self._start is not None:
            flat = flat + self._start
        if self._threads is None:
            self._step_some(range(len(self._envs)), flat)
        else:
            for _ in self._threads.map(self._step_some, self._shares, [flat] * len(self._shares)):
                pass
        return Step(*map(self._shaped, (self._obs, self._reward, self._terminated, self._truncated, self._next_obs)))

    def select(self, keep: Sequence[int]) -> None:
        kept = [self._envs[r * self.num_envs + i] for r in keep for i in range(self.num_envs)]
        for env in self._envs:
            if not any(env is other for other in kept):
                env.close()
        self._envs = kept
        self._seeds = [self._seeds[r] for r in keep]
        self._allocate()

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
        for env in self._envs:
            env.close()

    def _step_some(self, which: range, actions: np.ndarray) -> None:
        for i in which:
            env = self._envs[i]
            try:
                obs, reward, terminated, truncated, _ = env.step(actions[i])
                self._next_obs[i] = obs
                self._reward[i] = reward
                self._terminated[i], self._truncated[i] = terminated, truncated
                self._obs[i] = env.reset()[0] if terminated or truncated else obs
            except Exception as error:
                raise self._failure("step", error) from error

    def _allocate(self) -> None:
        count, shape = len(self._envs), self.spec.observation_shape
        dtype = torch.empty(0, dtype=self.spec.observation_dtype).numpy().dtype
        self._obs, self._next_obs = np.zeros((count, *shape), dtype), np.zeros((count, *shape), dtype)
        self._reward = np.zeros(count, np.float32)
        self._terminated, self._truncated = np.zeros(count, bool), np.zeros(count, bool)
        each = -(-count // torch.get_num_threads())
        self._shares = [range(i, min(i + each, count)) for i in range(0, count, each)]

    def _shaped(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(len(self._seeds), self.num_envs, *array.shape[1:])

    def _failure(self, doing: str, error: Exception) -> EnvironmentFailure:
        return EnvironmentFailure(f"{self._id} raised in {doing}: {type(error).__name__}: {error}")
