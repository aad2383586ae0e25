"""Seeded evaluation in environments of its own."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from app.schemas.experiment import EnvironmentSpec
from worker.rl import envs
from worker.rl.algorithms.agent import Agent
from worker.rl.envs import VectorEnv
from worker.rl.noise import Noise

COPIES = 16
"""Most environments per replica."""


class Evaluation(NamedTuple):
    """Undiscounted returns and lengths, (R, episodes) each."""

    returns: np.ndarray
    lengths: np.ndarray


class Evaluator:
    """Plays ``episodes`` episodes per replica with frozen normalisers and without exploration.

    Every copy plays a number of episodes fixed beforehand: taking the first to finish would favour short ones. Seeds
    derive from the run's for a purpose of their own, so that training never sees the same episode.
    """

    def __init__(
        self, environment: EnvironmentSpec, seeds: Sequence[int], episodes: int, device: torch.device | str = "cpu"
    ) -> None:
        self.seeds = list(seeds)
        self.episodes = episodes
        self.device = torch.device(device)
        self.copies = min(episodes, COPIES)
        self._environment = environment
        self._envs: VectorEnv | None = None
        # Copy i plays episodes i, i + copies, …
        self._quota = np.array([len(range(i, episodes, self.copies)) for i in range(self.copies)])

    def run(self, agent: Agent, index: int, stopped: Callable[[], bool]) -> Evaluation | None:
        """Evaluate ``agent``; the same ``index`` gives the same episodes to the same policy. None when ``stopped``."""
        noise = Noise(self.seeds, self.device, purpose=f"evaluation/{index}")
        if self._envs is None:  # made when first needed: training is to begin at once
            self._envs = envs.make(self._environment, self.seeds, self.copies, purpose="evaluation")
        obs = self._envs.reset(index)
        shape = (len(self.seeds), self.copies)
        returns, lengths = np.zeros((*shape, self._quota.max())), np.zeros((*shape, self._quota.max()), np.int64)
        played = np.zeros(shape, np.int64)
        total, length = np.zeros(shape), np.zeros(shape, np.int64)
        while (playing := played < self._quota).any():
            if stopped():
                return None
            action = agent.act(torch.from_numpy(obs).to(self.device), noise, explore=False).action
            step = self._envs.step(action.cpu().numpy())
            obs = step.obs
            total += step.reward
            length += 1
            ended = step.terminated | step.truncated
            if ended.any():
                done = tuple(np.argwhere(ended & playing).T)
                returns[(*done, played[done])] = total[done]
                lengths[(*done, played[done])] = length[done]
                played += ended & playing
                total[ended], length[ended] = 0.0, 0
        return Evaluation(self._in_order(returns), self._in_order(lengths))

    def select(self, keep: Sequence[int]) -> None:
        """Keep these replicas, in this order."""
        self.seeds = [self.seeds[i] for i in keep]
        if self._envs is not None:
            self._envs.select(keep)

    def close(self) -> None:
        if self._envs is not None:
            self._envs.close()

    def _in_order(self, by_copy: np.ndarray) -> np.ndarray:
        """(R, copies, rounds) -> (R, episodes) by number of the episode."""
        return by_copy.transpose(0, 2, 1).reshape(len(self.seeds), -1)[:, : self.episodes]
