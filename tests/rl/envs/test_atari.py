from fractions import Fraction

import numpy as np
import pytest

from app.schemas.experiment import EnvironmentSpec
from worker.rl import envs
from worker.rl.envs.atari import Atari, Shrink


def slow_shrink(screen: np.ndarray, side: int = 84) -> np.ndarray:
    """The mean of the area that each pixel covers, in fractions, to the nearest whole number (ties to even)."""
    height, width = screen.shape
    small = np.zeros((side, side), np.uint8)
    tall, wide = Fraction(height, side), Fraction(width, side)

    def covered(start: Fraction, end: Fraction) -> list[tuple[int, Fraction]]:
        last = -(-end.numerator // end.denominator)
        return [(i, min(end, Fraction(i + 1)) - max(start, Fraction(i))) for i in range(int(start), last)]

    for y in range(side):
        rows = covered(y * tall, (y + 1) * tall)
        for x in range(side):
            columns = covered(x * wide, (x + 1) * wide)
            total = sum(int(screen[i, j]) * a * b for i, a in rows for j, b in columns)
            small[y, x] = round(total / (tall * wide))
    return small


@pytest.mark.parametrize("size", [(210, 160), (250, 160), (214, 160)])
def test_shrinking_is_the_mean_over_areas(size: tuple[int, int]) -> None:
    screen = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    small = Shrink(*size)(screen)
    assert small.shape == (84, 84, 1) and np.array_equal(small[..., 0], slow_shrink(screen))


def test_a_step_is_four_frames_seen_by_the_brightest_of_the_last_two() -> None:
    env = Atari("pong", repeat_action_probability=0.0, clip_rewards=False, noop_max=0)
    env.reset(seed=3)
    twin = Atari("pong", repeat_action_probability=0.0, noop_max=0)
    twin.reset(seed=3)
    rng = np.random.default_rng(0)
    for action in rng.integers(6, size=4):
        obs, reward, *_ = env.step(action)
        screens, gained = [], 0
        for _ in range(4):
            gained += twin.ale.act(twin.ale.getMinimalActionSet()[action])
            screens.append(twin.ale.getScreenGrayscale())
        assert gained == reward
        assert np.array_equal(obs[..., 0], slow_shrink(np.maximum(*screens[2:])))


def test_episodes_begin_after_nothing_was_done_for_up_to_thirty_frames() -> None:
    env = Atari("pong")
    frames = set()
    for seed in range(12):
        env.reset(seed=seed)
        frames.add(env.ale.getEpisodeFrameNumber())
    assert len(frames) > 5 and max(frames) - min(frames) <= 30


def test_rewards_are_clipped_and_lives_count_in_training_only() -> None:
    spec = EnvironmentSpec(id="ALE/Breakout-v5", kwargs={"terminal_on_life_loss": True})
    made = {purpose: envs.make(spec, [0], 1, purpose=purpose) for purpose in ("train", "evaluation")}
    games = {purpose: env._env._envs[0].unwrapped for purpose, env in made.items()}
    assert (games["train"]._mortal, games["train"]._clip) == (True, True)
    assert (games["evaluation"]._mortal, games["evaluation"]._clip) == (False, False)


def test_a_lost_life_ends_an_episode_that_the_next_goes_on_from() -> None:
    env = Atari("breakout", terminal_on_life_loss=True)
    env.reset(seed=0)
    lives, fire = [env.ale.lives()], 1
    while len(lives) < 7:
        _, _, terminated, _, _ = env.step(np.int64(fire))
        if terminated:
            env.reset()
            lives.append(env.ale.lives())
    assert lives == [5, 4, 3, 2, 1, 5, 4], "the game begins anew when it is over"


def test_rewards_have_their_sign() -> None:
    def collect(clip: bool) -> list[float]:
        env, rng = Atari("space_invaders", clip_rewards=clip), np.random.default_rng(1)
        env.reset(seed=0)
        return [env.step(rng.integers(6))[1] for _ in range(200)]

    clipped, true = collect(True), collect(False)
    assert max(true) > 1 and clipped == np.sign(true).tolist()


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "ALE/Breakout-v5"])
def test_a_reset_forgets_everything_before_it(env_id: str) -> None:
    used, fresh = (envs.make(EnvironmentSpec(id=env_id), [1], 2) for _ in range(2))
    rng = np.random.default_rng(0)
    used.reset(0)
    for _ in range(60):
        used.step(rng.integers(0, used.spec.action_dim, (1, 2)))
    first = used.reset(64).copy()
    assert first.shape == (1, 2, 84, 84, 4) and np.array_equal(first, fresh.reset(64))
    for _ in range(150):
        action = rng.integers(0, used.spec.action_dim, (1, 2))
        assert all(np.array_equal(a, b) for a, b in zip(used.step(action), fresh.step(action), strict=True))
    assert np.array_equal(used.reset(64), first)
    used.reset(65), fresh.reset(66)
    same = [np.array_equal(used.step(a).obs, fresh.step(a).obs) for a in np.ones((60, 1, 2), np.int64)]
    assert not all(same), "different cuts are different games"
