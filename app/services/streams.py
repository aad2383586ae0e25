"""Live news of runs, read once per process however many watch.

One reader asks the database four times a second for the sequence numbers of the *watched* runs and fetches what is new.
Every watched run has a bounded ring of encoded events; whoever streams it follows with a cursor of his own, and one who
has fallen behind the ring reads the events table until he has caught up. So nobody waits for a slow reader, events come
complete and in order, and neither a session nor a thread is held while nothing happens.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

import anyio.to_thread
from sqlalchemy.exc import SQLAlchemyError

from app.db.engine import Database
from app.db.repositories.logs import Cursor
from app.db.states import TERMINAL
from app.errors import TooManyRequests
from app.services import news
from app.services.news import News, Question, frame

POLL_SECONDS = 0.25
METRICS_SECONDS = 1.0
"""Metrics and log lines of a run are fetched this often at most."""
HEARTBEAT_SECONDS = 15.0
RING = news.BATCH
"""Events, and log lines, that a watched run keeps in memory."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Watch:
    """A watched run. Lives in the event loop."""

    run_id: str
    followed: bool
    """Whether its watchers want more than its status."""
    watchers: int = 0
    status: str | None = None
    """None until the first answer."""
    base: int = 0
    """The ring holds every event after this one, up to ``event_seq``."""
    event_seq: int = 0
    newest: int = 0
    """Number of the run's newest event; the ring may still be behind it."""
    events: deque[tuple[int, bytes]] = field(default_factory=lambda: deque(maxlen=RING))
    metrics_version: int = 0
    metrics: bytes = b""
    log_cursor: Cursor | None = None
    log_lines: deque[bytes] = field(default_factory=lambda: deque(maxlen=RING))
    log_count: int = 0
    due_at: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, when anything changes."""

    def question(self, now: float) -> Question:
        return Question(
            self.run_id,
            self.followed,
            event_seq=self.event_seq if self.status is not None else None,
            metrics_version=self.metrics_version,
            due=now >= self.due_at,
            log_cursor=self.log_cursor,
        )

    def take(self, news: News, now: float) -> None:
        if self.status is None:
            self.base = self.event_seq = news.event_seq
        for seq, encoded in news.events:
            if len(self.events) == RING:
                self.base = self.events[0][0]
            self.events.append((seq, encoded))
            self.event_seq = seq
        self.newest = max(news.event_seq, self.event_seq)
        if news.metrics is not None:
            self.metrics, self.metrics_version = news.metrics, news.metrics_version
        self.log_lines.extend(news.log_lines)
        self.log_count += len(news.log_lines)
        self.log_cursor = news.log_cursor
        if now >= self.due_at:
            self.due_at = now + METRICS_SECONDS
        if news.events or news.metrics is not None or news.log_lines or news.status != self.status:
            self.status = news.status
            self.wake()

    def wake(self) -> None:
        """Tell everybody who waits to look again."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class Hub:
    """Follows runs for streams and for requests that wait. Belongs to one event loop."""

    def __init__(self, database: Database, *, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._watches: dict[tuple[str, bool], Watch] = {}
        """By run and whether it is followed."""
        self._holders = 0
        self._closing = False
        self._joined = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "streams")

    def close(self) -> None:
        """End every stream and every wait."""
        self._closing = True
        for watch in self._watches.values():
            watch.wake()
        if self._reader is not None:
            self._reader.cancel()
        self._thread.shutdown(wait=False)

    async def ended(self, run_ids: Sequence[str], seconds: float) -> bool:
        """Wait until all of these runs have reached a terminal state; False when the time was over before.

        Raises:
            TooManyRequests
        """
        with self._watching(run_ids, follow=False) as watches:
            try:
                async with asyncio.timeout(seconds):
                    for watch in watches:
                        while watch.status not in TERMINAL and not self._closing:
                            await watch.changed.wait()
            except TimeoutError:
                return False
        return not self._closing

    async def stream(self, run_id: str, after: int) -> AsyncIterator[bytes]:
        """Server-sent events of a run: those after number ``after``, then live ones, ``done`` last.

        Events ``status``, ``checkpoint`` and ``evaluation`` carry their number as id; ``metrics`` (the newest values,
        once a second at most) and ``log`` (lines written from now on) don't. A first frame, a comment, comes at once.

        Raises:
            TooManyRequests: before the first frame.
        """
        with self._watching([run_id], follow=True) as (watch,):
            cursor, metrics_version, log_count = after, 0, watch.log_count
            yield b": events of " + run_id.encode() + b"\n\n"
            while not self._closing:
                changed = watch.changed
                while cursor < watch.event_seq:
                    cursor, frames = await self._events_after(watch, cursor)
                    if frames:
                        yield frames
                if watch.metrics_version != metrics_version:
                    metrics_version = watch.metrics_version
                    yield watch.metrics
                if watch.log_count != log_count:
                    missed = min(watch.log_count - log_count, len(watch.log_lines))
                    log_count = watch.log_count
                    yield b"".join(list(watch.log_lines)[-missed:])
                if watch.status in TERMINAL and cursor >= watch.newest:
                    yield frame("done", {"run_id": run_id, "status": watch.status})
                    return
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await changed.wait()
                except TimeoutError:
                    yield b": heartbeat\n\n"

    async def _events_after(self, watch: Watch, cursor: int) -> tuple[int, bytes]:
        """Encoded events after ``cursor`` and the number of the last: from the ring, or from the table if behind it."""
        if cursor >= watch.base:
            rows, last = [row for row in watch.events if row[0] > cursor], watch.event_seq
        else:
            last = watch.base
            rows = await anyio.to_thread.run_sync(news.events, self._database, watch.run_id, cursor)
        return (rows[-1][0] if rows else last), b"".join(encoded for _, encoded in rows)

    @contextmanager
    def _watching(self, run_ids: Sequence[str], *, follow: bool) -> Iterator[list[Watch]]:
        if self._holders >= self._limit:
            raise TooManyRequests(f"{self._limit} streams and waits are open already", retry_after=5)
        self._holders += 1
        watches = [self._watches.setdefault((run_id, follow), Watch(run_id, follow)) for run_id in run_ids]
        for watch in watches:
            watch.watchers += 1
        self._joined.set()
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._follow(), name="streams")
        try:
            yield watches
        finally:
            self._holders -= 1
            for watch in watches:
                watch.watchers -= 1
                if not watch.watchers:
                    del self._watches[watch.run_id, follow]

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        while self._watches and not self._closing:
            self._joined.clear()
            now = monotonic()
            questions = [watch.question(now) for watch in self._watches.values()]
            try:
                answers = await loop.run_in_executor(self._thread, news.read, self._database, questions)
            except SQLAlchemyError as error:
                logger.warning("streams: the database is away: %s", error)
                answers = []
            for answer in answers:
                if watch := self._watches.get((answer.run_id, answer.followed)):
                    watch.take(answer, now)
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._joined.wait()
            except TimeoutError:
                continue
