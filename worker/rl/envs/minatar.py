"""MinAtar (Young & Tian 2019, https://arxiv.org/abs/1903.03176): five Atari games in miniature.

The games are those of the package ``MinAtar``; its wrapper around them is replaced, since it starts a game before it
can be seeded. Deviations: an episode begins with no action to be repeated, and ends after ``LONGEST_EPISODE`` steps.
"""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
LONGEST_EPISODE = 5000
"""Env steps. The games have no limit of their own, save freeway's, which is a terminal state after 2,500."""


class MinAtar(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """One game: images (10, 10, C) of zeros and ones, a channel for each kind of thing, and the actions that matter.

    Args:
        game: One of ``GAMES``.
        sticky_action_prob: How often the last action is repeated instead of the one given.
        difficulty_ramping: Whether the game gets harder with time.
    """

    def __init__(self, game: str, sticky_action_prob: float = 0.1, difficulty_ramping: bool = True) -> None:
        self._game = _module(game).Env(ramping=difficulty_ramping)
        self._actions: list[int] = self._game.minimal_action_set()
        self._sticky, self._last = sticky_action_prob, 0
        self.observation_space = Box(0, 1, tuple(self._game.state_shape()), np.uint8)
        self.action_space = Discrete(len(self._actions))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._game.random = np.random.RandomState(seed % 2**32)
        self._last = 0
        self._game.reset()
        return self._obs(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        if self._game.random.rand() >= self._sticky:
            self._last = self._actions[action]
        reward, terminated = self._game.act(self._last)
        return self._obs(), float(reward), terminated, False, {}

    def _obs(self) -> NDArray[np.uint8]:
        state: NDArray[np.bool_] = self._game.state()
        return state.view(np.uint8)


@cache
def register() -> None:
    """Make the games known to gymnasium, with their minimal action sets: version 1, as the package itself counts."""
    for game in GAMES:
        gymnasium.register(
            f"MinAtar/{game.title().replace('_', '')}-v1",
            entry_point="worker.rl.envs.minatar:MinAtar",
            kwargs={"game": game},
            max_episode_steps=LONGEST_EPISODE,
        )


@cache
def _module(game: str) -> ModuleType:
    """A game's module by its path: importing the package would import matplotlib, pandas and seaborn as well."""
    package = importlib.util.find_spec("minatar")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("the worker needs MinAtar: pip install 'trainyard[minatar]'")
    path = Path(package.submodule_search_locations[0]) / "environments" / f"{game}.py"
    spec = importlib.util.spec_from_file_location(f"minatar.environments.{game}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
