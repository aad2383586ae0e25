"""Finding the state a job goes on from."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.jobs.protocol import JobMessage, Resume
from worker.jobs.writes import RUN_IDS
from worker.rl.checkpoint import load_state
from worker.rl.errors import CorruptState
from worker.rl.reporter import State

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A verified state, its folder, and which of its replicas a job takes."""

    state: State
    folder: Path
    replicas: tuple[int, ...]


def load(job: JobMessage) -> Loaded | None:
    """The state to go on from; an earlier one if the last is corrupt; None to begin anew.

    The state before the last one stays on disk until the next is written, for this case alone.
    """
    if job.resume is None:
        return None
    wanted = [run_id for run_id, _ in job.runs]
    for folder in _candidates(Path(job.artifacts_dir), job.job_id, job.resume):
        try:
            state = load_state(folder)
            return Loaded(state, folder, _replicas(state, wanted))
        except CorruptState as error:
            log.error("resume state %s cannot be used: %s", folder, error.message)
    log.error("no earlier state is left: training begins anew")
    return None


def _candidates(root: Path, job_id: str, resume: Resume) -> Iterator[Path]:
    yield root / resume.path
    earlier = [folder for folder in (root / "jobs" / job_id).glob("a*/[0-9]*") if int(folder.name) < resume.env_steps]
    yield from sorted(earlier, key=lambda folder: int(folder.name), reverse=True)


def _replicas(state: State, wanted: Sequence[str]) -> tuple[int, ...]:
    held: list[str] = state.meta[RUN_IDS]
    if not set(wanted) <= set(held):
        raise CorruptState("it does not hold all runs of the job")
    return tuple(held.index(run_id) for run_id in wanted)
