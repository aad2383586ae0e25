"""CartPole-v1 as arrays (Barto, Sutton & Anderson 1983): gymnasium's constants and equations, all poles at once.

gymnasium has a numpy version too, but it shares one generator over all copies and resets a step late. A test holds this
one against gymnasium's single environment.
"""

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worker.rl.envs.spaces import EnvSpec
from worker.rl.envs.vector import Step
from worker.rl.noise import derive_seed

GRAVITY = 9.8
CART, POLE = 1.0, 0.1
"""Masses, kg."""
HALF_LENGTH = 0.5
FORCE = 10.0
SECONDS = 0.02
"""Per step, explicit Euler."""
FARTHEST, STEEPEST = 2.4, math.radians(12)
LONGEST = 500
SPREAD = 0.05
"""Episodes begin uniformly within ± this in every coordinate."""
_NO = np.zeros((1, 1), bool)


def accelerations(action: Any, cos: Any, sin: Any, spin: Any) -> tuple[Any, Any]:
    """Acceleration of the cart and of the pole's angle for actions 0 or 1; numbers or arrays of them."""
    push = (FORCE * (2 * action - 1) + POLE * HALF_LENGTH * spin * spin * sin) / (CART + POLE)
    spin_up = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE / (CART + POLE) * cos * cos))
    return push - (POLE * HALF_LENGTH / (CART + POLE)) * spin_up * cos, spin_up


class CartPole:
    """R x N poles. The state is (4, R * N) float64: position, velocity, angle, angular velocity."""

    def __init__(
        self, seeds: Sequence[int], num_envs: int, *, purpose: str = "train", sutton_barto_reward: bool = False
    ) -> None:
        env = gymnasium.make("CartPole-v1", disable_env_checker=True)
        self.spec = EnvSpec.of("CartPole-v1", env.observation_space, env.action_space)
        env.close()
        self.num_envs = num_envs
        self._seeds, self._purpose, self._punish = list(seeds), purpose, sutton_barto_reward
        self._state = np.zeros((4, len(self._seeds) * num_envs))
        self._age = np.zeros(len(self._seeds) * num_envs, np.int64)
        self._generators = self._seeded(0)

    def reset(self, cut: int) -> NDArray[np.float32]:
        self._generators = self._seeded(cut)
        self._restart(np.ones(self._age.size, bool))
        return self._observations()

    def step(self, action: np.ndarray) -> Step:
        if self._age.size == 1:
            return self._step_one(int(action.item()))
        self._move(action.reshape(-1))
        self._age += 1
        terminated = (np.abs(self._state[0]) > FARTHEST) | (np.abs(self._state[2]) > STEEPEST)
        return self._ended(terminated, self._age >= LONGEST)

    def _step_one(self, action: int) -> Step:
        """One pole alone, in plain numbers: an array of one would take five times as long."""
        position, velocity, angle, spin = self._state[:, 0].tolist()
        speed_up, spin_up = accelerations(action, math.cos(angle), math.sin(angle), spin)
        position += SECONDS * velocity
        angle += SECONDS * spin
        state = (position, velocity + SECONDS * speed_up, angle, spin + SECONDS * spin_up)
        self._state[:, 0] = state
        self._age += 1
        terminated = abs(position) > FARTHEST or abs(angle) > STEEPEST
        if terminated or self._age[0] >= LONGEST:
            return self._ended(np.array([terminated]), self._age >= LONGEST)
        obs = np.array([[state]], np.float32)
        return Step(obs, np.full((1, 1), 0.0 if self._punish else 1.0, np.float32), _NO, _NO, obs)

    def _ended(self, terminated: NDArray[np.bool_], truncated: NDArray[np.bool_]) -> Step:
        reward = -terminated.astype(np.float32) if self._punish else np.ones(terminated.size, np.float32)
        next_obs = obs = self._observations()
        ended = terminated | truncated
        if ended.any():
            self._restart(ended)
            obs = self._observations()
        shape = (len(self._seeds), self.num_envs)
        return Step(obs, reward.reshape(shape), terminated.reshape(shape), truncated.reshape(shape), next_obs)

    def select(self, keep: Sequence[int]) -> None:
        columns = (np.asarray(keep)[:, None] * self.num_envs + np.arange(self.num_envs)).ravel()
        self._seeds = [self._seeds[i] for i in keep]
        self._generators = [self._generators[i] for i in keep]
        self._state, self._age = self._state[:, columns], self._age[columns]

    def close(self) -> None:
        """Nothing to release."""

    def _seeded(self, cut: int) -> list[np.random.Generator]:
        return [np.random.default_rng(derive_seed(seed, "env", self._purpose, cut)) for seed in self._seeds]

    def _move(self, action: np.ndarray) -> None:
        _, velocity, angle, spin = self._state
        speed_up, spin_up = accelerations(action, np.cos(angle), np.sin(angle), spin)
        self._state += SECONDS * np.stack((velocity, speed_up, spin, spin_up))

    def _restart(self, where: NDArray[np.bool_]) -> None:
        """New episodes for some poles, (R * N,), each replica's drawn from its own generator."""
        columns = np.flatnonzero(where)
        counts = np.bincount(columns // self.num_envs, minlength=len(self._seeds)).tolist()
        draws = [g.uniform(-SPREAD, SPREAD, (n, 4)) for g, n in zip(self._generators, counts, strict=True) if n]
        self._state[:, columns] = np.concatenate(draws).T
        self._age[columns] = 0

    def _observations(self) -> NDArray[np.float32]:
        flat = self._state.T.astype(np.float32)
        return flat.reshape(len(self._seeds), self.num_envs, 4)
