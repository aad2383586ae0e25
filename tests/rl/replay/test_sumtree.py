"""The tree of sums against the sums themselves."""

import numpy as np
import pytest

from worker.rl.replay.sumtree import FAN_OUT, ROOTS, SumTree


def slow_find(masses: np.ndarray, point: float) -> int:
    """The first leaf up to which more than the point's share of the mass lies."""
    return int((np.cumsum(masses) > point * masses.sum()).argmax())


@pytest.mark.parametrize("slots", [1, 5, FAN_OUT**2, 3 * FAN_OUT**2 + 17, 70 * ROOTS])
def test_finds_whose_share_a_point_lies_in(slots: int) -> None:
    rng = np.random.default_rng(slots)
    tree = SumTree(3, slots)
    masses = rng.integers(0, 4, (3, slots)).astype(np.float64)  # exact sums, and leaves without mass
    masses[:, 0] += 1
    tree.fill(masses)
    points = rng.random((3, 200))
    expected = [[slow_find(row, u) for u in us] for row, us in zip(masses, points, strict=True)]
    np.testing.assert_array_equal(tree.find(points), expected)
    np.testing.assert_array_equal(tree.mass(tree.find(points)), np.take_along_axis(masses, np.array(expected), 1))


def test_the_total_is_the_sum_of_the_leaves_after_many_updates() -> None:
    """1e5 of them, over twelve orders of magnitude, with repetitions: nothing drifts."""
    rng = np.random.default_rng(0)
    tree, leaves = SumTree(2, 5000), np.zeros((2, 5000))
    for _ in range(500):
        index = rng.integers(0, 5000, (2, 200))
        mass = 10 ** rng.uniform(-6, 6, index.shape)
        tree.set(index, mass)
        for replica in range(2):
            for i, m in zip(index[replica], mass[replica], strict=True):
                leaves[replica, i] = m
    np.testing.assert_array_equal(tree.leaves, leaves)
    np.testing.assert_allclose(tree.total, leaves.sum(1), rtol=1e-13)
    rebuilt = SumTree(2, 5000)
    rebuilt.fill(leaves)
    points = rng.random((2, 5000))
    np.testing.assert_array_equal(rebuilt.total, tree.total)
    np.testing.assert_array_equal(rebuilt.find(points), tree.find(points))


def test_many_leaves_at_once_are_set_like_few() -> None:
    rng = np.random.default_rng(0)
    at_once, singly = SumTree(2, 3000), SumTree(2, 3000)
    index, mass = rng.integers(0, 3000, (2, 2500)), rng.random((2, 2500))
    at_once.set(index, mass)
    for i in range(2500):
        singly.set(index[:, i : i + 1], mass[:, i : i + 1])
    np.testing.assert_array_equal(at_once.leaves, singly.leaves)
    np.testing.assert_array_equal(at_once.total, singly.total)


@pytest.mark.parametrize("magnitude", [1e-12, 1.0, 1e12])
def test_no_leaf_without_mass_is_found(magnitude: float) -> None:
    """Points at the very ends, and shares so uneven that rest and end differ by rounding alone."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        tree = SumTree(1, 4000)
        masses = np.where(rng.random((1, 4000)) < 0.02, magnitude * 10 ** rng.uniform(-9, 9, (1, 4000)), 0)
        masses[0, rng.integers(4000)] = magnitude
        tree.fill(masses)
        ends = np.cumsum(masses)[masses[0] > 0] / masses.sum()
        points = np.concatenate([ends, np.nextafter(ends, 0), np.nextafter(ends, 1), [0, 1]]).clip(0, 1)[None]
        assert (tree.mass(tree.find(points)) > 0).all()


def test_replicas_have_trees_of_their_own() -> None:
    rng = np.random.default_rng(0)
    masses, points = rng.random((3, 2000)), rng.random((3, 100))
    packed = SumTree(3, 2000)
    packed.fill(masses)
    packed.set(np.tile(np.arange(7), (3, 1)), masses[:, :7] * 2)
    for replica in range(3):
        alone = SumTree(1, 2000)
        alone.fill(masses[[replica]])
        alone.set(np.arange(7)[None], masses[[replica], :7] * 2)
        np.testing.assert_array_equal(alone.find(points[[replica]])[0], packed.find(points)[replica])
    packed.select([2, 0, 2])
    np.testing.assert_array_equal(packed.leaves[:, 7:], masses[[2, 0, 2], 7:])
    np.testing.assert_array_equal(packed.find(points[[2, 2, 2]])[0], packed.find(points[[2, 2, 2]])[2])
