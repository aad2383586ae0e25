from collections.abc import Callable

import numpy as np
import pytest

from worker.rl.drivers.episodes import Episodes


def test_sums_equal_a_plain_loop_over_any_split() -> None:
    rng = np.random.default_rng(0)
    reward = rng.standard_normal((2, 60, 3)).astype(np.float32)
    ended = rng.random((2, 60, 3)) < 0.15
    expected: list[list[tuple[float, int]]] = [[], []]
    for r in range(2):
        for n in range(3):
            total, length = 0.0, 0
            for t in range(60):
                total, length = total + float(reward[r, t, n]), length + 1
                if ended[r, t, n]:
                    expected[r].append((total, length))
                    total, length = 0.0, 0
    for pieces in ([60], [1] * 60, [7, 20, 1, 32]):
        episodes, start = Episodes(2, 3), 0
        for size in pieces:
            episodes.add(reward[:, start : start + size], ended[:, start : start + size])
            start += size
        means = episodes.take()
        for r in range(2):
            np.testing.assert_allclose(
                means["train/episode_return"][r], np.mean([x for x, _ in expected[r]]), atol=1e-6
            )
            np.testing.assert_allclose(means["train/episode_length"][r], np.mean([x for _, x in expected[r]]))


def test_windows_begin_anew_and_cut_episodes_do_not_count() -> None:
    episodes = Episodes(1, 1)
    one, no, yes = np.ones((1, 3, 1)), np.zeros((1, 3, 1), bool), np.array([[[False], [False], [True]]])
    episodes.add(one, no)
    assert np.isnan(episodes.take()["train/episode_return"]).all()
    episodes.cut()
    episodes.add(one, yes)
    assert episodes.take()["train/episode_length"].tolist() == [3]


def test_an_infinite_return_spoils_no_other() -> None:
    """Neither in the window where it ends nor afterwards."""
    episodes = Episodes(2, 1)
    reward = np.ones((2, 6, 1))
    reward[0, 1] = np.inf
    ended = np.zeros((2, 6, 1), bool)
    ended[:, [1, 3]] = True
    episodes.add(reward, ended)
    assert episodes.take()["train/episode_return"].tolist() == [np.inf, 2.0]
    episodes.add(np.ones((2, 1, 1)), np.ones((2, 1, 1), bool))
    assert episodes.take()["train/episode_return"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("close", [Episodes.take, Episodes.cut])
@pytest.mark.parametrize("ends", [True, False])
def test_rewards_that_are_no_numbers_are_not_forgotten(close: Callable[[Episodes], object], ends: bool) -> None:
    episodes = Episodes(3, 2)
    reward = np.ones((3, 1, 2))
    reward[0, 0, 1], reward[2, 0, 0] = np.nan, -np.inf
    episodes.add(reward, np.full((3, 1, 2), ends))
    close(episodes)
    episodes.add(np.ones((3, 1, 2)), np.ones((3, 1, 2), bool))
    episodes.take()
    assert episodes.finite.tolist() == [False, True, False]
    episodes.select([1, 2])
    assert episodes.finite.tolist() == [True, False]


def test_select() -> None:
    episodes = Episodes(3, 1)
    episodes.add(np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1), np.zeros((3, 1, 1), bool))
    episodes.select([2, 0])
    episodes.add(np.ones((2, 1, 1)), np.ones((2, 1, 1), bool))
    assert episodes.take()["train/episode_return"].tolist() == [4.0, 2.0]
