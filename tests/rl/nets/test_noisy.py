"""Noisy layers against the paper's formula, and what is left of them without noise."""

import math

import torch

from worker.rl.nets.layers import Init, fan_in_linear
from worker.rl.nets.noisy import NoisyLinear, NoisyMLP, factors
from worker.rl.nets.torsos import fan_in_mlp

SEEDS = [5, 6, 7]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_factors_have_the_moments_of_the_paper() -> None:
    f = factors(normal(2, 500_000).double())
    assert abs(float(f.mean())) < 5e-3
    assert math.isclose(float(f.var()), math.sqrt(2 / math.pi), rel_tol=5e-3)
    product = f[0] * f[1]
    assert abs(float(product.mean())) < 5e-3 and math.isclose(float(product.var()), 2 / math.pi, rel_tol=2e-2)


@torch.no_grad()
def test_noise_is_each_replicas_own_and_factorised() -> None:
    layer, x, noise = NoisyLinear(Init(SEEDS, "x"), 4, 3, 0.5, 2), normal(3, 9, 4), normal(3, 12)
    result = layer(x, noise)
    for r in range(3):
        inputs, outputs = noise[r, 2:6].tolist(), noise[r, 6:9].tolist()
        for b in range(9):
            for j in range(3):
                y = float(layer.bias[r, 0, j] + layer.bias_std[r, 0, j] * outputs[j])
                for i in range(4):
                    weight = layer.weight[r, i, j] + layer.weight_std[r, i, j] * inputs[i] * outputs[j]
                    y += float(weight * x[r, b, i])
                assert math.isclose(float(result[r, b, j]), y, rel_tol=1e-4, abs_tol=1e-5)


def test_starts_as_a_linear_layer_with_noise_by_its_inputs() -> None:
    layer, plain = NoisyLinear(Init(SEEDS, "x"), 4, 3, 0.5, 0), fan_in_linear(Init(SEEDS, "x"), 1, 4, 3)
    assert torch.equal(layer.weight, plain.weight) and torch.equal(layer.bias, plain.bias)
    assert layer.weight_std.unique().tolist() == layer.bias_std.unique().tolist() == [0.25]


def test_without_noise_or_with_none_learned_it_is_the_linear_network() -> None:
    sizes, x = (4, 8, 8, 2), normal(3, 9, 4)
    plain = fan_in_mlp(Init(SEEDS, "x"), 1, sizes, "relu")(x)
    network = NoisyMLP(Init(SEEDS, "x"), sizes, "relu", 0.5, 0)
    torch.testing.assert_close(network(x), plain)
    noise = normal(3, network.end)
    assert not torch.allclose(network(x, noise), plain)
    silent = NoisyMLP(Init(SEEDS, "x"), sizes, "relu", 0.0, 0)
    torch.testing.assert_close(silent(x, noise), plain)


def test_layers_share_no_numbers_of_the_noise() -> None:
    network = NoisyMLP(Init(SEEDS, "x"), (4, 8, 2), "relu", 0.5, 3)
    taken = [k for layer in network.layers for part in (layer.inputs, layer.outputs) for k in range(99)[part]]
    assert taken == list(range(3, network.end)) and len(taken) == (4 + 8) + (8 + 2)


def test_one_replica_is_exported_by_its_means() -> None:
    layer, x = NoisyLinear(Init(SEEDS, "x"), 4, 3, 0.5, 0), normal(3, 9, 4)
    exported = layer.one(1)
    torch.testing.assert_close(exported(x[1]), layer(x)[1])
    assert {name for name, _ in exported.named_parameters()} == {"weight", "bias"}
