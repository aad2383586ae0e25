"""Output of trainers, line by line; the newest lines of an attempt are kept."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import delete, func, insert, select, tuple_
from sqlalchemy.orm import Session

from app.db.clock import now
from app.db.models import LogLine, RunAttempt

MAX_LINES = 5_000
"""Lines kept per attempt."""
MAX_CHARACTERS = 4_096
"""A line's characters kept."""


class Cursor(NamedTuple):
    """A place in a run's log. Attempts of a run keep growing, also when it goes on under another job."""

    attempt: int = 0
    seq: int = 0


def append(session: Session, job_id: str, attempt: int, lines: Sequence[tuple[str, str]]) -> None:
    """Add lines as (stream, text). Only the attempt's supervisor writes them."""
    own = (LogLine.job_id == job_id, LogLine.attempt == attempt)
    last = session.scalar(select(func.max(LogLine.seq)).where(*own)) or 0
    rows = [
        {
            "job_id": job_id,
            "attempt": attempt,
            "seq": seq,
            "stream": stream,
            "text": text[:MAX_CHARACTERS].replace("\0", "\N{REPLACEMENT CHARACTER}"),
        }
        for seq, (stream, text) in enumerate(lines[-MAX_LINES:], last + 1)
    ]
    if rows:
        session.execute(insert(LogLine).values(created_at=now()), rows)
        session.execute(delete(LogLine).where(*own, LogLine.seq <= last + len(rows) - MAX_LINES))


def page(session: Session, run_id: str, after: Cursor = Cursor(), limit: int = 100) -> list[LogLine]:  # noqa: B008
    """Lines of the attempts that trained a run, oldest first, that come after a cursor."""
    query = (
        select(LogLine)
        .join(RunAttempt, (RunAttempt.job_id == LogLine.job_id) & (RunAttempt.attempt == LogLine.attempt))
        .where(RunAttempt.run_id == run_id, tuple_(LogLine.attempt, LogLine.seq) > tuple_(after.attempt, after.seq))
        .order_by(LogLine.attempt, LogLine.seq)
        .limit(limit)
    )
    return list(session.scalars(query))


def end(session: Session, run_id: str) -> Cursor:
    """The cursor behind the newest line of a run's log."""
    query = (
        select(LogLine.attempt, LogLine.seq)
        .join(RunAttempt, (RunAttempt.job_id == LogLine.job_id) & (RunAttempt.attempt == LogLine.attempt))
        .where(RunAttempt.run_id == run_id)
        .order_by(LogLine.attempt.desc(), LogLine.seq.desc())
        .limit(1)
    )
    row = session.execute(query).first()
    return Cursor(*row) if row else Cursor()
