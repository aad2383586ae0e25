"""The doorbell: tells workers that a queue may have work. The database is the truth; a lost message costs a sweep."""

import logging
from typing import Any

from celery import Celery
from redis import Redis, RedisError

log = logging.getLogger(__name__)

TASK = "trainyard.work"
SOCKET_TIMEOUT = 2.0
"""Seconds; without it a frozen broker would hold a request for good."""


def broker_settings(broker_url: str) -> dict[str, Any]:
    """Celery configuration that senders and workers share: JSON only, no results, no second attempt by the client."""
    return {
        "broker_url": broker_url,
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_publish_retry": False,
        "task_default_queue": "default",
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
    }


class Doorbell:
    """Sends "queue q may have work" after a commit. Thread-safe; never raises because a broker is away."""

    def __init__(self, broker_url: str | None) -> None:
        self._celery: Celery | None = None
        self._redis: Redis | None = None
        if broker_url is None:
            return
        timeouts = {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": SOCKET_TIMEOUT}
        self._celery = Celery("trainyard", set_as_current=False)
        options = timeouts | {"max_retries": 0}  # of connecting: kombu would sleep six seconds in between
        self._celery.conf.update(broker_settings(broker_url), broker_transport_options=options, broker_pool_limit=8)
        self._redis = Redis.from_url(broker_url.replace("redis+socket://", "unix://", 1), **timeouts, retry=None)

    def ring(self, queue: str) -> bool:
        """Send one message to ``queue``; False, and a line in the log, if the broker did not take it within 2 s."""
        if self._celery is None:
            return False
        try:
            self._celery.send_task(TASK, args=(queue,), queue=queue)
        except Exception as error:  # noqa: BLE001 - the transport raises errors of kombu, redis and the socket layer alike
            log.warning("ringing queue %s failed: %s; the sweeper rings again", queue, error)
            return False
        return True

    def length(self, queue: str) -> int | None:
        """Messages waiting in ``queue``; None while the broker is away."""
        if self._redis is None:
            return None
        try:
            return int(self._redis.llen(queue))
        except (RedisError, OSError):
            return None

    def ping(self) -> bool:
        """Whether the broker answers."""
        if self._redis is None:
            return False
        try:
            return bool(self._redis.ping())
        except (RedisError, OSError):
            return False

    def close(self) -> None:
        """Close every connection."""
        if self._celery is not None:
            self._celery.close()
        if self._redis is not None:
            self._redis.close()
