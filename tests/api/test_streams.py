"""Streams: complete, in order, resumed exactly, and nobody waits for a slow reader."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
import pytest
from sqlalchemy.exc import OperationalError

import app.main
from app.db.engine import Database
from app.db.repositories import logs, runs, training
from app.middleware import ASGIApp, Message
from app.services import news, streams
from app.services.streams import RING
from app.settings import Settings
from tests.api.asgi import lifespan
from tests.api.conftest import ON_BOTH, Bells
from tests.api.helpers import assert_problem, create, scene
from tests.db.scene import Scene, make, points

SECONDS = 30.0


class Event(NamedTuple):
    id: int | None
    type: str
    data: dict[str, Any]


class Reader:
    """An SSE client: reads frames when asked to, and not before."""

    def __init__(self, app: ASGIApp, run_id: str, last_event_id: int | None = None, *, eager: bool = True) -> None:
        headers = [(b"host", b"localhost"), (b"accept", b"text/event-stream")]
        if last_event_id is not None:
            headers.append((b"last-event-id", str(last_event_id).encode()))
        path = f"/v1/runs/{run_id}/stream"
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
        }
        self._text, self._requested = "", False
        self._sent: asyncio.Queue[Message] = asyncio.Queue(0 if eager else 1)
        self._gone = asyncio.Event()
        self.status = 0
        self.comments = 0
        self._task = asyncio.create_task(app(scope, self._receive, self._sent.put))  # type: ignore[arg-type]

    async def _receive(self) -> Message:
        if not self._requested:
            self._requested = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def next(self) -> Event | None:
        """The next event; None at the end of the answer."""
        while True:
            while "\n\n" in self._text:
                frame, _, self._text = self._text.partition("\n\n")
                fields = dict(line.split(": ", 1) for line in frame.split("\n") if not line.startswith(":"))
                if fields:
                    number = int(fields["id"]) if "id" in fields else None
                    return Event(number, fields["event"], json.loads(fields["data"]))
                self.comments += 1
            message = await asyncio.wait_for(self._sent.get(), SECONDS)
            self.status = message.get("status", self.status)
            self._text += message.get("body", b"").decode()
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                return None

    async def until(self, kind: str) -> list[Event]:
        """Events up to and with the first of a type."""
        seen: list[Event] = []
        while not seen or seen[-1].type != kind:
            event = await self.next()
            assert event is not None, [event.type for event in seen]
            seen.append(event)
        return seen

    async def leave(self) -> None:
        self._gone.set()
        await asyncio.wait_for(self._task, SECONDS)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[ASGIApp]:
    service = app.main.create_app(settings)
    async with lifespan(service):
        yield service


def numbers(events: Sequence[Event]) -> list[int]:
    return [event.id for event in events if event.id is not None]


Scenario = Callable[[ASGIApp, Scene], Coroutine[Any, Any, None]]


@pytest.fixture
def play(settings: Settings, bells: Bells, database: Database) -> Callable[[Scenario], None]:
    """Runs a scenario against the service, with a job of two runs."""

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            async with running(settings) as service:
                await scenario(service, make(database, seeds=[0, 1]))

        asyncio.run(main())

    return run


class TestLive:
    @ON_BOTH
    def test_tells_the_whole_story(self, play: Callable[[Scenario], None]) -> None:
        async def scenario(service: ASGIApp, job: Scene) -> None:
            reader = Reader(service, job.run_id)
            assert (await reader.until("status"))[0].data["status"] == "queued"
            attempt = job.begin()
            job.flush(attempt, {"train/episode_return": points(1, 10)})
            seen = await reader.until("metrics")
            assert seen[-1].data["latest"] == {"train/episode_return": {"step": 10, "value": 10.0}}
            assert seen[-1].data["progress"]["env_steps"] == 10
            with job.database.writing() as session:
                logs.append(session, job.job_id, attempt, [("stderr", "hello\nthere")])
            seen += await reader.until("log")
            assert seen[-1].data["text"] == "hello\nthere"
            job.checkpoint(attempt, 10, "best", 1.0)
            job.finish(attempt, "succeeded")
            seen += await reader.until("done")
            assert numbers(seen) == [2, 3, 4, 5]
            assert [event.data["status"] for event in seen if event.type == "status"] == [
                "starting",
                "running",
                "succeeded",
            ]
            assert "checkpoint" in {event.type for event in seen}
            assert seen[-1] == Event(None, "done", {"run_id": job.run_id, "status": "succeeded"})
            assert await reader.next() is None

        play(scenario)

    def test_metrics_come_once_a_second_at_most_and_the_last_is_the_newest(
        self, play: Callable[[Scenario], None]
    ) -> None:
        async def scenario(service: ASGIApp, job: Scene) -> None:
            attempt = job.begin()
            reader = Reader(service, job.run_id)
            for step in range(1, 31):
                await asyncio.to_thread(job.flush, attempt, {"a": points(step, step)})
                await asyncio.sleep(0.05)
            job.flush(attempt, {"a": points(100, 100)})
            job.finish(attempt, "succeeded")
            metrics = [event for event in await reader.until("done") if event.type == "metrics"]
            assert 1 <= len(metrics) < 30
            assert metrics[-1].data["latest"]["a"]["step"] == 100
            assert all(event.id is None for event in metrics)

        play(scenario)

    def test_a_neighbour_is_not_told(self, play: Callable[[Scenario], None]) -> None:
        async def scenario(service: ASGIApp, job: Scene) -> None:
            reader = Reader(service, job.run_ids[1])
            await reader.until("status")
            attempt = job.begin()
            job.finish(attempt, "succeeded", job.run_ids[0])
            job.finish(attempt, "failed", job.run_ids[1])
            assert (await reader.until("done"))[-1].data == {"run_id": job.run_ids[1], "status": "failed"}

        play(scenario)

    def test_heartbeats(self, play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.05)

        async def scenario(service: ASGIApp, job: Scene) -> None:
            reader = Reader(service, job.run_id)
            await reader.until("status")
            await asyncio.sleep(0.5)
            job.request("cancel")
            await reader.until("done")
            assert reader.comments >= 2

        play(scenario)

    def test_a_database_that_is_away_for_a_moment(
        self, play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario(service: ASGIApp, job: Scene) -> None:
            reader = Reader(service, job.run_id)
            await reader.until("status")
            with monkeypatch.context() as patch:
                patch.setattr(news.runs, "versions", _away)
                await asyncio.sleep(0.6)
            job.request("cancel")
            assert (await reader.until("done"))[-1].data["status"] == "cancelled"

        play(scenario)


def _away(*_: object) -> None:
    raise OperationalError("SELECT", {}, Exception("away"))


class TestResume:
    @ON_BOTH
    def test_is_exact_from_every_place(self, client: httpx.Client, database: Database) -> None:
        job = scene(database, create(client))
        attempt = job.begin()
        for step in range(1, 6):
            job.checkpoint(attempt, step, keep=100)
        job.finish(attempt, "succeeded")
        path = f"/v1/runs/{job.run_id}/stream"
        whole = client.get(path)
        assert whole.headers["content-type"].startswith("text/event-stream")
        assert whole.headers["cache-control"] == "no-store"
        ids = [int(line[4:]) for line in whole.text.split("\n") if line.startswith("id: ")]
        assert ids == list(range(1, 10))
        for last in range(12):
            rest = client.get(path, headers={"Last-Event-ID": str(last)}).text
            assert [int(line[4:]) for line in rest.split("\n") if line.startswith("id: ")] == ids[last:]
            assert rest.rstrip().split("\n")[-2] == "event: done"

    def test_of_a_live_run(self, play: Callable[[Scenario], None]) -> None:
        async def scenario(service: ASGIApp, job: Scene) -> None:
            first = Reader(service, job.run_id)
            await first.until("status")
            attempt = job.begin()
            seen = await first.until("status")
            await first.leave()
            job.checkpoint(attempt, 5)
            second = Reader(service, job.run_id, numbers(seen)[-1])
            job.finish(attempt, "succeeded")
            seen += await second.until("done")
            assert numbers(seen) == [2, 3, 4, 5]

        play(scenario)

    @pytest.mark.parametrize("last", ["x", "-1", "1.5", str(2**63), "9" * 5000, ""])
    def test_odd_ids(self, client: httpx.Client, database: Database, last: str) -> None:
        job = scene(database, create(client))
        job.request("cancel")
        assert_problem(client.get(f"/v1/runs/{job.run_id}/stream", headers={"Last-Event-ID": last}), 422)


class TestReaders:
    def test_a_slow_one_blocks_nobody_and_misses_nothing(self, play: Callable[[Scenario], None]) -> None:
        """It falls behind the ring and catches up from the table."""

        async def scenario(service: ASGIApp, job: Scene) -> None:
            slow, quick = Reader(service, job.run_id, eager=False), Reader(service, job.run_id)
            await quick.until("status")
            attempt = job.begin()
            total = 3 * RING
            for _ in range(12):
                await asyncio.to_thread(_events, job, total // 12)
            job.finish(attempt, "succeeded")
            seen = await quick.until("done")
            assert numbers(seen) == list(range(2, total + 5))
            assert numbers(await slow.until("done")) == list(range(1, total + 5))

        play(scenario)

    def test_more_events_at_once_than_the_ring_holds(self, play: Callable[[Scenario], None]) -> None:
        async def scenario(service: ASGIApp, job: Scene) -> None:
            reader = Reader(service, job.run_id)
            await reader.until("status")
            attempt = job.begin()
            with job.database.writing() as session:
                for number in range(2 * RING + 50):
                    runs.append_event(session, job.run_id, "evaluation", {"number": number})
                training.finish(session, job_id=job.job_id, attempt=attempt, run_id=job.run_id, outcome="succeeded")
            assert numbers(await reader.until("done")) == list(range(2, 2 * RING + 55))

        play(scenario)

    def test_many_share_one_reader_of_the_database(
        self, play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []
        versions = news.runs.versions
        monkeypatch.setattr(
            news.runs, "versions", lambda session, ids: (asked.append(len(ids)), versions(session, ids))[1]
        )

        async def scenario(service: ASGIApp, job: Scene) -> None:
            readers = [Reader(service, job.run_id) for _ in range(50)]
            for reader in readers:
                await reader.until("status")
            asked.clear()
            await asyncio.sleep(1.0)
            assert len(asked) <= 6
            assert set(asked) == {1}
            job.request("cancel")
            for reader in readers:
                assert (await reader.until("done"))[-1].data["status"] == "cancelled"

        play(scenario)

    def test_who_waits_reads_the_status_alone_and_a_stream_that_joins_misses_nothing(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[object] = []
        job = make(database)

        def count(*arguments: object) -> logs.Cursor:
            read.append(arguments)
            return end(*arguments)  # type: ignore[arg-type]

        end = news.logs.end
        monkeypatch.setattr(news.logs, "end", count)

        async def main() -> None:
            hub = streams.Hub(database, limit=10)
            waiting = asyncio.create_task(hub.ended([job.run_id], SECONDS))
            await asyncio.sleep(3 * streams.POLL_SECONDS)
            assert not read
            attempt = await asyncio.to_thread(job.begin)
            await asyncio.sleep(3 * streams.POLL_SECONDS)
            frames = hub.stream(job.run_id, 0)
            received = [await anext(frames), await anext(frames)]
            await asyncio.to_thread(job.finish, attempt, "succeeded")
            received += [frame async for frame in frames]
            assert read
            assert await waiting
            numbers = [line for line in b"".join(received).split(b"\n") if line.startswith(b"id:")]
            assert numbers == [b"id: %d" % number for number in range(1, len(job.events()) + 1)]
            hub.close()

        asyncio.run(main())

    def test_nothing_is_read_when_nobody_watches(
        self, play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[object] = []
        versions = news.runs.versions

        async def scenario(service: ASGIApp, job: Scene) -> None:
            reader = Reader(service, job.run_id)
            await reader.until("status")
            await reader.leave()
            await asyncio.sleep(0.5)
            monkeypatch.setattr(news.runs, "versions", lambda *args: (asked.append(args), versions(*args))[1])
            await asyncio.sleep(0.6)
            assert not asked
            await Reader(service, job.run_id).until("status")

        play(scenario)

    def test_too_many_are_refused(self, settings: Settings, bells: Bells, database: Database) -> None:
        limited = settings.model_copy(update={"max_streams": 2})

        async def main() -> None:
            async with running(limited) as service:
                job = make(database)
                kept = [Reader(service, job.run_id) for _ in range(2)]
                for reader in kept:
                    await reader.until("status")
                refused = Reader(service, job.run_id)
                assert await refused.next() is None
                assert refused.status == 429
                await kept[0].leave()
                await asyncio.sleep(0.1)
                await Reader(service, job.run_id).until("status")

        asyncio.run(main())

    def test_end_when_the_service_does(self, settings: Settings, bells: Bells, database: Database) -> None:
        async def main() -> None:
            async with running(settings) as service:
                reader = Reader(service, make(database).run_id)
                await reader.until("status")
            assert await reader.next() is None

        asyncio.run(main())


def _events(job: Scene, count: int) -> None:
    with job.database.writing() as session:
        for number in range(count):
            runs.append_event(session, job.run_id, "evaluation", {"number": number})
