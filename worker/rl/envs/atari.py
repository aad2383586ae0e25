"""Atari 2600 games by ale-py, preprocessed as is usual (Mnih et al. 2015; Machado et al. 2018, arXiv 1709.06009).

An env step is four frames of the same action; what is seen of them is the brightest of the last two, grey, 84 x 84. The
stack of four observations is ``stacking.FrameStack``. As Machado et al. recommend, actions stick (with probability 0.25
a frame repeats the last one), a lost life ends no episode and nothing presses FIRE for the agent. Deviation from them:
an episode begins with up to 30 frames of doing nothing, as in Mnih et al.

Rewards are clipped to their sign and lives end episodes, if asked for, in training only.
"""

from functools import cache
from math import gcd
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

SIDE = 84
FRAMES = 4
"""Per env step."""
STACK = 4
LONGEST_EPISODE = 27_000
"""Env steps: 108,000 frames, half an hour of play."""
MULTIPLAYER = {"combat", "joust", "maze_craze", "warlords"}
TRAINING_ONLY = {"clip_rewards": False, "terminal_on_life_loss": False}
"""Arguments that evaluation leaves out."""

Frame = NDArray[np.uint8]


class Atari(gymnasium.Env[Frame, np.int64]):
    """One game: grey images (84, 84, 1).

    Args:
        game: Name of its ROM.
        mode: The game's mode; None takes its default. The same for ``difficulty``.
        repeat_action_probability: How often a frame repeats the last action instead of the one given.
        full_action_space: All 18 actions instead of those with an effect.
        noop_max: Most frames of doing nothing that an episode begins with.
        terminal_on_life_loss: Whether a lost life is a terminal state; the next episode goes on from there.
        clip_rewards: Whether rewards are replaced by their sign.
    """

    def __init__(
        self,
        game: str,
        mode: int | None = None,
        difficulty: int | None = None,
        repeat_action_probability: float = 0.25,
        full_action_space: bool = False,
        noop_max: int = 30,
        terminal_on_life_loss: bool = False,
        clip_rewards: bool = True,
    ) -> None:
        import ale_py

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", repeat_action_probability)
        self._rom = ale_py.roms.get_rom_path(game) or game
        self._mode, self._difficulty = mode, difficulty
        self._noop_max, self._mortal, self._clip = noop_max, terminal_on_life_loss, clip_rewards
        self._load(0)
        self._actions = self.ale.getLegalActionSet() if full_action_space else self.ale.getMinimalActionSet()
        self._screens = np.zeros((2, *self.ale.getScreenDims()), np.uint8)
        self._shrink = Shrink(*self._screens.shape[1:])
        self._lives, self._lost = 0, False
        self.observation_space = Box(0, 255, (SIDE, SIDE, 1), np.uint8)
        self.action_space = Discrete(len(self._actions))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._load(int(self.np_random.integers(2**31)))
        if self._lost and seed is None:
            self.ale.act(0)
        else:
            self._begin()
        self._lives, self._lost = self.ale.lives(), False
        self._screens[:] = self.ale.getScreenGrayscale()
        return self._shrink(self._screens[0]), {}

    def step(self, action: np.int64) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        reward = 0
        for frame in range(FRAMES):
            reward += self.ale.act(self._actions[action])
            if frame >= FRAMES - 2:
                self.ale.getScreenGrayscale(self._screens[frame % 2])
            if self.ale.game_over():
                break
        over, lives = self.ale.game_over(), self.ale.lives()
        self._lost = self._mortal and lives < self._lives and not over
        self._lives = lives
        obs = self._shrink(self._screens.max(0))
        return obs, float(np.sign(reward) if self._clip else reward), over or self._lost, False, {}

    def _load(self, seed: int) -> None:
        self.ale.setInt("random_seed", seed)
        self.ale.loadROM(self._rom)
        if self._mode is not None:
            self.ale.setMode(self._mode)
        if self._difficulty is not None:
            self.ale.setDifficulty(self._difficulty)

    def _begin(self) -> None:
        self.ale.reset_game()
        for _ in range(int(self.np_random.integers(self._noop_max + 1))):
            self.ale.act(0)
            if self.ale.game_over():
                self.ale.reset_game()


class Shrink:
    """Screens (height, width) to (84, 84, 1) by the mean of the area that each pixel covers.

    The shares of source pixels are whole numbers over a common total, and their products are sums below 2 ** 24, which
    float32 holds exactly: the result doesn't depend on the machine.
    """

    def __init__(self, height: int, width: int) -> None:
        self._rows, self._columns = shares(height, SIDE), shares(width, SIDE).T.contiguous()
        self._total = float(self._rows[0].sum() * self._columns[:, 0].sum())

    def __call__(self, screen: Frame) -> Frame:
        sums = self._rows @ torch.from_numpy(screen).float() @ self._columns
        small: Frame = (sums / self._total).round_().to(torch.uint8).unsqueeze(-1).numpy()
        return small


def shares(source: int, target: int) -> Tensor:
    """How much of each source pixel each target pixel covers, (target, source), in units of a common divisor."""
    unit = gcd(source, target)
    long, short = source // unit, target // unit  # a target pixel is `long` units long, a source pixel `short`
    starts, origin = long * torch.arange(target)[:, None], short * torch.arange(source)
    overlap = torch.minimum(starts + long, origin + short) - torch.maximum(starts, origin)
    return overlap.clamp(min=0).float()


@cache
def register() -> None:
    """Make every game for one player known to gymnasium."""
    try:
        import ale_py.roms
    except ImportError as error:
        raise ModuleNotFoundError("the worker needs ale-py: pip install 'trainyard[atari]'") from error
    for game in ale_py.roms.get_all_rom_ids():
        if game not in MULTIPLAYER:
            env_id = f"ALE/{game.title().replace('_', '')}-v5"
            gymnasium.registry.pop(env_id, None)  # ale-py has registered its own, which preprocesses nothing
            gymnasium.register(
                env_id,
                entry_point="worker.rl.envs.atari:Atari",
                kwargs={"game": game},
                max_episode_steps=LONGEST_EPISODE,
            )
