"""C51's projection and loss against the paper's loops, and what must hold of them."""

import math

import pytest
import torch
from torch import Tensor

from worker.rl.functional import categorical_values

SUPPORTS = [(-10.0, 10.0, 51), (0.0, 100.0, 101), (-1000.0, 0.0, 31), (-0.7, 1.3, 7), (0.1, 0.9, 2)]


def slow(reward: float, discount: float, probs: list[float], low: float, high: float) -> list[float]:
    """Algorithm 1 of the paper, with the mass of an atom that hits another kept."""
    n = len(probs)
    spacing = (high - low) / (n - 1)
    out = [0.0] * n
    for j, p in enumerate(probs):
        moved = min(max(reward + discount * (low + j * spacing), low), high)
        b = min(max((moved - low) / spacing, 0.0), n - 1)
        lower, upper = math.floor(b), math.ceil(b)
        if lower == upper:
            out[lower] += p
        else:
            out[lower] += p * (upper - b)
            out[upper] += p * (b - lower)
    return out


def triangular(reward: Tensor, discount: Tensor, probs: Tensor, support: Tensor) -> Tensor:
    """The same projection as one kernel: ``sum_j p_j clip(1 - |clip(Tz_j) - z_i| / dz, 0, 1)``."""
    spacing = support[1] - support[0]
    moved = (reward[..., None] + discount[..., None] * support).clamp(support[0], support[-1])
    kernel = (1 - (moved[..., None, :] - support[:, None]).abs() / spacing).clamp(0, 1)
    return (kernel @ probs[..., None]).squeeze(-1)


def case(low: float, high: float, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards that leave the range at both ends, a terminal step, and integer positions."""
    g = torch.Generator().manual_seed(n)
    reward = (high - low) * torch.randn(2, 9, generator=g, dtype=torch.float64)
    discount = torch.full((2, 9), 0.9, dtype=torch.float64)
    discount[0, 0], discount[1, 1:3] = 0.0, 1.0
    reward[1, 1], reward[1, 2] = 0.0, (high - low) / (n - 1)
    probs = torch.randn(2, 9, n, generator=g, dtype=torch.float64).softmax(-1)
    return reward, discount, probs, torch.linspace(low, high, n, dtype=torch.float64)


@pytest.mark.parametrize(("low", "high", "n"), SUPPORTS)
def test_projection_equals_the_slow_reference_and_the_kernel(low: float, high: float, n: int) -> None:
    reward, discount, probs, support = case(low, high, n)
    result = categorical_values.target(reward, discount, probs, support)
    torch.testing.assert_close(result, triangular(reward, discount, probs, support))
    for r in range(2):
        for b in range(9):
            expected = slow(float(reward[r, b]), float(discount[r, b]), probs[r, b].tolist(), low, high)
            torch.testing.assert_close(result[r, b], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("low", "high", "n"), SUPPORTS)
def test_no_mass_is_lost(low: float, high: float, n: int) -> None:
    reward, discount, probs, support = (x.float() for x in case(low, high, n))
    mass = categorical_values.target(reward, discount, probs, support).sum(-1)
    torch.testing.assert_close(mass, torch.ones(2, 9), rtol=0, atol=1e-6)


def test_no_mass_is_lost_at_the_edges_of_any_support() -> None:
    """Rounding may place an atom beyond the last one."""
    g = torch.Generator().manual_seed(0)
    for n in range(2, 120):
        low, width = (100 * torch.rand(2, generator=g)).tolist()
        support = torch.linspace(low - 50, low - 49 + width, n)
        for reward in (1e4, -1e4):
            zeros = torch.zeros(1)
            edge = categorical_values.target(zeros + reward, zeros, torch.full((1, n), 1 / n), support)
            assert float(edge[0, -1 if reward > 0 else 0]) == pytest.approx(1, abs=1e-5)
        same = categorical_values.target(zeros, zeros + 1, torch.full((1, n), 1 / n), support)
        torch.testing.assert_close(same, torch.full((1, n), 1 / n), rtol=0, atol=1e-4)


def test_the_mean_is_the_bellman_targets_within_the_range() -> None:
    g = torch.Generator().manual_seed(1)
    support = torch.linspace(-10, 10, 51, dtype=torch.float64)
    logits = torch.randn(3, 8, 51, generator=g, dtype=torch.float64)
    reward = torch.randn(3, 8, generator=g, dtype=torch.float64).clamp(-0.5, 0.5)
    discount = torch.full_like(reward, 0.9)
    projected = categorical_values.target(reward, discount, logits.softmax(-1), support)
    torch.testing.assert_close(projected @ support, reward + 0.9 * categorical_values.mean(logits, support))


def test_a_terminal_reward_is_split_between_its_neighbours() -> None:
    support = torch.linspace(-10, 10, 41)
    probs = torch.full((1, 41), 1 / 41)
    result = categorical_values.target(torch.tensor([2.6]), torch.zeros(1), probs, support)
    expected = torch.zeros(1, 41)
    expected[0, 25], expected[0, 26] = 0.8, 0.2
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_without_reward_and_discount_nothing_moves() -> None:
    support = torch.linspace(-10, 10, 41, dtype=torch.float64)
    probs = torch.randn(4, 41, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(-1)
    zeros = torch.zeros(4, dtype=torch.float64)
    torch.testing.assert_close(categorical_values.target(zeros, zeros + 1, probs, support), probs)


def test_a_reward_that_is_no_number_spoils_its_own_target_alone() -> None:
    support, probs = torch.linspace(-1, 1, 3), torch.full((2, 3), 1 / 3)
    result = categorical_values.target(torch.tensor([math.nan, 0.0]), torch.ones(2), probs, support)
    assert bool(result[0].isnan().any())
    torch.testing.assert_close(result[1], probs[1])


def test_cross_entropy_is_the_formulas_and_least_where_the_prediction_is_right() -> None:
    g = torch.Generator().manual_seed(0)
    logits = 50 * torch.randn(6, 11, generator=g)
    probs = torch.randn(6, 11, generator=g).softmax(-1)
    exact = logits.double() - logits.double().logsumexp(-1, keepdim=True)
    expected = -(probs.double() * exact).sum(-1)
    torch.testing.assert_close(categorical_values.cross_entropy(logits, probs).double(), expected, rtol=1e-5, atol=1e-4)
    least = categorical_values.cross_entropy(probs.log(), probs)
    torch.testing.assert_close(least, categorical_values.entropy(probs))
    certain = torch.eye(3)
    torch.testing.assert_close(categorical_values.entropy(certain), torch.zeros(3))
