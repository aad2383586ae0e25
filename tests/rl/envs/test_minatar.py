import subprocess
import sys

import numpy as np
import pytest

from worker.rl.envs.minatar import GAMES, MinAtar


@pytest.mark.parametrize("game", GAMES)
def test_it_plays_like_the_packages_own(game: str) -> None:
    ours, theirs = MinAtar(game), pytest.importorskip("minatar").Environment(game)
    actions = theirs.minimal_action_set()
    assert ours.action_space.n == len(actions)
    assert ours.observation_space.shape == tuple(theirs.state_shape())
    theirs.seed(7)
    theirs.reset()
    obs, _ = ours.reset(seed=7)
    assert obs.dtype == np.uint8 and np.array_equal(obs, theirs.state())
    rng = np.random.default_rng(0)
    ends = 0
    for action in rng.integers(len(actions), size=3000):
        obs, reward, terminated, truncated, _ = ours.step(action)
        assert (reward, terminated) == theirs.act(actions[action]) and not truncated
        assert np.array_equal(obs, theirs.state())
        if terminated:
            theirs.last_action = 0
            theirs.reset()
            assert np.array_equal(ours.reset()[0], theirs.state())
            ends += 1
    assert ends > 0


def test_the_package_is_not_imported_for_its_games() -> None:
    """In a process of its own: other tests import it."""
    look = """
import sys
from app.schemas.experiment import EnvironmentSpec
from worker.rl import envs

envs.make(EnvironmentSpec(id="MinAtar/SpaceInvaders-v1"), [0], 1).reset(0)
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"minatar", "matplotlib", "pandas", "seaborn"}))
"""
    assert subprocess.check_output([sys.executable, "-c", look], text=True) == "\n"


def test_actions_stick_as_often_as_asked() -> None:
    always = MinAtar("breakout", sticky_action_prob=1.0)
    before, _ = always.reset(seed=0)
    for _ in range(5):
        after, *_ = always.step(np.int64(1))
    assert np.array_equal(before[..., 0], after[..., 0]), "the paddle never moves"
