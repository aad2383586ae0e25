"""The thread through which a trainer writes to the database: in order, in few transactions, fenced."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from sqlalchemy.orm import Session

from app.db.engine import Database
from app.db.repositories import training
from app.db.repositories.metrics import Floats, Ints, Points
from worker.jobs.away import DATABASE_AWAY, NO_SPACE

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
FLUSH_POINTS = 4096
MAX_POINTS = 1_000_000
"""Points that wait while the database is away; training waits, too, once there are more."""
NO_SPACE_SECONDS = 600.0
"""How long training waits for somebody to make room on a full disk."""
MAX_WRITES = 1_000
"""Other writes, with their files, that are not stored yet; training waits, too, once there are more."""


@dataclass(frozen=True, slots=True)
class Row:
    """One call of the driver: values per key for some runs at one step."""

    env_step: int
    time: float
    run_ids: tuple[str, ...]
    values: Mapping[str, Floats]

    @property
    def points(self) -> int:
        return len(self.run_ids) * len(self.values)


class Write(ABC):
    """Something else to store."""

    begins: ClassVar[bool] = False
    """Whether it comes before all points of its transaction."""
    urgent: ClassVar[bool] = False
    """Whether it is not kept waiting for a second."""

    newest_only: ClassVar[bool] = False
    """Whether one that could not be stored in time is given up for a later one of its kind."""

    def prepare(self) -> None:  # noqa: B027 - most have no files
        """Write files: once, before the transaction."""

    def discard(self, later: "Write") -> None:  # noqa: B027
        """Remove files: ``later`` is stored in its place."""

    @abstractmethod
    def apply(self, session: Session) -> tuple[str, ...]:
        """Write rows; may be repeated. Returns the folders that no row names any more after the commit."""


@dataclass(slots=True)
class Batch:
    """What goes into one transaction: what begins it, then all points, then the other writes."""

    rows: list[Row] = field(default_factory=list)
    progress: dict[str, tuple[int, float | None]] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    doubtful: int = 0
    """How many of the writes a commit without an answer may have stored."""

    def __bool__(self) -> bool:
        return bool(self.rows or self.progress or self.writes)

    def extend(self, later: "Batch") -> None:
        """Add what came after."""
        self.rows += later.rows
        self.progress |= later.progress
        self.writes += later.writes

    def give_up(self) -> list[tuple[Write, Write]]:
        """Leave out what a later write makes needless and no commit can have stored. Returns both of each pair."""
        newest = {type(write): write for write in self.writes if write.newest_only}
        pairs = [(write, newest.get(type(write), write)) for write in self.writes[self.doubtful :]]
        self.writes[self.doubtful :] = [write for write, later in pairs if write is later]
        return [(write, later) for write, later in pairs if write is not later]


class Writer(threading.Thread):
    """Collects from the training thread, writes from its own. While the database is away it keeps on trying.

    One transaction takes all that is waiting, so the one that publishes a resume state has every point before it.

    Args:
        retire: called after a commit with the folders that no row names any more.
    """

    def __init__(
        self, database: Database, *, job_id: str, attempt: int, retire: Callable[[tuple[str, ...]], None]
    ) -> None:
        super().__init__(name="writer", daemon=True)
        self._database = database
        self._job_id = job_id
        self._attempt = attempt
        self._retire = retire
        self._waiting = Batch()
        self._points = 0
        self._writes = 0
        self._urgent = False
        self._closing = False
        self._changed = threading.Condition()
        self.error: BaseException | None = None
        """Why it ended early: stale, disk full, a mistake. Training must stop."""

    def add_row(self, row: Row) -> None:
        """Queue points. Waits while too many are waiting already."""
        with self._changed:
            self._await(lambda: self._points < MAX_POINTS)
            before = self._points
            self._waiting.rows.append(row)
            self._points += row.points
            if before < FLUSH_POINTS <= self._points:
                self._changed.notify_all()

    def set_progress(self, progress: Mapping[str, tuple[int, float | None]]) -> None:
        """How far runs are, to go with the next transaction."""
        with self._changed:
            self._waiting.progress.update(progress)

    def add(self, write: Write) -> None:
        """Queue a write. Waits while too many are waiting already."""
        with self._changed:
            self._await(lambda: self._writes < MAX_WRITES)
            self._waiting.writes.append(write)
            self._writes += 1
            if write.urgent:
                self._urgent = True
                self._changed.notify_all()

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Write all that is waiting, however long the database is away, and end.

        Raises:
            StaleAttempt: the job belongs to another attempt by now.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.join()
        self.check()

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - the training thread raises it
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def _await(self, condition: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self.error is not None or condition())
        self.check()

    def _run(self) -> None:
        batch = Batch()
        back_off = 0.1
        while batch or self._wait():
            later = self._take()
            for write in later.writes:
                _prepare(write)
            batch.extend(later)
            given_up = batch.give_up()
            for write, newest in given_up:
                write.discard(newest)
            self._settle(0, len(given_up))
            try:
                obsolete = self._commit(batch)
            except DATABASE_AWAY as error:
                log.warning("the database is away, training goes on: %s", error)
                time.sleep(back_off)
                back_off = min(2.0, 2 * back_off)
                continue
            self._retire(obsolete)
            self._settle(sum(row.points for row in batch.rows), len(batch.writes))
            batch, back_off = Batch(), 0.1

    def _wait(self) -> bool:
        """Wait for something to write; False once there will be nothing more."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._urgent or self._closing or self._points >= FLUSH_POINTS, timeout=FLUSH_SECONDS
            )
            self._urgent = False
            return bool(self._waiting) or not self._closing

    def _take(self) -> Batch:
        with self._changed:
            waiting, self._waiting = self._waiting, Batch()
            return waiting

    def _settle(self, points: int, writes: int) -> None:
        """Let training go on: so much is not waiting any more."""
        with self._changed:
            self._points -= points
            self._writes -= writes
            self._changed.notify_all()

    def _commit(self, batch: Batch) -> tuple[str, ...]:
        obsolete: tuple[str, ...] = ()
        if not batch:
            return obsolete
        with self._database.writing() as session:
            for write in batch.writes:
                obsolete += write.apply(session) if write.begins else ()
            if batch.rows or batch.progress:
                training.append_metrics(
                    session,
                    job_id=self._job_id,
                    attempt=self._attempt,
                    points=by_run(batch.rows),
                    progress=batch.progress,
                )
            for write in batch.writes:
                obsolete += () if write.begins else write.apply(session)
            batch.doubtful = len(batch.writes)
        return obsolete


