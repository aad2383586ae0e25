"""How many runs train together in one process, and on how many threads: rules from measurements.

Narrow networks are bound by call overhead, which a pack pays once: eight runs of 64-wide networks take two to three
times as long as one. Wide ones and images are bound by arithmetic and gain nothing on a CPU.
"""

from app.schemas.environments import catalogue, kind
from app.schemas.experiment import ExperimentSpec

NARROW = 128
"""Widest layer that gains from a pack."""
AUTO_PACK = 8


def pack_size(spec: ExperimentSpec) -> int:
    """Runs per job of a resolved spec, at least 1."""
    if not spec.algorithm.packs:
        return 1
    if spec.resources.pack != "auto":
        return min(spec.resources.pack, len(spec.seeds))
    return min(AUTO_PACK, len(spec.seeds)) if _narrow(spec) else 1


def threads(spec: ExperimentSpec, runs: int) -> int:
    """Threads for a job of so many runs of a resolved spec."""
    if spec.resources.threads != "auto":
        return spec.resources.threads
    return 1 if _narrow(spec) and runs < AUTO_PACK else 2


def _narrow(spec: ExperimentSpec) -> bool:
    image = kind(catalogue()[spec.environment.id].observation_space) == "image"
    return max(spec.algorithm.hidden_sizes) <= NARROW and not image
