"""The parts of Q-networks: what each adds, alone and with the others."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.rl.toys import box
from worker.rl.algorithms.agent import replica_of
from worker.rl.nets.layers import Init
from worker.rl.nets.q_network import QNetwork, dueling
from worker.rl.nets.torsos import fan_in_mlp

SEEDS = [5, 6, 7]
PARTS: list[dict[str, Any]] = [
    {"dueling": streams, "noisy_std": std, **kind}
    for streams, std, kind in product((False, True), (None, 0.5), ({}, {"atoms": 7}, {"implicit": 6}))
]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def build(seeds: list[int] = SEEDS, hidden: tuple[int, ...] = (16, 8), **parts: Any) -> QNetwork:
    return QNetwork(Init(seeds, "q"), box(4), 5, hidden, "relu", **parts)


@pytest.mark.parametrize("parts", PARTS, ids=str)
@pytest.mark.parametrize("hidden", [(8,), (16, 8)], ids=str)
def test_shapes_and_independence_of_replicas(parts: dict[str, Any], hidden: tuple[int, ...]) -> None:
    network, obs = build(hidden=hidden, **parts), normal(3, 9, 4)
    noise = normal(3, network.noise_size) if network.noise_size else None
    fractions = torch.rand(3, 9, 4, generator=torch.Generator().manual_seed(0)) if "implicit" in parts else None
    values = network(obs, noise, fractions)
    atoms = {"atoms": (7,), "implicit": (4,)}
    assert values.shape == (3, 9, 5, *next((size for key, size in atoms.items() if key in parts), ()))
    alone = build([6], hidden=hidden, **parts)
    middle = [None if x is None else x[1:2] for x in (noise, fractions)]
    torch.testing.assert_close(alone(obs[1:2], *middle), values[1:2])
    torch.testing.assert_close(replica_of(network, 1)(obs[1]), network(obs)[1])
    used = torch.autograd.grad(values.sum(), list(network.parameters()))
    assert len(used) == len(list(network.parameters()))


def test_without_parts_it_is_an_mlp() -> None:
    obs = normal(3, 9, 4)
    torch.testing.assert_close(build()(obs), fan_in_mlp(Init(SEEDS, "q"), 1, (4, 16, 8, 5), "relu")(obs))


@pytest.mark.parametrize("parts", PARTS[-3:], ids=str)
def test_images_take_every_part(parts: dict[str, Any]) -> None:
    network = QNetwork(Init(SEEDS, "q"), box(10, 10, 4, high=1), 5, (), "relu", **parts)
    images = torch.randint(0, 2, (3, 2, 10, 10, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    values = network(images, normal(3, network.noise_size))
    assert values.shape[:3] == (3, 2, 5)
    torch.testing.assert_close(replica_of(network, 1)(images[1]), network(images)[1])


@pytest.mark.parametrize(("axis", "atoms"), [(-1, ()), (-2, (7,))])
def test_dueling_streams_are_told_apart(axis: int, atoms: tuple[int, ...]) -> None:
    value, advantage = normal(2, 3, 1, *atoms), normal(2, 3, 5, *atoms)
    q = dueling(value, advantage, axis)
    torch.testing.assert_close(dueling(value, advantage + 3.0, axis), q)
    torch.testing.assert_close(q.mean(axis, keepdim=True), value)
    torch.testing.assert_close(q - value, advantage - advantage.mean(axis, keepdim=True))


def test_a_quantile_depends_on_its_own_fraction_alone() -> None:
    network, obs = build(implicit=6), normal(3, 9, 4)
    fractions = torch.rand(3, 9, 4, generator=torch.Generator().manual_seed(1))
    values = network(obs, None, fractions)
    changed = fractions.clone()
    changed[:, :, 2] = 0.5
    other = network(obs, None, changed)
    kept = [0, 1, 3]
    torch.testing.assert_close(other[..., kept], values[..., kept])
    assert not torch.allclose(other[..., 2], values[..., 2])


def test_fractions_are_embedded_by_their_cosines() -> None:
    network, features = build(implicit=6, hidden=(16, 8)), normal(3, 9, 16)
    assert network.embedding is not None
    fractions = torch.rand(3, 9, 2, generator=torch.Generator().manual_seed(1))
    embedded = network.embedding(features, fractions).unflatten(1, (9, 2))
    linear = network.embedding.linear
    for r, b, n in ((0, 0, 0), (1, 4, 1), (2, 8, 0)):
        cosines = torch.tensor([math.cos(math.pi * i * float(fractions[r, b, n])) for i in range(64)])
        phi = linear.one(r)(cosines).relu()
        torch.testing.assert_close(embedded[r, b, n], features[r, b] * phi, rtol=1e-4, atol=1e-5)


def test_unasked_it_answers_at_the_midpoints() -> None:
    network, obs = build(implicit=4, dueling=True), normal(3, 9, 4)
    midpoints = torch.tensor([1, 3, 5, 7]) / 8
    torch.testing.assert_close(network(obs), network(obs, None, midpoints.expand(3, 9, 4)))
