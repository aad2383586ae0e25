"""Liveness, readiness, workers."""

import asyncio
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

import app.main
from app.db.engine import Database
from app.db.ids import new_id
from app.db.migrate import SchemaTooNew
from app.db.models import Worker
from app.db.repositories import workers
from app.db.repositories.workers import WorkerInfo
from app.middleware import Message
from app.settings import Settings
from tests.api.asgi import serve
from tests.api.conftest import ON_BOTH, Bells
from tests.api.helpers import assert_problem


def test_liveness(client: httpx.Client) -> None:
    assert client.get("/healthz").json()["status"] == "ok"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/runs?limit=1", "/v1/environments/ALE/Pong-v5"])
def test_head_is_answered_like_get(client: httpx.Client, path: str) -> None:
    head, whole = client.head(path), client.get(path)
    assert (head.status_code, head.headers["content-type"]) == (200, whole.headers["content-type"])
    assert client.head("/v1/runs/run_x").status_code == 404
    assert client.head("/v1/runs/run_x/stream").status_code == 405


class TestReadiness:
    @ON_BOTH
    def test_ready(self, client: httpx.Client) -> None:
        answer = client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json() == {"status": "ready", "database": "ok", "migrations": "ok", "broker": "none"}

    @pytest.mark.parametrize(("broken", "status"), [(False, 200), (True, 503)])
    def test_of_the_broker(self, sqlite_url: str, tmp_path: Path, bells: Bells, broken: bool, status: int) -> None:
        bells.broken = broken
        settings = Settings(database_url=sqlite_url, data_dir=tmp_path, broker_url="redis://127.0.0.1:1")
        with serve(app.main.create_app(settings)) as client:
            answer = client.get("/readyz")
            assert answer.status_code == status
            assert "broker" in answer.text

    def test_not_migrated(self, tmp_path: Path, bells: Bells) -> None:
        settings = Settings(data_dir=tmp_path, sweep_seconds=10)
        with serve(app.main.create_app(settings)) as client:
            problem = assert_problem(client.get("/readyz"), 503)
            assert problem["errors"][0]["pointer"] == "/migrations"
            assert client.get("/healthz").status_code == 200
            assert_problem(client.get("/v1/runs"), 503)

    def test_a_newer_schema_ends_the_start(self, sqlite_url: str, tmp_path: Path) -> None:
        database = Database(sqlite_url)
        with database.writing() as session:
            session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        database.dispose()
        application = app.main.create_app(Settings(database_url=sqlite_url, data_dir=tmp_path))
        command = [{"type": "lifespan.startup"}]
        said: list[Message] = []

        async def receive() -> Message:
            return command.pop()  # type: ignore[return-value]

        async def send(message: Message) -> None:
            said.append(message)

        with pytest.raises(SchemaTooNew, match="9999"):
            asyncio.run(application({"type": "lifespan", "state": {}}, receive, send))  # type: ignore[arg-type]
        assert said[0]["type"] == "lifespan.startup.failed"

    def test_without_a_database(self, tmp_path: Path, bells: Bells) -> None:
        url = f"postgresql+psycopg://nobody@/nothing?host={tmp_path}"
        with serve(app.main.create_app(Settings(database_url=url, data_dir=tmp_path, sweep_seconds=10))) as client:
            problem = assert_problem(client.get("/readyz"), 503)
            assert problem["errors"][0]["pointer"] == "/database"
            answer = client.get("/v1/experiments")
            assert_problem(answer, 503)
            assert str(tmp_path) not in answer.text


@ON_BOTH
def test_workers(client: httpx.Client, database: Database) -> None:
    ids = [new_id("wrk") for _ in range(3)]
    with database.writing() as session:
        for worker_id in ids:
            workers.register(session, WorkerInfo(worker_id, "host", ("default", "gpu"), ("cpu", "cuda:0")))
        workers.heartbeat(session, ids[0], 1)
        workers.stop(session, ids[1])
        lost = session.get(Worker, ids[2])
        assert lost is not None
        lost.heartbeat_at, lost.busy = 1e9, 1
    page = client.get("/v1/workers").json()
    assert [row["id"] for row in page["data"]] == ids[::-1]
    assert [row["status"] for row in page["data"]] == ["lost", "stopped", "live"]
    assert [row["busy"] for row in page["data"]] == [0, 0, 1]
    live = page["data"][2]
    assert (live["busy"], live["queues"], live["devices"]) == (1, ["default", "gpu"], ["cpu", "cuda:0"])
    assert [row["id"] for row in client.get(f"/v1/workers?limit=1&after={ids[1]}").json()["data"]] == ids[:1]
