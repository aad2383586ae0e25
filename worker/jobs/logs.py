"""Lines of a trainer's output on their way to the database, capped in length and in number."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

MAX_LINE_BYTES = 4096
MAX_WAITING = 1000
"""Lines kept between two writes; the newest win, and a line says how many were left out."""
_DUMP, _THREAD = "Timeout (", "(most recent call first):"
"""How ``faulthandler`` begins what it says when time is over, and ends the line before a thread's innermost frame."""


class LogBuffer:
    """Splits chunks into lines and keeps the newest until they are taken. Filled by one thread, emptied by another."""

    def __init__(self) -> None:
        self._partial: dict[str, bytes] = {}
        self._lines: deque[tuple[str, str]] = deque(maxlen=MAX_WAITING)
        self._dropped = 0
        self._lock = threading.Lock()
        self.last = ""
        """The newest line of the error stream."""
        self.stuck_at: str | None = None
        """The main thread's innermost frame in what a watchdog said when it ended the process; empty where there was
        none, None as long as no watchdog did."""

    def split(self, stream: str, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` completes, without empty ones; a line that grows too long is cut into several."""
        *lines, rest = (self._partial.pop(stream, b"") + chunk).split(b"\n")
        while len(rest) > MAX_LINE_BYTES:
            lines.append(rest[:MAX_LINE_BYTES])
            rest = rest[MAX_LINE_BYTES:]
        self._partial[stream] = rest
        return [line for line in lines if line.strip()]

    def add(self, stream: str, line: bytes) -> None:
        """Keep a line."""
        text = line[:MAX_LINE_BYTES].decode(errors="replace").rstrip()
        with self._lock:
            self._dropped += len(self._lines) == MAX_WAITING
            self._lines.append((stream, text))
            if stream == "stderr":
                if text.startswith(_DUMP):
                    self.stuck_at = ""
                elif self.stuck_at is not None and self.last.endswith(_THREAD):
                    self.stuck_at = text.strip()  # of the last thread there is: threads come the newest first
                self.last = text

    @contextmanager
    def taken(self) -> Iterator[list[tuple[str, str]]]:
        """The lines waiting, as (stream, text). They wait again if the context ends with an exception."""
        with self._lock:
            lines, dropped = list(self._lines), self._dropped
            self._lines.clear()
            self._dropped = 0
        try:
            yield [("stderr", f"… {dropped} lines left out …"), *lines] if dropped else lines
        except BaseException:
            with self._lock:
                lost = max(0, len(lines) + len(self._lines) - MAX_WAITING)
                self._lines.extendleft(reversed(lines[lost:]))
                self._dropped += dropped + lost
            raise
