"""Specs take the types of JSON Schema, and no others."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.schemas.experiment import ExperimentSpec


def parsed(path: str, value: Any) -> ExperimentSpec:
    """A spec with one field given."""
    spec: dict[str, Any] = {"environment": {"id": "CartPole-v1"}, "algorithm": {"name": "ppo"}}
    section, _, name = path.rpartition(".")
    (spec.setdefault(section, {}) if section else spec)[name] = value
    return ExperimentSpec.model_validate(spec)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.total_env_steps", "10000"),
        ("training.total_env_steps", 10000.5),
        ("training.total_env_steps", True),
        ("training.evaluate_every", "1"),
        ("environment.num_envs", "8"),
        ("algorithm.learning_rate", "0.001"),
        ("algorithm.learning_rate", True),
        ("algorithm.normalize_advantage", "true"),
        ("algorithm.normalize_advantage", 1),
        ("algorithm.hidden_sizes", [64, "64"]),
        ("algorithm.hidden_sizes", "64"),
        ("resources.pack", "2"),
        ("seeds", ["0"]),
        ("seeds", [False]),
        ("seeds", {"0": 1}),
        ("name", 5),
    ],
)
def test_nothing_is_taken_for_something_else(path: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        parsed(path, value)
    names = path.split(".")
    for row in caught.value.errors():
        assert row["loc"][0] == names[0] and names[-1] in row["loc"]


def test_an_integer_may_have_a_point() -> None:
    assert parsed("training.total_env_steps", 10000.0).training.total_env_steps == 10000
    assert parsed("resources.pack", 2.0).resources.pack == 2
    assert parsed("seeds", [0, 1.0]).seeds == (0, 1)
    assert all(type(seed) is int for seed in parsed("seeds", [0, 1.0]).seeds)


def test_an_integer_is_a_number() -> None:
    rate = parsed("algorithm.gamma", 1).algorithm.gamma
    assert rate == 1.0 and type(rate) is float


def test_a_spec_survives_its_own_json() -> None:
    spec = parsed("algorithm.hidden_sizes", [32, 16])
    assert ExperimentSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert ExperimentSpec.model_validate(spec.model_dump()) == spec
    assert ExperimentSpec.model_validate_json(spec.model_dump_json()) == spec
