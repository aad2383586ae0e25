"""The states of runs and jobs, and the one table of the transitions a run may make."""

from typing import Final

ACTIVE: Final = frozenset({"queued", "starting", "running", "pausing", "cancelling"})
"""States in which a run still belongs to a job that has to be executed."""
HELD: Final = frozenset({"starting", "running", "pausing", "cancelling"})
"""States in which a trainer may hold the run."""
TERMINAL: Final = frozenset({"succeeded", "failed", "cancelled"})

TRANSITIONS: Final[dict[str, frozenset[str]]] = {
    "queued": frozenset({"starting", "paused", "cancelled", "failed"}),
    "starting": frozenset({"running", "queued", "pausing", "cancelling", "paused", "cancelled", "failed"}),
    "running": frozenset({"queued", "pausing", "cancelling", "paused", "cancelled", "succeeded", "failed"}),
    "pausing": frozenset({"paused", "cancelling", "cancelled", "succeeded", "failed"}),
    "paused": frozenset({"queued", "cancelled"}),
    "cancelling": frozenset({"cancelled", "succeeded", "failed"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}


def sources(target: str) -> frozenset[str]:
    """The states from which ``target`` may be reached."""
    return frozenset(state for state, targets in TRANSITIONS.items() if target in targets)
