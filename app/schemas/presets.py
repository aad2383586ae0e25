"""Tuned numbers per (algorithm, environment). A preset is numbers and nothing else; explicit fields win over it."""

from typing import TYPE_CHECKING, Any

from app.schemas.algorithms import AnyAlgorithm

if TYPE_CHECKING:
    from app.schemas.experiment import EnvironmentSpec

PRESETS: dict[tuple[str, str], dict[str, Any]] = {}
"""``(algorithm name, environment id)`` -> algorithm fields, ``num_envs`` and ``origin`` (where the numbers come from)."""


def apply(algorithm: AnyAlgorithm, environment: "EnvironmentSpec") -> tuple[AnyAlgorithm, "EnvironmentSpec"]:
    """Fill the fields the user left open with the preset's numbers, when the preset is asked for and there is one."""
    preset = PRESETS.get((algorithm.name, environment.id), {}) if algorithm.preset == "auto" else {}
    tuned = {k: v for k, v in preset.items() if k not in ("num_envs", "origin") and k not in algorithm.model_fields_set}
    if environment.num_envs is None and "num_envs" in preset:
        environment = environment.model_copy(update={"num_envs": preset["num_envs"]})
    return type(algorithm).model_validate(algorithm.model_dump() | tuned), environment
