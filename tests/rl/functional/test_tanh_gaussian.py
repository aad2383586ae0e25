"""The squashed Gaussian against torch.distributions, quadrature and the identity behind its Jacobian."""

from typing import Any

import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from worker.rl.functional import gaussian


def test_log_prob_equals_the_transformed_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = (torch.randn(4, 64, 3, generator=generator) for _ in range(3))
    action, log_prob = gaussian.tanh_sample(mean, log_std, noise)
    reference: Any = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])
    squashed = reference.transforms[0](mean + log_std.exp() * noise)
    torch.testing.assert_close(action, squashed)
    torch.testing.assert_close(log_prob, reference.log_prob(squashed).sum(-1), rtol=1e-5, atol=2e-5)


def test_density_integrates_to_one() -> None:
    mean, log_std = torch.tensor(0.4, dtype=torch.float64), torch.tensor(-0.3, dtype=torch.float64)
    u = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    noise = (u - mean) / log_std.exp()
    action, log_prob = gaussian.tanh_sample(mean.expand_as(u)[:, None], log_std.expand_as(u)[:, None], noise[:, None])
    torch.testing.assert_close(torch.trapezoid(log_prob.exp(), action[:, 0]), torch.ones((), dtype=torch.float64))


def test_stays_finite_where_tanh_saturates() -> None:
    mean = torch.tensor([[-60.0, 60.0, 0.0]], requires_grad=True)
    action, log_prob = gaussian.tanh_sample(mean, torch.zeros(1, 3), torch.tensor([[-3.0, 3.0, 0.0]]))
    (gradient,) = torch.autograd.grad(log_prob.sum(), mean)
    assert bool(log_prob.isfinite().all()) and bool(gradient.isfinite().all())
    assert action[0, :2].tolist() == [-1.0, 1.0]
    torch.testing.assert_close(gradient, torch.tensor([[-2.0, 2.0, 0.0]]))  # d/du of -log(1 - tanh(u)^2) = 2 tanh(u)
