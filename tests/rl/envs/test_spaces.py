import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple

from worker.rl.envs.spaces import EnvSpec, describe
from worker.rl.errors import UnsupportedSpace

VECTOR, IMAGE = Box(-1, 1, (3,), np.float32), Box(0, 255, (84, 84, 4), np.uint8)
UNBOUNDED = Box(-np.inf, np.inf, (3,), np.float64)


def test_discrete() -> None:
    spec = EnvSpec.of("E", VECTOR, Discrete(4, start=2))
    assert (spec.action_shape, spec.action_dim, spec.image) == ((), 4, False)


def test_multi_discrete() -> None:
    spec = EnvSpec.of("E", IMAGE, MultiDiscrete([2, 3]))
    assert (spec.action_shape, spec.action_dim, spec.image) == ((2,), 5, True)
    assert len(spec.observation_space.low) == 1


def test_discrete_observations() -> None:
    spec = EnvSpec.of("E", Discrete(5, start=-1), Discrete(2))
    assert (spec.observation_shape, spec.observation_dtype, spec.image) == ((), torch.int64, False)
    assert (spec.observation_space.n, spec.observation_space.start) == (5, -1)


def test_box_bounds() -> None:
    spec = EnvSpec.of("E", UNBOUNDED, Box(np.array([-1, -2], np.float32), np.array([1, 2], np.float32)))
    assert (spec.action_shape, spec.action_dim) == ((2,), 2)
    assert spec.action_low.tolist() == [-1, -2] and spec.action_high.tolist() == [1, 2]
    assert spec.observation_space.low == (None, None, None)


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (Dict({"a": VECTOR}), Discrete(2), "observations are a Dict"),
        (Tuple((VECTOR, VECTOR)), Discrete(2), "observations are a Tuple"),
        (MultiDiscrete([2, 3]), Discrete(2), "observations are a MultiDiscrete"),
        (Text(5), Discrete(2), "observations are a Text"),
        (Box(0, 1, (4, 4), np.float32), Discrete(2), "Box of shape \\(4, 4\\)"),
        (Box(0, 1, (8, 8, 3), np.float32), Discrete(2), "type float32"),
        (VECTOR, MultiBinary(3), "actions are a MultiBinary"),
        (VECTOR, MultiDiscrete([[2, 2], [2, 2]]), "actions are a MultiDiscrete"),
        (VECTOR, MultiDiscrete([2, 2], start=[1, 1]), "from 0"),
        (VECTOR, Box(-1, 1, (2, 2)), "Box of shape \\(2, 2\\)"),
        (VECTOR, UNBOUNDED, "without finite bounds"),
        (VECTOR, Box(np.array([-1, 1], np.float32), np.array([1, 1], np.float32)), "not above the lower one"),
    ],
)
def test_anything_else_is_refused_in_words(observations: Space, actions: Space, message: str) -> None:
    with pytest.raises(UnsupportedSpace, match=message) as refusal:
        EnvSpec.of("Odd-v0", observations, actions)
    assert "Odd-v0" in refusal.value.message


def test_bounds_of_vectors_are_complete() -> None:
    described = describe(Box(0, 1, (100,), np.float32))
    assert described.type == "box" and len(described.low) == 100
