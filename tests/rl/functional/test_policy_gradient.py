import math

import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from worker.rl.functional import categorical, entropy, gaussian, policy_gradient


def test_surrogate_has_the_a2c_gradient_where_the_ratio_is_one() -> None:
    log_prob = torch.randn(64, dtype=torch.float64, requires_grad=True)
    advantage = torch.randn(64, dtype=torch.float64)
    surrogate = policy_gradient.clipped_surrogate((log_prob - log_prob.detach()).exp(), advantage, 0.2)
    (clipped,) = torch.autograd.grad(surrogate.mean(), log_prob)
    (plain,) = torch.autograd.grad(policy_gradient.a2c(log_prob, advantage).mean(), log_prob)
    assert torch.equal(clipped, plain)


def test_surrogate_gains_nothing_beyond_the_clip_and_everything_within() -> None:
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.1, 0.9], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0, -1.0])
    loss = policy_gradient.clipped_surrogate(ratio, advantage, 0.2)
    torch.testing.assert_close(loss, torch.tensor([-1.2, 0.8, 1.5, -0.5, -1.1, 0.9]))
    (gradient,) = torch.autograd.grad(loss.sum(), ratio)
    assert gradient.tolist() == [0.0, 0.0, 1.0, -1.0, -1.0, 1.0]


def test_clipped_value_is_never_below_the_plain_error() -> None:
    value, old, target = torch.randn(3, 100)
    clipped = policy_gradient.clipped_value(value, old, target, 0.1)
    assert (clipped >= (value - target).square()).all()
    wide = policy_gradient.clipped_value(value, old, target, 100.0)
    torch.testing.assert_close(wide, (value - target).square())


def test_approx_kl_is_unbiased_and_never_negative() -> None:
    old, new = Normal(torch.tensor(0.0).double(), 1.0), Normal(torch.tensor(0.3).double(), 1.2)
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    sampled = policy_gradient.approx_kl(new.log_prob(x) - old.log_prob(x))
    assert (sampled >= 0).all()
    expectation = torch.trapezoid(sampled * old.log_prob(x).exp(), x)
    torch.testing.assert_close(expectation, kl_divergence(old, new), rtol=1e-6, atol=0)


def test_categorical_agrees_with_torch() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64)
    reference, log_p = Categorical(logits=logits), torch.log_softmax(logits, -1)
    action = torch.tensor([0, 6, 3, 2, 2])
    torch.testing.assert_close(categorical.log_prob(log_p, action), reference.log_prob(action))
    torch.testing.assert_close(entropy.categorical(log_p), reference.entropy())


def test_gumbel_argmax_samples_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0])
    gumbel = -(-torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0)).log()).log()
    share = torch.bincount(categorical.sample(logits, gumbel)) / 200_000
    torch.testing.assert_close(share, logits.softmax(-1), rtol=0, atol=4 * math.sqrt(0.25 / 200_000))


@pytest.mark.parametrize("epsilon", [1.0, 0.3, 1e-3])
def test_epsilon_greedy_draws_every_action_alike_beside_the_greedy_one(epsilon: float) -> None:
    greedy, n = torch.full((400_000,), 2), 400_000
    deviate = torch.rand(n, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(categorical.epsilon_greedy(greedy, 5, epsilon, deviate), minlength=5) / n
    expected = torch.full((5,), epsilon / 5)
    expected[2] += 1 - epsilon
    torch.testing.assert_close(share, expected, rtol=0, atol=5 * math.sqrt(epsilon / n))


def test_gaussian_agrees_with_torch() -> None:
    mean, log_std, action = torch.randn(3, 5, 2, dtype=torch.float64)
    reference = Normal(mean, log_std.exp())
    torch.testing.assert_close(gaussian.log_prob(action, mean, log_std), reference.log_prob(action).sum(-1))
    torch.testing.assert_close(entropy.gaussian(log_std), reference.entropy().sum(-1))
