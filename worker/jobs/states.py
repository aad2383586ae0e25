"""Finding the state a job goes on from."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.db.repositories.training import StateFolder
from worker.jobs.protocol import JobMessage, Resume
from worker.jobs.writes import RUN_IDS
from worker.rl.checkpoint import load_state
from worker.rl.errors import CorruptState, IncompatibleState, TrainingError
from worker.rl.reporter import State

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A verified state, its folder, and which of its replicas a job takes."""

    state: State
    folder: Path
    replicas: tuple[int, ...]
    stored: StateFolder
    damage: str | None = None
    """Why a later state, the one the job points at, could not be used."""


def load(job: JobMessage) -> Loaded | None:
    """The state to go on from; an earlier one if the last cannot be used; None for a job that has none yet.

    The state before the last one stays on disk until the next is written, for this case alone; so does the one before a
    pause, after which runs go on in a job of their own.

    Raises:
        CorruptState, IncompatibleState: as the last one is, and there is no earlier one to go on from. Beginning anew
            would cut all that the runs have by now.
    """
    if job.resume is None:
        return None
    wanted = [run_id for run_id, _ in job.runs]
    root = Path(job.artifacts_dir)
    damage: str | None = None
    kind: type[TrainingError] = CorruptState
    for folder in _candidates(root, job.resume):
        try:
            state = load_state(folder)
            replicas = _replicas(state, wanted)
        except (CorruptState, IncompatibleState) as error:
            log.error("resume state %s cannot be used: %s", folder, error.message)
            if damage is None:
                kind = type(error)
                damage = f"the resume state of env step {job.resume.env_steps} cannot be used: {error.message}"
            continue
        stored = StateFolder(str(folder.relative_to(root)), state.env_step, tuple(state.meta[RUN_IDS]))
        return Loaded(state, folder, replicas, stored, damage)
    raise kind(f"{damage}; there is no earlier one to go on from")


def _candidates(root: Path, resume: Resume) -> Iterator[Path]:
    """The state of a job, then the earlier ones of the job that wrote it, the latest first."""
    newest = root / resume.path
    yield newest
    written = [folder for folder in newest.parent.parent.glob("a*/[0-9]*") if folder != newest]
    earlier = [folder for folder in written if int(folder.name) <= resume.env_steps]
    yield from sorted(earlier, key=lambda folder: int(folder.name), reverse=True)


def _replicas(state: State, wanted: Sequence[str]) -> tuple[int, ...]:
    held: list[str] = state.meta[RUN_IDS]
    if not set(wanted) <= set(held):
        raise CorruptState("it does not hold all runs of the job")
    return tuple(held.index(run_id) for run_id in wanted)
