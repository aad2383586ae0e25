"""What the database says of watched runs beyond what is known of them, as server-sent events. Read in threads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy.orm import Session

from app.db import models
from app.db.engine import Database
from app.db.repositories import logs, metrics, runs
from app.db.states import HELD, TERMINAL
from app.services import views

BATCH = 256
"""Events, and log lines, of a run that are read at once."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is already known of a run."""

    run_id: str
    followed: bool
    """Whether more than its status and the number of its newest event is wanted."""
    event_seq: int | None
    """None: nothing is known yet, and events are not asked for."""
    metrics_version: int
    due: bool
    """Whether metrics and log lines are wanted now. They come in any case with a run's end."""
    log_cursor: logs.Cursor | None
    """None: lines are wanted from now on."""


@dataclass(frozen=True, slots=True)
class News:
    """What the database says beyond that; ``metrics`` is None where there are no new ones."""

    run_id: str
    followed: bool
    """As in the question."""
    status: str
    event_seq: int
    events: Sequence[tuple[int, bytes]]
    metrics_version: int
    metrics: bytes | None
    log_cursor: logs.Cursor | None
    log_lines: Sequence[bytes]


def read(database: Database, questions: Sequence[Question]) -> list[News]:
    """The answers, without runs that are not there."""
    with database.reading() as session:
        versions = runs.versions(session, [question.run_id for question in questions])
        asked = [(question, *versions[question.run_id]) for question in questions if question.run_id in versions]
        moved = [
            question.run_id
            for question, _, metrics_version, status in asked
            if question.followed
            and metrics_version != question.metrics_version
            and (question.due or status in TERMINAL)
        ]
        latest = _encode_metrics(runs.get_all(session, moved), metrics.latest_of(session, moved)) if moved else {}
        return [_answer(session, *row, latest.get(row[0].run_id)) for row in asked]


def events(database: Database, run_id: str, after: int) -> list[tuple[int, bytes]]:
    """The first events of a run after a number: (number, encoded)."""
    with database.reading() as session:
        return _encode_events(runs.events(session, run_id, after, BATCH))


def frame(event: str, data: dict[str, Any], *, number: int | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if number is None else b"id: %d\n" % number
    return head + b"event: %s\ndata: %s\n\n" % (event.encode(), orjson.dumps(data, option=orjson.OPT_UTC_Z))


def _answer(
    session: Session, question: Question, event_seq: int, metrics_version: int, status: str, latest: bytes | None
) -> News:
    run_id, news, lines, cursor = question.run_id, [], [], question.log_cursor
    if question.followed:
        if question.event_seq is not None and event_seq > question.event_seq:
            news = _encode_events(runs.events(session, run_id, question.event_seq, BATCH))
        if cursor is None:
            cursor = logs.end(session, run_id)
        elif news or (question.due and status in HELD):
            rows = logs.page(session, run_id, cursor, BATCH)
            lines = [frame("log", views.log_line(row).model_dump(mode="json")) for row in rows]
            cursor = logs.Cursor(rows[-1].attempt, rows[-1].seq) if rows else cursor
    return News(run_id, question.followed, status, event_seq, news, metrics_version, latest, cursor, lines)


def _encode_events(rows: Sequence[models.Event]) -> list[tuple[int, bytes]]:
    return [
        (row.seq, frame(row.type, row.data | {"created_at": views.utc(row.created_at)}, number=row.seq)) for row in rows
    ]


def _encode_metrics(
    rows: Sequence[models.Run], latest: Mapping[str, Sequence[models.MetricLatest]]
) -> dict[str, bytes]:
    """run id -> ``metrics`` event."""
    news = ((row.id, views.run(row, 0, latest[row.id])) for row in rows)
    return {
        run_id: frame("metrics", view.model_dump(mode="json", include={"progress", "latest"})) for run_id, view in news
    }
