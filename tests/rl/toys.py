"""Tiny environments with known answers, and specs for them."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space

from app.schemas.environments import BoxSpace
from app.schemas.experiment import ExperimentSpec


def box(*shape: int, high: float = 255.0) -> BoxSpace:
    """Observations of this shape: bytes up to ``high`` if it has three axes."""
    if len(shape) == 3:
        return BoxSpace(shape=shape, dtype="uint8", low=(0.0,), high=(high,))
    return BoxSpace(shape=shape, low=(None,) * shape[0], high=(None,) * shape[0])


class Toy(gymnasium.Env[np.ndarray, Any]):
    """Reward 1 a step, one observation for ever; ends only by its time limit unless ``die_at`` says when."""

    def __init__(
        self,
        observation_space: Space[Any] | None = None,
        action_space: Space[Any] | None = None,
        die_at: int | None = None,
        fail_at: int | None = None,
    ) -> None:
        self.observation_space = observation_space or Box(-1, 1, (1,), np.float32)
        self.action_space = action_space or Discrete(2)
        self.die_at, self.fail_at = die_at, fail_at
        self.age = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.age = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age += 1
        assert self.action_space.contains(action), f"{action!r} is no action"
        if self.age == self.fail_at:
            raise RuntimeError("the motor is on fire")
        return self._obs(), 1.0, self.age == self.die_at, False, {}

    def _obs(self) -> Any:
        space = self.observation_space
        return np.zeros(space.shape or (), space.dtype) if isinstance(space, Box) else space.sample()


class Counting(Toy):
    """Observes its own age; the episode's number decides nothing. Actions must repeat the observation's parity."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Box(-1000, 1000, (1,), np.float32), **kwargs)

    def _obs(self) -> np.ndarray:
        return np.array([self.age], np.float32)


class Endless(Toy):
    """Pays its age, and ends for no reason of its own."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, _, terminated, truncated, info = super().step(action)
        return obs, float(self.age), terminated, truncated, info


class Match(Toy):
    """One-step episodes: reward for every part of a multi-discrete action that names the part of the observation."""

    def __init__(self) -> None:
        super().__init__(Box(0, 1, (2,), np.float32), MultiDiscrete([2, 3]))
        self.target = np.zeros(2, np.int64)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float((action == self.target).sum())
        return self._obs(), reward, True, False, {}

    def _obs(self) -> np.ndarray:
        self.target = np.array([self.np_random.integers(2), self.np_random.integers(3)])
        return (self.target / (1, 2)).astype(np.float32)


class Tiny(Toy):
    """Images that are too small for the convolutional torso."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Box(0, 255, (2, 2, 3), np.uint8), **kwargs)


class Mortal(Toy):
    """Observes its age; each copy dies when its generator says so, before or at the time limit."""

    def __init__(self) -> None:
        super().__init__(Box(-1000, 1000, (1,), np.float32))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, *_ = super().step(action)
        return obs, reward, bool(self.np_random.random() < 0.15), False, {}

    def _obs(self) -> np.ndarray:
        return np.array([self.age], np.float32)


class Flash(Toy):
    """Images: the bright half says which action pays."""

    def __init__(self) -> None:
        super().__init__(Box(0, 255, (36, 36, 3), np.uint8))
        self.side = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.side)
        return self._obs(), reward, True, False, {}

    def _obs(self) -> np.ndarray:
        self.side = int(self.np_random.integers(2))
        image = np.zeros((36, 36, 3), np.uint8)
        image[:, 18 * self.side : 18 * (self.side + 1)] = 255
        return image


def _register() -> None:
    for name, entry, limit in (
        ("Toy", Toy, 5),
        ("Counting", Counting, 5),
        ("Endless", Endless, None),
        ("Tiny", Tiny, 5),
        ("Mortal", Mortal, 5),
        ("Match", Match, None),
        ("Flash", Flash, None),
    ):
        if f"{name}-v0" not in gymnasium.registry:
            gymnasium.register(f"{name}-v0", entry, max_episode_steps=limit)


_register()


def spec(
    environment: str,
    algorithm: dict[str, Any],
    *,
    num_envs: int,
    total: int,
    every: int | None = None,
    episodes: int = 2,
    kwargs: dict[str, Any] | None = None,
) -> ExperimentSpec:
    """A resolved spec, for environments that are not in the catalogue too."""
    return ExperimentSpec.model_validate(
        {
            "environment": {"id": environment, "num_envs": num_envs, "kwargs": kwargs or {}},
            "algorithm": algorithm,
            "training": {
                "total_env_steps": total,
                "evaluate_every": every or total,
                "checkpoint_every": every or total,
                "evaluation_episodes": episodes,
            },
        }
    )
