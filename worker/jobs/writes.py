"""What a trainer stores besides points: files first, then the fenced row."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from sqlalchemy.orm import Session

from app.db.repositories import runs, training
from app.db.repositories.training import StateFolder
from worker.jobs import artifacts
from worker.jobs.writer import Write
from worker.rl.checkpoint import save_state
from worker.rl.reporter import CheckpointKind, Outcome, PolicyFiles, State

RUN_IDS = "run_ids"
"""Key in a stored state's meta: the run behind each replica."""


class Fence(TypedDict):
    """The attempt every write carries."""

    job_id: str
    attempt: int


class Folders:
    """The folders of one attempt under the artifact root."""

    def __init__(self, root: Path, fence: Fence, resumed_from: Path | None) -> None:
        self.root = root
        self._fence = fence
        self._previous = resumed_from
        self._superseded: tuple[str, ...] = ()

    def policy(self, run_id: str, env_step: int) -> str:
        """Where a checkpoint lies."""
        return f"runs/{run_id}/a{self._fence['attempt']}/{env_step}"

    def save(self, state: State, run_ids: Sequence[str], prefix: str = "") -> StateFolder:
        """Store a resume state durably; what has not changed since the one before is linked."""
        path = f"jobs/{self._fence['job_id']}/a{self._fence['attempt']}/{prefix}{state.env_step}"
        save_state(State(state.tensors, state.meta | {RUN_IDS: list(run_ids)}), self.root / path, self._previous)
        self._previous = self.root / path
        return StateFolder(path, state.env_step, tuple(run_ids))

    def retire(self, obsolete: Sequence[str]) -> None:
        """Remove what no row names any more. Of states the newest stays for one more turn: see ``states.load``."""
        states = tuple(path for path in obsolete if path.startswith("jobs/"))
        artifacts.remove(self.root, (path for path in obsolete if path not in states))
        if states:
            artifacts.remove(self.root, self._superseded)
            self._superseded = states

    def clear(self) -> None:
        """Remove what was kept for one more turn: the job is done."""
        artifacts.remove(self.root, self._superseded)


@dataclass
class Begin(Write):
    """The state is loaded, training begins."""

    begins: ClassVar[bool] = True
    urgent: ClassVar[bool] = True

    fence: Fence
    env_step: int
    device: str
    facts: Mapping[str, Any]
    earlier: StateFolder | None = None
    """The state that was loaded, where the job points at a later one."""
    damage: str = ""
    """Why that one could not be used."""

    def apply(self, session: Session) -> tuple[str, ...]:
        return training.begin(
            session,
            **self.fence,
            env_steps=self.env_step,
            device=self.device,
            facts=self.facts,
            earlier=self.earlier,
            damage=self.damage,
        )


@dataclass
class Evaluation(Write):
    """One evaluation of each run: (run id, returns, lengths)."""

    fence: Fence
    env_step: int
    rows: Sequence[tuple[str, list[float], list[int]]]

    def apply(self, session: Session) -> tuple[str, ...]:
        for run_id, returns, lengths in self.rows:
            training.add_evaluation(
                session, **self.fence, run_id=run_id, env_steps=self.env_step, returns=returns, lengths=lengths
            )
        return ()


@dataclass
class Checkpoint(Write):
    """A run's exported policy."""

    fence: Fence
    folders: Folders
    run_id: str
    env_step: int
    kind: CheckpointKind
    files: PolicyFiles
    return_mean: float | None
    keep: int
    manifest: list[dict[str, Any]] = field(default_factory=list)

    def prepare(self) -> None:
        path = self.folders.policy(self.run_id, self.env_step)
        self.manifest = artifacts.write_folder(self.folders.root, path, self.files)
        self.files = {}

    def apply(self, session: Session) -> tuple[str, ...]:
        return training.add_checkpoint(
            session,
            **self.fence,
            run_id=self.run_id,
            env_steps=self.env_step,
            kind=self.kind,
            return_mean=self.return_mean,
            path=self.folders.policy(self.run_id, self.env_step),
            files=self.manifest,
            keep=self.keep,
        ).obsolete


@dataclass
class Publish(Write):
    """The job's resume state. ``saved`` is set once it is on disk and out of memory; training may wait for that."""

    urgent: ClassVar[bool] = True
    newest_only: ClassVar[bool] = True

    fence: Fence
    folders: Folders
    run_ids: tuple[str, ...]
    state: State | None
    saved: threading.Event
    folder: StateFolder | None = None

    def prepare(self) -> None:
        assert self.state is not None
        self.folder, self.state = self.folders.save(self.state, self.run_ids), None
        self.saved.set()

    def discard(self, later: Write) -> None:
        assert isinstance(later, Publish) and self.folder is not None and later.folder is not None
        if later.folder.path != self.folder.path:
            artifacts.remove(self.folders.root, [self.folder.path])

    def apply(self, session: Session) -> tuple[str, ...]:
        assert self.folder is not None
        stored = training.publish(
            session, **self.fence, env_steps=self.folder.env_steps, path=self.folder.path, run_ids=self.folder.run_ids
        )
        return stored.obsolete


@dataclass
class Finish(Write):
    """A run's end, other than by a pause."""

    urgent: ClassVar[bool] = True

    fence: Fence
    run_id: str
    outcome: Outcome
    final_return: float | None
    reason: runs.Reason | None
    keep: int

    def apply(self, session: Session) -> tuple[str, ...]:
        return training.finish(
            session,
            **self.fence,
            run_id=self.run_id,
            outcome=self.outcome,
            final_return=self.final_return,
            reason=self.reason,
            keep=self.keep,
        )


@dataclass
class Pause(Write):
    """Runs paused at one point, and the one state they can go on from."""

    urgent: ClassVar[bool] = True

    fence: Fence
    folders: Folders
    run_ids: tuple[str, ...]
    state: State | None
    folder: StateFolder | None = None

    def prepare(self) -> None:
        assert self.state is not None
        self.folder, self.state = self.folders.save(self.state, self.run_ids, "paused-"), None

    def apply(self, session: Session) -> tuple[str, ...]:
        obsolete: tuple[str, ...] = ()
        for run_id in self.run_ids:
            obsolete += training.finish(
                session, **self.fence, run_id=run_id, outcome="paused", resume_state=self.folder
            )
        return obsolete
