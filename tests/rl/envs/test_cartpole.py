import gymnasium
import numpy as np
import pytest

from worker.rl.envs.cartpole import CartPole


@pytest.mark.parametrize("punish", [False, True])
def test_agrees_with_gymnasium_step_by_step(punish: bool) -> None:
    ours = CartPole([0, 1], 4, sutton_barto_reward=punish)
    theirs = [gymnasium.make("CartPole-v1", sutton_barto_reward=punish) for _ in range(8)]
    for env in theirs:
        env.reset(seed=0)

    def copy_state(which: np.ndarray) -> None:
        for i in np.flatnonzero(which):
            theirs[i].reset()
            theirs[i].unwrapped.state = tuple(ours._state[:, i])

    ours.reset(0)
    copy_state(np.ones(8, bool))
    rng, ends = np.random.default_rng(0), 0
    for _ in range(600):
        action = (ours._state[2] + 0.3 * ours._state[3] + 0.2 * rng.standard_normal(8) > 0).astype(np.int64)
        action[:2] = rng.integers(2, size=2)
        step = ours.step(action.reshape(2, 4))
        for i, env in enumerate(theirs):
            obs, reward, terminated, truncated, _ = env.step(action[i])
            r, n = divmod(i, 4)
            np.testing.assert_allclose(step.next_obs[r, n], obs, rtol=1e-5, atol=1e-6)
            assert (step.reward[r, n], step.terminated[r, n], step.truncated[r, n]) == (reward, terminated, truncated)
        ended = (step.terminated | step.truncated).ravel()
        ends += int(ended.sum())
        copy_state(ended)
        # gymnasium goes on from float64 states of its own; keep the two from drifting apart
        for i in np.flatnonzero(~ended):
            theirs[i].unwrapped.state = tuple(ours._state[:, i])
    assert ends > 20


def test_five_hundred_steps_are_truncation() -> None:
    env = CartPole([0], 1)
    env.reset(0)
    for age in range(1, 501):
        angle, spin = env._state[2], env._state[3]
        step = env.step(
            (angle + 0.5 * spin + 0.05 * env._state[0] + 0.1 * env._state[1] > 0).astype(np.int64).reshape(1, 1)
        )
        assert not step.terminated.any()
        assert bool(step.truncated.any()) == (age == 500)
    assert np.abs(step.obs).max() <= 0.05 and np.abs(step.next_obs).max() > 0.0


def test_one_pole_alone_moves_like_one_among_many() -> None:
    alone, among = CartPole([3], 1), CartPole([3, 4], 1)
    assert np.array_equal(alone.reset(0)[0], among.reset(0)[0])
    actions = np.random.default_rng(0).integers(0, 2, 400)
    ends = 0
    for action in actions:
        ours, theirs = alone.step(np.array([[action]])), among.step(np.array([[action], [1 - action]]))
        np.testing.assert_allclose(ours.next_obs[0], theirs.next_obs[0], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(ours.obs[0], theirs.obs[0], rtol=1e-5, atol=1e-7)
        assert ours.terminated[0] == theirs.terminated[0] and ours.reward[0] == theirs.reward[0]
        ends += int(ours.terminated.sum())
    assert ends > 3
