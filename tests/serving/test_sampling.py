"""Distribution parameters to actions, and the draws behind them."""

import numpy as np
import pytest

from app.schemas.environments import BoxSpace, DiscreteSpace, MultiDiscreteSpace
from app.serving import sampling
from app.serving.sampling import Decoder, gumbel, keys, normal, uniform
from tests.serving.bundles import manifest

ROWS = 20_000


@pytest.fixture
def many() -> np.ndarray:
    """Keys of as many equal observations as the statistics here need."""
    return keys(3, np.zeros((ROWS, 4), np.float32))


def repeated(*values: float) -> np.ndarray:
    return np.tile(np.array(values, np.float32), (ROWS, 1))


class TestGenerator:
    def test_it_is_splitmix64(self) -> None:
        """The first outputs of the reference implementation for this seed."""
        assert sampling._stream(np.array([1234567], np.uint64), 5)[0].tolist() == [
            6457827717110365317,
            3203168211198807973,
            9817491932198370423,
            4593380528125082431,
            16408922859458223821,
        ]

    def test_uniform_fills_the_open_interval(self, many: np.ndarray) -> None:
        draws = uniform(many, 3)
        assert draws.shape == (ROWS, 3)
        assert 0 < draws.min() < 1e-3 and 1 - 1e-3 < draws.max() < 1
        counts, _ = np.histogram(draws, bins=10, range=(0, 1))
        assert np.abs(counts / draws.size - 0.1).max() < 0.01
        assert np.abs(np.corrcoef(draws, rowvar=False) - np.eye(3)).max() < 0.03

    def test_normal_has_the_moments_of_a_normal(self, many: np.ndarray) -> None:
        draws = normal(many, 2)
        assert np.abs(draws.mean(0)).max() < 0.03
        assert np.abs(draws.std(0) - 1).max() < 0.03
        assert np.abs((draws**4).mean(0) - 3).max() < 0.3

    def test_gumbel_has_the_mean_of_a_gumbel(self, many: np.ndarray) -> None:
        assert gumbel(many, 2).mean() == pytest.approx(np.euler_gamma, abs=0.03)


class TestKeys:
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)

    def test_depend_on_seed_and_observation(self) -> None:
        assert len(set(keys(1, self.rows)) | set(keys(2, self.rows))) == 100

    def test_do_not_depend_on_the_rest_of_the_batch(self) -> None:
        alone = [keys(7, self.rows[i : i + 1])[0] for i in range(50)]
        assert (keys(7, self.rows) == alone).all()

    def test_do_not_depend_on_the_order(self) -> None:
        order = np.random.default_rng(1).permutation(50)
        assert (keys(7, self.rows[order]) == keys(7, self.rows)[order]).all()

    def test_differ_between_equal_observations(self) -> None:
        pairs = np.concatenate([self.rows, self.rows])
        assert len(set(keys(7, pairs))) == 100
        assert (keys(7, pairs)[:50] == keys(7, self.rows)).all()

    def test_take_images(self) -> None:
        images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
        assert len(set(keys(0, images))) == 5


class TestDecoder:
    def test_categorical(self, many: np.ndarray) -> None:
        decoder = Decoder(manifest(action=DiscreteSpace(n=3, start=5)))
        logits = repeated(0.0, 1.0, 0.5)
        assert decoder.outputs == ("logits",)
        assert (decoder.actions([logits], None) == 6).all()
        shares = np.bincount(decoder.actions([logits], many) - 5, minlength=3) / ROWS
        assert np.abs(shares - np.exp(logits[0]) / np.exp(logits[0]).sum()).max() < 0.02

    def test_multi_categorical(self, many: np.ndarray) -> None:
        decoder = Decoder(manifest(action=MultiDiscreteSpace(nvec=(2, 3)), distribution="multi_categorical"))
        logits = repeated(0.0, 1.0, 2.0, 0.0, 1.0)
        assert (decoder.actions([logits], None) == [1, 0]).all()
        sampled = decoder.actions([logits], many)
        assert sampled.shape == (ROWS, 2)
        assert np.mean(sampled[:, 0] == 1) == pytest.approx(1 / (1 + np.exp(-1)), abs=0.02)
        assert np.mean(sampled[:, 1] == 0) == pytest.approx(np.exp(2) / np.exp([2, 0, 1]).sum(), abs=0.02)

    def test_epsilon_greedy(self, many: np.ndarray) -> None:
        decoder = Decoder(manifest(action=DiscreteSpace(n=4), distribution="epsilon_greedy", epsilon=0.2))
        values = repeated(0.0, 3.0, 1.0, 2.0)
        assert decoder.outputs == ("q_values",)
        assert (decoder.actions([values], None) == 1).all()
        shares = np.bincount(decoder.actions([values], many), minlength=4) / ROWS
        assert np.abs(shares - [0.05, 0.85, 0.05, 0.05]).max() < 0.02

    def test_gaussian(self, many: np.ndarray) -> None:
        action = BoxSpace(shape=(2,), low=(None, -1.0), high=(None, 1.0))
        decoder = Decoder(manifest(action=action, distribution="gaussian"))
        outputs = [repeated(3.0, 3.0), repeated(np.log(2.0), 0.0)]
        assert decoder.outputs == ("mean", "log_std")
        assert (decoder.actions(outputs, None) == [3.0, 1.0]).all()
        sampled = decoder.actions(outputs, many)
        assert sampled.dtype == np.float32
        assert sampled[:, 0].mean() == pytest.approx(3.0, abs=0.05)
        assert sampled[:, 0].std() == pytest.approx(2.0, abs=0.05)
        assert sampled[:, 1].max() == 1.0

    def test_tanh_gaussian(self, many: np.ndarray) -> None:
        action = BoxSpace(shape=(1,), low=(-2.0,), high=(6.0,))
        decoder = Decoder(manifest(action=action, distribution="tanh_gaussian"))
        outputs = [repeated(0.5), repeated(-1.0)]
        assert decoder.actions(outputs, None)[0, 0] == pytest.approx(2 + 4 * np.tanh(0.5))
        inner = np.arctanh((decoder.actions(outputs, many) - 2) / 4)
        assert inner.mean() == pytest.approx(0.5, abs=0.02)
        assert inner.std() == pytest.approx(np.exp(-1), abs=0.02)

    def test_actions_have_the_shape_of_the_space(self) -> None:
        action = BoxSpace(shape=(2, 3), low=(-1.0,) * 6, high=(1.0,) * 6)
        zeros = np.zeros((5, 6), np.float32)
        decoder = Decoder(manifest(action=action, distribution="gaussian"))
        assert decoder.actions([zeros, zeros], None).shape == (5, 2, 3)
