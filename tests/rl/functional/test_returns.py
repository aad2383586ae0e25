import pytest
import torch
from torch import Tensor

from worker.rl.functional import returns

GAMMA, LAMBDA = 0.97, 0.9


def rollout(steps: int = 23, envs: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """reward, value, next_value, terminated, episode_end: (R = 2, T, N), float64."""
    g = torch.Generator().manual_seed(1)
    shape = (2, steps, envs)
    reward, value, next_value = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(3))
    terminated = torch.rand(shape, generator=g) < 0.1
    episode_end = terminated | (torch.rand(shape, generator=g) < 0.1)
    # Within an episode the next value is the value of the next step.
    follows = ~episode_end[:, :-1]
    next_value[:, :-1][follows] = value[:, 1:][follows]
    return reward, value, next_value, terminated, episode_end


def slow_gae(
    reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, episode_end: Tensor, lambda_: float
) -> Tensor:
    """Eq. 16 of the paper as a sum over the rest of the episode."""
    out = torch.zeros_like(reward)
    for r, t, n in torch.cartesian_prod(*(torch.arange(s) for s in reward.shape)).tolist():
        weight = 1.0
        for u in range(t, reward.shape[1]):
            bootstrap = 0.0 if terminated[r, u, n] else GAMMA * next_value[r, u, n]
            out[r, t, n] += weight * (reward[r, u, n] + bootstrap - value[r, u, n])
            weight *= GAMMA * lambda_
            if episode_end[r, u, n]:
                break
    return out


def fast_gae(data: tuple[Tensor, ...], lambda_: float) -> Tensor:
    reward, value, next_value, terminated, episode_end = data
    return returns.gae(reward, value, next_value, GAMMA * (~terminated).double(), episode_end, GAMMA, lambda_)


@pytest.mark.parametrize("steps", [1, 2, 7, 16, 23])
def test_gae_is_the_sum_of_the_paper(steps: int) -> None:
    data = rollout(steps)
    torch.testing.assert_close(fast_gae(data, LAMBDA), slow_gae(*data, LAMBDA), rtol=0, atol=1e-12)


def test_gae_with_lambda_zero_is_the_td_error() -> None:
    reward, value, next_value, terminated, _ = data = rollout()
    td_error = reward + GAMMA * (~terminated).double() * next_value - value
    torch.testing.assert_close(fast_gae(data, 0.0), td_error, rtol=0, atol=0)


def test_gae_with_lambda_one_is_the_bootstrapped_return_less_the_value() -> None:
    reward, value, next_value, terminated, episode_end = data = rollout()
    expected = torch.zeros_like(reward)
    for r, t, n in torch.cartesian_prod(*(torch.arange(s) for s in reward.shape)).tolist():
        discount = 1.0
        for u in range(t, reward.shape[1]):
            expected[r, t, n] += discount * reward[r, u, n]
            discount *= GAMMA
            if episode_end[r, u, n] or u == reward.shape[1] - 1:
                expected[r, t, n] += 0.0 if terminated[r, u, n] else discount * next_value[r, u, n]
                break
    torch.testing.assert_close(fast_gae(data, 1.0), expected - value, rtol=0, atol=1e-12)


def test_nothing_leaks_from_the_next_episode() -> None:
    reward, value, next_value, terminated, episode_end = rollout()
    episode_end[:, 10] = True
    before = returns.gae(reward, value, next_value, GAMMA * (~terminated).double(), episode_end, GAMMA, LAMBDA)
    reward[:, 11:] += 100.0
    after = returns.gae(reward, value, next_value, GAMMA * (~terminated).double(), episode_end, GAMMA, LAMBDA)
    assert torch.equal(before[:, :11], after[:, :11])


