import pytest
import torch

from worker.rl.noise import BLOCK, Noise, derive_seed

KINDS = ("uniform", "normal", "gumbel")


@pytest.mark.parametrize("kind", KINDS)
def test_splitting_a_draw_changes_nothing(kind: str) -> None:
    whole = getattr(Noise([3, 4]), kind)("x", 3 * BLOCK + 100)
    split = Noise([3, 4])
    sizes = (1, 7, BLOCK - 8, BLOCK, 2, BLOCK + 98)
    assert sum(sizes) == 3 * BLOCK + 100
    assert torch.equal(whole, torch.cat([getattr(split, kind)("x", n) for n in sizes], 1))


def test_a_replica_does_not_depend_on_its_pack() -> None:
    pack, alone = Noise([3, 4, 5]), Noise([4])
    assert torch.equal(pack.normal("x", 2, 9)[1], alone.normal("x", 2, 9)[0])
    assert torch.equal(pack.integers("i", 10, 50)[1], alone.integers("i", 10, 50)[0])
    assert torch.equal(pack.permutation("p", 64)[1], alone.permutation("p", 64)[0])


def test_streams_seeds_kinds_and_purposes_differ() -> None:
    noise = Noise([3, 4])
    draws = [*noise.normal("x", 100), *noise.normal("y", 100), *Noise([3, 4], purpose="other").normal("x", 100)]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(draws)


def test_a_position_is_all_there_is_to_save() -> None:
    noise = Noise([3, 4])
    noise.uniform("x", BLOCK + 5)
    noise.permutation("p", 8)
    state = noise.state()
    expected = noise.uniform("x", 20), noise.permutation("p", 8), noise.normal("new", 3)
    other = Noise([3, 4])
    other.load(state)
    other.select([1])
    actual = other.uniform("x", 20), other.permutation("p", 8), other.normal("new", 3)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b[1:])


def test_distributions() -> None:
    noise, n = Noise([1]), 100_000
    uniform, normal, gumbel = noise.uniform("u", n), noise.normal("n", n), noise.gumbel("g", n)
    assert float(uniform.min()) >= 0 and float(uniform.max()) < 1
    for values, mean, std in ((uniform, 0.5, 12**-0.5), (normal, 0.0, 1.0), (gumbel, 0.57722, 1.28255)):
        assert abs(float(values.mean()) - mean) < 0.02 and abs(float(values.std()) - std) < 0.02
    integers = noise.integers("i", 7, n)
    assert torch.bincount(integers[0]).min() > 0.97 * n / 7 and int(integers.max()) == 6
    assert torch.equal(noise.permutation("p", 100).sort().values, torch.arange(100).unsqueeze(0))


def test_what_was_drawn_stays_when_the_block_is_refilled() -> None:
    noise = Noise([1])
    first = noise.normal("x", BLOCK)
    copy = first.clone()
    noise.normal("x", BLOCK)
    assert torch.equal(first, copy)


def test_derived_seeds_fit_a_generator_and_differ_by_label() -> None:
    seeds = {derive_seed(seed, "env", label, i) for seed in range(20) for label in ("a", "b") for i in range(20)}
    assert len(seeds) == 800
    assert all(0 <= seed < 2**63 for seed in seeds)
