"""The trainer's ear: reads what its supervisor says, and ends the process when the supervisor falls silent."""

import faulthandler
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from worker.jobs.protocol import JobMessage, Order, Verdict


def end_group() -> None:
    """Kill this process and every process it has started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class Control(threading.Thread):
    """Reads standard input. At its end the supervisor is gone, and so is this process.

    A supervisor that is frozen sends no ticks; a thread of ``faulthandler``, which needs no GIL, then ends the process.
    """

    def __init__(self) -> None:
        super().__init__(name="control", daemon=True)
        self.orders: Mapping[str, Order] = {}
        """run id -> ``cancel``, ``pause`` or ``kill``: replaced as a whole, never changed."""
        self.preempt = False
        self._databases: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[JobMessage] = queue.SimpleQueue()
        self._lease = 0.0

    def database_url(self) -> str:
        """Wait for the database's URL."""
        return self._databases.get()

    def job(self) -> JobMessage:
        """Wait for the job."""
        return self._jobs.get()

    def terminate(self, _signal: int, _frame: FrameType | None) -> None:
        """Handler of SIGTERM: as if the supervisor had said so. A spare has nothing to save."""
        if not self._lease:
            end_group()
        self.preempt = True

    def run(self) -> None:
        try:
            for line in _lines():
                self._hear(json.loads(line))
        except Exception as error:  # noqa: BLE001 - a trainer that hears nothing must not live on
            traceback.print_exc()
            message = f"the trainer does not understand its worker: {type(error).__name__}: {error}"
            os.write(1, Verdict("protocol_error", message).line())
        finally:
            end_group()

    def _hear(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "database":
                self._databases.put(message["url"])
            case "job":
                job = JobMessage.model_validate(message["job"])
                self._lease = job.lease_seconds
                self._jobs.put(job)
            case "desired":
                self.orders = message["runs"]
            case "preempt":
                self.preempt = True
        if self._lease:
            faulthandler.dump_traceback_later(self._lease, exit=True, file=sys.stderr)


def _lines() -> Iterator[bytes]:
    rest = b""
    while chunk := os.read(0, 65536):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
