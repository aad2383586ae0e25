"""How many runs of an experiment train together in one job, and with how many threads."""

from app.schemas.experiment import ExperimentSpec

MAX_AUTO_PACK = 8


def pack_size(spec: ExperimentSpec) -> int:
    """Runs per job of a resolved spec."""
    if not spec.algorithm.packs:
        return 1
    if spec.resources.pack != "auto":
        return spec.resources.pack
    return min(len(spec.seeds), MAX_AUTO_PACK)


def threads(spec: ExperimentSpec, runs: int) -> int:
    """Threads of a job that trains ``runs`` runs of a resolved spec."""
    return spec.resources.threads if spec.resources.threads != "auto" else 1