def _prepare(write: Write) -> None:
    """Write its files; while the disk is full, try again. Training waits at its next state.

    Raises:
        OSError: for another reason, or the disk has stayed full.
    """
    give_up = time.monotonic() + NO_SPACE_SECONDS
    back_off = 0.5
    while True:
        try:
            return write.prepare()
        except OSError as error:
            if error.errno not in NO_SPACE or time.monotonic() > give_up:
                raise
            log.warning("the disk is full, training waits for room: %s", error)
        time.sleep(back_off)
        back_off = min(30.0, 2 * back_off)


def by_run(rows: list[Row]) -> dict[str, dict[str, Points]]:
    """Run id -> key -> points, steps strictly increasing. NaN is no value; of several at one step the last stays."""
    columns: dict[tuple[tuple[str, ...], str], list[Row]] = {}
    for row in rows:
        for key in row.values:
            columns.setdefault((row.run_ids, key), []).append(row)
    pieces: dict[str, dict[str, list[Points]]] = {}
    for (run_ids, key), column in columns.items():
        steps: Ints = np.array([row.env_step for row in column], np.int64)
        times: Floats = np.array([row.time for row in column], np.float64)
        table: Floats = np.stack([row.values[key] for row in column])
        last = np.append(steps[1:] != steps[:-1], True)
        for index, run_id in enumerate(run_ids):
            kept = last & ~np.isnan(table[:, index])
            if kept.any():
                points = (steps[kept], table[kept, index], times[kept])
                pieces.setdefault(run_id, {}).setdefault(key, []).append(points)
    return {run_id: {key: _joined(parts) for key, parts in series.items()} for run_id, series in pieces.items()}


def _joined(parts: list[Points]) -> Points:
    if len(parts) == 1:
        return parts[0]
    steps, values, times = (np.concatenate(column) for column in zip(*parts, strict=True))
    return steps, values, times
