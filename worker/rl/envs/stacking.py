"""Stacked frames: observations that are the last few images, so that a policy without memory sees motion."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from app.schemas.environments import channel_axis, stacked
from worker.rl.envs.vector import Step, VectorEnv
from worker.rl.errors import UnsupportedSpace


class FrameStack:
    """The last ``frames`` images of every copy along their channel axis, the newest last.

    Before an episode's first frame there are zeros, never frames of the episode before.
    """

    def __init__(self, env: VectorEnv, frames: int) -> None:
        if not env.spec.image:
            raise UnsupportedSpace(f"{env.spec.id}: only images can be stacked")
        frame = env.spec.observation_box
        space = stacked(frame, frames)
        if channel_axis(space.shape) != channel_axis(frame.shape):
            raise UnsupportedSpace(f"{env.spec.id}: {frames} frames would have more channels than pixels on a side")
        self.spec = replace(env.spec, observation_space=space, frame_stack=frames)
        self.num_envs = env.num_envs
        self._env, self._axis = env, 2 + channel_axis(frame.shape)
        self._channels = frame.shape[self._axis - 2]
        self._stack = np.zeros(0, np.uint8)

    def reset(self, cut: int) -> np.ndarray:
        newest = np.moveaxis(self._env.reset(cut), self._axis, 2)
        # Channels lie outermost in memory, where shifting them is one copy; callers see them on their own axis.
        self._stack = np.zeros((*newest.shape[:2], self.spec.frame_stack * self._channels, *newest.shape[3:]), np.uint8)
        self._stack[:, :, -self._channels :] = newest
        return self._shaped(self._stack)

    def step(self, action: np.ndarray) -> Step:
        step = self._env.step(action)
        self._stack[:, :, : -self._channels] = self._stack[:, :, self._channels :]
        self._stack[:, :, -self._channels :] = np.moveaxis(step.next_obs, self._axis, 2)
        next_obs = self._stack
        ended = step.terminated | step.truncated
        if ended.any():
            self._stack = self._stack.copy()
            self._stack[ended] = 0
            self._stack[ended, -self._channels :] = np.moveaxis(step.obs, self._axis, 2)[ended]
        return step._replace(obs=self._shaped(self._stack), next_obs=self._shaped(next_obs))

    def select(self, keep: Sequence[int]) -> None:
        self._env.select(keep)
        self._stack = self._stack[list(keep)]

    def close(self) -> None:
        self._env.close()

    def _shaped(self, stack: np.ndarray) -> np.ndarray:
        return np.moveaxis(stack, 2, self._axis)
