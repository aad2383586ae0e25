"""The quantile Huber loss against the paper's sums, and what minimises it."""

import pytest
import torch

from worker.rl.functional import quantile_values


def slow(predicted: list[float], target: list[float], fractions: list[float], kappa: float) -> float:
    total = 0.0
    for theta, tau in zip(predicted, fractions, strict=True):
        inner = 0.0
        for sample in target:
            u = sample - theta
            huber = 0.5 * u * u if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
            inner += abs(tau - (1.0 if u < 0 else 0.0)) * huber / kappa
        total += inner / len(target)
    return total


@pytest.mark.parametrize("kappa", [1.0, 0.3])
@pytest.mark.parametrize("own_fractions", [False, True])
def test_equals_the_slow_reference(kappa: float, own_fractions: bool) -> None:
    g = torch.Generator().manual_seed(0)
    predicted = torch.randn(2, 5, 7, generator=g, dtype=torch.float64)
    target = torch.randn(2, 5, 4, generator=g, dtype=torch.float64)
    drawn = torch.rand(2, 5, 7, generator=g, dtype=torch.float64)
    fractions = drawn if own_fractions else quantile_values.midpoints(7).double()
    result = quantile_values.quantile_huber(predicted, target, fractions, kappa)
    assert result.shape == (2, 5)
    for r in range(2):
        for b in range(5):
            taus = fractions.expand(2, 5, 7)[r, b].tolist()
            expected = slow(predicted[r, b].tolist(), target[r, b].tolist(), taus, kappa)
            assert float(result[r, b]) == pytest.approx(expected, rel=1e-12)


def test_midpoints() -> None:
    torch.testing.assert_close(quantile_values.midpoints(4), torch.tensor([1, 3, 5, 7]) / 8)


def test_too_low_a_high_quantile_costs_more_than_too_high_a_one() -> None:
    """The sign of u."""
    fraction, target = torch.tensor([0.9]), torch.zeros(1)
    below = quantile_values.quantile_huber(torch.tensor([-1.0]), target, fraction, 1.0)
    above = quantile_values.quantile_huber(torch.tensor([1.0]), target, fraction, 1.0)
    assert float(below) == pytest.approx(0.45) and float(above) == pytest.approx(0.05)


def test_the_minimum_is_the_empirical_quantiles() -> None:
    g = torch.Generator().manual_seed(0)
    samples = torch.randn(501, generator=g, dtype=torch.float64)
    fractions = quantile_values.midpoints(5).double()
    predicted = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([predicted], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = quantile_values.quantile_huber(predicted, samples, fractions, 0.01)
        value.backward()
        return value

    for _ in range(20):
        optimiser.step(loss)
    torch.testing.assert_close(predicted.detach(), samples.quantile(fractions), rtol=0, atol=0.03)
