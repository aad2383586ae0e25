"""The doorbell against a real broker: healthy, wiped, dead, frozen."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from app.broker import Broker
from app.queue import TASK, Doorbell


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker a test may ill-treat."""
    broker = Broker(tmp_path)
    broker.start()
    broker.wait(20)
    yield broker
    broker.stop()


@pytest.fixture
def doorbell(own_broker: Broker) -> Iterator[Doorbell]:
    doorbell = Doorbell(own_broker.url)
    yield doorbell
    doorbell.close()


def client(broker: Broker) -> Redis:
    return Redis.from_url(broker.url.replace("redis+socket", "unix"))


def test_a_message_names_the_task_and_the_queue(own_broker: Broker, doorbell: Doorbell) -> None:
    assert doorbell.ring("default")
    assert doorbell.length("default") == 1
    with client(own_broker) as redis:
        message = json.loads(redis.lpop("default"))
    assert message["headers"]["task"] == TASK
    assert message["content-type"] == "application/json"


def test_a_wiped_broker_takes_the_next_message(own_broker: Broker, doorbell: Doorbell) -> None:
    assert doorbell.ring("default")
    with client(own_broker) as redis:
        redis.flushall()
    assert doorbell.ring("default")
    assert doorbell.length("default") == 1


def test_a_broker_that_was_restarted_is_found_again(own_broker: Broker, doorbell: Doorbell) -> None:
    assert doorbell.ring("default")
    own_broker.stop()
    assert not doorbell.ring("default")
    assert doorbell.length("default") is None
    assert not doorbell.ping()
    own_broker.start()
    own_broker.wait(20)
    assert doorbell.ring("default")
    assert doorbell.length("default") == 2, "the append-only file kept the first one"


def test_a_frozen_broker_holds_nobody(own_broker: Broker, doorbell: Doorbell) -> None:
    with client(own_broker) as redis:
        pid = redis.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert not doorbell.ring("default")
        assert not doorbell.ping()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert doorbell.ring("default")


def test_without_a_broker_nothing_rings() -> None:
    doorbell = Doorbell(None)
    assert not doorbell.ring("default")
    assert doorbell.length("default") is None
    assert not doorbell.ping()


def test_a_broker_left_behind_is_adopted(tmp_path: Path, own_broker: Broker, doorbell: Doorbell) -> None:
    assert doorbell.ring("default")
    heir = Broker(tmp_path)
    assert heir.url == own_broker.url
    heir.start()
    heir.wait(1)
    assert doorbell.length("default") == 1
    heir.stop()
    assert not own_broker.ping()


def test_the_socket_lies_where_nobody_else_can_enter(own_broker: Broker) -> None:
    socket = Path(own_broker.url.removeprefix("redis+socket://"))
    assert socket.parent.stat().st_mode & 0o077 == 0
    assert len(os.fsencode(socket)) < 104
