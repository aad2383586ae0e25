"""Targets and losses against loops written like the formulas."""

import pytest
import torch

from worker.rl.functional import td


def huber(x: float, delta: float) -> float:
    return 0.5 * x * x if abs(x) <= delta else delta * (abs(x) - 0.5 * delta)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_target_is_the_reward_where_the_next_state_is_terminal(generator: torch.Generator) -> None:
    reward, value = torch.randn(3, 5, generator=generator), torch.randn(3, 5, generator=generator)
    discount = torch.full((3, 5), 0.9)
    discount[1] = 0.0
    result = td.target(reward, discount, value)
    assert torch.equal(result[1], reward[1])
    torch.testing.assert_close(result[0], reward[0] + 0.9 * value[0])


@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 5)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_losses_equal_the_slow_reference(
    shape: tuple[int, ...], weighted: bool, loss: str, generator: torch.Generator
) -> None:
    error = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    weight = torch.rand(3, 5, generator=generator, dtype=torch.float64) if weighted else None
    target = torch.randn(shape, generator=generator, dtype=torch.float64)
    prediction = target + error
    if loss == "mse":
        result = td.weighted_mse(prediction, target, weight)
    else:
        result = td.weighted_huber(prediction, target, weight, delta=0.7)
    for replica in range(3):
        members = error[replica].reshape(-1, 5).tolist()
        expected = 0.0
        for member in members:
            for i, x in enumerate(member):
                w = float(weight[replica, i]) if weight is not None else 1.0
                expected += w * (0.5 * x * x if loss == "mse" else huber(x, 0.7)) / len(member)
        assert float(result[replica]) == pytest.approx(expected, rel=1e-12)


def test_huber_within_delta_is_half_the_square(generator: torch.Generator) -> None:
    error = torch.rand(2, 9, generator=generator) - 0.5
    torch.testing.assert_close(*(of(error, torch.zeros_like(error)) for of in (td.weighted_huber, td.weighted_mse)))


def test_expected_value_is_the_policys_whatever_it_does_with_ties() -> None:
    q = torch.tensor([[[1.0, 3.0, 3.0, -2.0], [0.0, 0.0, 0.0, 0.0]]])
    for probabilities in ([0.1, 0.7, 0.1, 0.1], [0.1, 0.4, 0.4, 0.1]):
        values = sum(p * x for p, x in zip(probabilities, q[0, 0].tolist(), strict=True))
        torch.testing.assert_close(td.expected_value(q, 0.4), torch.tensor([[values, 0.0]]))
