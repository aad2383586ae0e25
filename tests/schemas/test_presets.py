"""Presets: when they count, and that all of their numbers do."""

from typing import Any

import pytest

from app.schemas.experiment import ExperimentSpec, resolve
from app.schemas.presets import PRESETS


def resolved(name: str, environment: str, **kwargs: Any) -> ExperimentSpec:
    spec = {"environment": {"id": environment, "kwargs": kwargs}, "algorithm": {"name": name, "preset": "auto"}}
    return resolve(ExperimentSpec.model_validate(spec))


@pytest.mark.parametrize(("name", "environment"), PRESETS)
def test_its_numbers_are_taken(name: str, environment: str) -> None:
    preset = PRESETS[name, environment]
    spec = resolved(name, environment)
    assert spec.algorithm.preset == "auto" and preset["origin"]
    assert spec.environment.num_envs == preset.get("num_envs", spec.algorithm.default_num_envs)
    for field in preset.keys() - {"num_envs", "origin"}:
        assert getattr(spec.algorithm, field) == preset[field], field


@pytest.mark.parametrize(
    ("environment", "kwargs"), [("MountainCar-v0", {}), ("CartPole-v1", {"sutton_barto_reward": True})]
)
def test_where_there_are_none_the_spec_says_so(environment: str, kwargs: dict[str, Any]) -> None:
    spec = resolved("c51", environment, **kwargs)
    assert spec.algorithm.preset is None
    assert (spec.algorithm.v_min, spec.algorithm.v_max) == (-10.0, 10.0)  # type: ignore[union-attr]
