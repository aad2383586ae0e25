"""A trainer process as its supervisor sees it."""

import contextlib
import fcntl
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from worker.jobs.logs import LogBuffer
from worker.jobs.protocol import READY, Verdict

AFTER_EXIT = 0.5
"""Seconds to read what a dead trainer left in its pipes; a grandchild may hold them open for ever."""

# Threads that spin while they wait for one another make two of them a tenth as fast as one on a busy machine.
_THREADING = {"OMP_WAIT_POLICY": "PASSIVE"}


class TrainerProcess:
    """A child that leads its own session. One thread drains its output and, while it has a job, ticks.

    The thread, not the supervisor, ticks: a supervisor may be waiting for a database that is away, while the trainer
    is to go on. A frozen worker stops ticking, and so does one whose supervisor has learnt that the lease is lost.

    Args:
        database_url: to connect to before there is a job.
        threads: threads the numeric libraries are told of before they load; a job may use fewer.
        on_end: called from the thread once the process has ended.
    """

    def __init__(self, *, database_url: str, threads: int, on_end: Callable[[], None] = lambda: None) -> None:
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRAINYARD_")}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "worker.jobs.trainer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_THREADING | environment | counts | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        self.log = LogBuffer()
        self.ready = threading.Event()
        """Set once it is warm."""
        self.changed = threading.Event()
        """Set when there is a verdict or an end."""
        self.verdict: Verdict | None = None
        self._tick_every: float | None = None
        self._unheard = 0
        """Ticks in a row that found something before them that was not read yet."""
        self._sending = threading.Lock()
        self._on_end = on_end
        self._thread = threading.Thread(target=self._pump, name=f"trainer-{self.popen.pid}", daemon=True)
        self._thread.start()
        self.send({"type": "database", "url": database_url})

    def send(self, message: Mapping[str, Any]) -> None:
        """Write one line; a trainer that has ended is not an error."""
        assert self.popen.stdin is not None
        with self._sending, contextlib.suppress(OSError, ValueError):
            self.popen.stdin.write(json.dumps(message).encode() + b"\n")
            self.popen.stdin.flush()

    def tick(self, every: float | None) -> None:
        """Tick every so many seconds from now on; None: no more."""
        self._tick_every = every

    def deaf_for(self) -> float:
        """Seconds for which the process has read nothing of what it was sent, as one that is frozen does not.

        Counted in ticks, so that a worker that was frozen with it does not blame it.
        """
        return self._unheard * (self._tick_every or 0.0)

    def alive(self) -> bool:
        """Whether the process runs, whoever else still holds its pipes."""
        return self.popen.poll() is None

    def kill(self) -> None:
        """End the process and all of its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)

    def wait(self, seconds: float) -> int:
        """Wait for the end, kill after ``seconds``; then kill what is left of the group. Returns the exit status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(seconds)
        self.kill()
        status = self.popen.wait()
        self._thread.join(2 * AFTER_EXIT)
        assert self.popen.stdin is not None
        with self._sending, contextlib.suppress(OSError):
            self.popen.stdin.close()
        return status

    def _pump(self) -> None:
        ended: float | None = None
        next_tick = 0.0
        assert self.popen.stdout is not None and self.popen.stderr is not None
        pipes = {"stdout": self.popen.stdout, "stderr": self.popen.stderr}
        with selectors.DefaultSelector() as selector, pipes["stdout"], pipes["stderr"]:
            for stream, pipe in pipes.items():
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, stream)
            while selector.get_map() and (ended is None or time.monotonic() < ended + AFTER_EXIT):
                for key, _ in selector.select(0.2):
                    chunk = os.read(key.fd, 65536)
                    if chunk:
                        self._take(key.data, chunk)
                    else:
                        selector.unregister(key.fileobj)
                if ended is None and not self.alive():
                    ended = time.monotonic()
                if self._tick_every is not None and time.monotonic() >= next_tick:
                    next_tick = time.monotonic() + self._tick_every
                    self._unheard = self._unheard + 1 if self._unread() else 0
                    self.send({"type": "tick"})
        for stream in pipes:
            self._take(stream, b"\n")
        self.popen.wait()
        self.changed.set()
        self._on_end()

    def _unread(self) -> int:
        """Bytes that wait in the pipe to the process; 0 where the system does not tell at this end."""
        assert self.popen.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            answer = fcntl.ioctl(self.popen.stdin.fileno(), termios.FIONREAD, struct.pack("i", 0))
            return int(struct.unpack("i", answer)[0])
        return 0

    def _take(self, stream: str, chunk: bytes) -> None:
        for line in self.log.split(stream, chunk):
            if stream == "stdout" and line == READY and not self.ready.is_set():
                self.ready.set()
            elif stream == "stdout" and (verdict := Verdict.parse(line)):
                self.verdict = verdict
                self.changed.set()
            else:
                self.log.add(stream, line)
