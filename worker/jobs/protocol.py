"""What supervisor and trainer say to each other: JSON lines on the trainer's standard input, one verdict on its output.

Supervisor to trainer: ``database`` (its URL, at once), ``job`` (:class:`JobMessage`, once), ``tick`` (the supervisor
lives and still has the lease), ``desired`` (every order in force, by run) and ``preempt``. The end of the file means
that the supervisor is gone.
Trainer to supervisor: :data:`READY` once it is warm and, as its last line, a :class:`Verdict`. All else is log.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from app.db.repositories.jobs import Claim

Order = Literal["cancel", "pause", "kill"]
READY = b'{"ready": true}'


class Resume(BaseModel):
    """The resume state to go on from: a folder under the artifact root, and the run behind each of its replicas."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    path: str
    env_steps: int
    run_ids: tuple[str, ...]


class JobMessage(BaseModel):
    """All a trainer needs to know of its job."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    attempt: int
    experiment_id: str
    spec: dict[str, Any]
    spec_hash: str
    runs: tuple[tuple[str, int], ...]
    """(run id, seed), in pack order."""
    resume: Resume | None
    artifacts_dir: str
    lease_seconds: float
    device: str
    """Where the tensors live: ``cpu`` or ``cuda:N``."""
    threads: int

    @classmethod
    def of(cls, claim: Claim, **where: Any) -> Self:
        """The message for a claim; ``where`` are the fields a claim does not have."""
        resume = Resume.model_validate(claim.resume) if claim.resume else None
        return cls(
            job_id=claim.job_id,
            attempt=claim.attempt,
            experiment_id=claim.experiment_id,
            spec=claim.spec,
            spec_hash=claim.spec_hash,
            runs=claim.runs,
            resume=resume,
            **where,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a trainer says it ended. ``done``, ``preempted`` and ``stale`` are no failures."""

    code: str
    message: str = ""
    retryable: bool = True

    def line(self) -> bytes:
        """As the trainer's last line. It begins one of its own, whatever was printed before."""
        return b"\n" + json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> "Verdict | None":
        """The verdict that a line is, or None."""
        if not line.startswith(b'{"code"'):
            return None
        try:
            return cls(**json.loads(line))
        except (ValueError, TypeError):
            return None


DONE = Verdict("done")
PREEMPTED = Verdict("preempted")
STALE = Verdict("stale")
