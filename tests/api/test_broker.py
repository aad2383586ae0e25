"""The service with a real broker: messages after the commit, and life without it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import app.main
from app.broker import Broker
from app.queue import Doorbell
from app.settings import Settings
from tests.api.asgi import serve
from tests.api.helpers import assert_problem, create


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    broker.start()
    broker.wait(10)
    yield broker
    broker.stop()


@pytest.fixture
def client(sqlite_url: str, tmp_path: Path, broker: Broker) -> Iterator[httpx.Client]:
    settings = Settings(
        database_url=sqlite_url, data_dir=tmp_path, broker_url=broker.url, lease_seconds=60, sweep_seconds=60
    )
    with serve(app.main.create_app(settings)) as client:
        yield client


def test_a_message_per_job(client: httpx.Client, broker: Broker) -> None:
    experiment = create(client, seeds=[0, 1, 2], resources={"pack": 2, "queue": "fast"})
    doorbell = Doorbell(broker.url)
    assert doorbell.length("fast") == 2
    path = f"/v1/experiments/{experiment['id']}"
    client.post(f"{path}/pause")
    assert doorbell.length("fast") == 2
    client.post(f"{path}/resume")
    assert doorbell.length("fast") == 4
    doorbell.close()


def test_without_the_broker(client: httpx.Client, broker: Broker) -> None:
    assert client.get("/readyz").json()["broker"] == "ok"
    broker.stop()
    problem = assert_problem(client.get("/readyz"), 503)
    assert problem["errors"] == [{"pointer": "/broker", "message": "unreachable"}]
    create(client, seeds=[0, 1, 2], resources={"pack": 1})