def slow_q_lambda(
    reward: Tensor, next_value: Tensor, terminated: Tensor, episode_end: Tensor, lambda_: float
) -> Tensor:
    """All n-step returns up to the episode's end, weighted by (1 - lambda) lambda^(n - 1), the last by what is left."""
    out = torch.zeros_like(reward)
    for r, t, n in torch.cartesian_prod(*(torch.arange(s) for s in reward.shape)).tolist():
        rewards, weight = 0.0, 1.0
        for u in range(t, reward.shape[1]):
            rewards += GAMMA ** (u - t) * float(reward[r, u, n])
            bootstrap = 0.0 if terminated[r, u, n] else GAMMA ** (u - t + 1) * float(next_value[r, u, n])
            last = bool(episode_end[r, u, n]) or u == reward.shape[1] - 1
            out[r, t, n] += weight * (1.0 if last else 1 - lambda_) * (rewards + bootstrap)
            weight *= lambda_
            if last:
                break
    return out


def fast_q_lambda(data: tuple[Tensor, ...], lambda_: float) -> Tensor:
    reward, _, next_value, terminated, episode_end = data
    return returns.q_lambda(reward, next_value, GAMMA * (~terminated).double(), episode_end, lambda_)


@pytest.mark.parametrize("steps", [1, 2, 7, 16, 23])
@pytest.mark.parametrize("lambda_", [0.0, 0.65, 1.0])
def test_q_lambda_is_the_mixture_of_n_step_returns(steps: int, lambda_: float) -> None:
    data = rollout(steps)
    reward, _, next_value, terminated, episode_end = data
    expected = slow_q_lambda(reward, next_value, terminated, episode_end, lambda_)
    torch.testing.assert_close(fast_q_lambda(data, lambda_), expected, rtol=0, atol=1e-12)


def test_q_lambda_with_lambda_zero_is_the_target_of_q_learning() -> None:
    reward, _, next_value, terminated, _ = data = rollout()
    torch.testing.assert_close(fast_q_lambda(data, 0.0), reward + GAMMA * (~terminated).double() * next_value)


def test_q_lambda_with_lambda_one_is_what_was_earned_up_to_the_first_end() -> None:
    reward, _, next_value, terminated, episode_end = data = rollout()
    ended = torch.zeros(2, 3, dtype=torch.float64)
    for t in reversed(range(reward.shape[1])):
        stops = episode_end[:, t] if t < reward.shape[1] - 1 else torch.ones_like(episode_end[:, t])
        after = torch.where(stops, next_value[:, t] * ~terminated[:, t], ended)
        ended = reward[:, t] + GAMMA * after
        torch.testing.assert_close(fast_q_lambda(data, 1.0)[:, t], ended, rtol=0, atol=1e-12)


def test_q_lambda_less_the_value_is_gae() -> None:
    """Both weigh the same n-step returns: the policy improved on is another, the traces are not."""
    data = rollout()
    torch.testing.assert_close(fast_q_lambda(data, LAMBDA), fast_gae(data, LAMBDA) + data[1], rtol=0, atol=1e-12)


def test_the_two_masks_of_q_lambda() -> None:
    """An end stops the trace but keeps the bootstrap; termination removes both."""
    reward, _, next_value, terminated, episode_end = rollout()
    terminated[:, 10], episode_end[:, 10] = False, True
    terminated[:, 4], episode_end[:, 4] = True, True
    before = fast_q_lambda((reward, reward, next_value, terminated, episode_end), LAMBDA)
    torch.testing.assert_close(before[:, 10], reward[:, 10] + GAMMA * next_value[:, 10])
    torch.testing.assert_close(before[:, 4], reward[:, 4])
    reward[:, 11:] += 100.0
    next_value[:, 4] += 100.0
    after = fast_q_lambda((reward, reward, next_value, terminated, episode_end), LAMBDA)
    assert torch.equal(before[:, :11], after[:, :11])


def test_discounted_return_runs_forward_and_starts_anew_after_an_episode() -> None:
    reward, _, _, _, episode_end = rollout()
    start = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected, running = torch.zeros_like(reward), start
    for t in range(reward.shape[1]):
        running = GAMMA * running + reward[:, t]
        expected[:, t] = running
        running = running * ~episode_end[:, t]
    actual = returns.discounted_return(reward, episode_end, start, GAMMA)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
