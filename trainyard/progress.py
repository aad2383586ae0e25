"""Live progress of runs: one redrawn line per run on a terminal, a line now and then elsewhere."""

import queue
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from trainyard.client import TERMINAL, Client, Json
from trainyard.sse import Event

BAR = 24
LINE_SECONDS = 5.0


@dataclass
class Line:
    """What is shown of one run."""

    seed: int
    total: int
    status: str = "queued"
    env_steps: int = 0
    episode_return: float | None = None
    evaluation: float | None = None

    def take(self, event: Event) -> None:
        """Fold one event of the run's stream in; how it ended is for ``end`` to say."""
        data = event.data
        if event.type == "status" and data["status"] not in TERMINAL:
            self.status = str(data["status"])
        elif event.type == "metrics":
            self._metrics(data)
        elif event.type == "evaluation" and data["return_mean"] is not None:
            self.evaluation = float(data["return_mean"])

    def end(self, run: Mapping[str, Any]) -> None:
        """Show the ended run as it is kept: the stream's last metrics may be older."""
        self.status = str(run["status"])
        self._metrics(run)

    def _metrics(self, data: Mapping[str, Any]) -> None:
        self.env_steps = int(data["progress"]["env_steps"])
        value = data["latest"].get("train/episode_return", {}).get("value")
        self.episode_return = self.episode_return if value is None else float(value)

    def __str__(self) -> str:
        share = min(1.0, self.env_steps / self.total)
        bar = "#" * round(BAR * share)
        shown = [f"seed {self.seed:<3} {self.status:<10} [{bar:<{BAR}}] {self.env_steps:>9,} steps"]
        if self.episode_return is not None:
            shown.append(f"return {self.episode_return:7.1f}")
        if self.evaluation is not None:
            shown.append(f"evaluated {self.evaluation:7.1f}")
        return "  ".join(shown)


def watch(client: Client, runs: Sequence[Mapping[str, Any]], total: int, out: TextIO | None = None) -> None:
    """Show the runs (items with ``id`` and ``seed``) of ``total`` env steps each until all have ended.

    Raises:
        TrainyardError: when the service is gone, or whatever else ended a stream.
    """
    out = out or sys.stdout
    lines = {run["id"]: Line(int(run["seed"]), total) for run in runs}
    events: queue.SimpleQueue[tuple[str, Event | Json | Exception]] = queue.SimpleQueue()
    for run_id in lines:
        threading.Thread(target=_follow, args=(client, run_id, events), daemon=True).start()
    screen = _Terminal(out) if out.isatty() else _Log(out)
    open_runs = set(lines)
    while open_runs:
        run_id, news = events.get()
        if isinstance(news, Exception):
            raise news
        if isinstance(news, Event):
            lines[run_id].take(news)
        else:
            lines[run_id].end(news)
            open_runs.discard(run_id)
        screen.show(list(lines.values()), last=not open_runs)


def _follow(client: Client, run_id: str, events: "queue.SimpleQueue[tuple[str, Event | Json | Exception]]") -> None:
    """Queue a run's events and, last, the ended run."""
    try:
        for event in client.stream(run_id):
            events.put((run_id, event))
        events.put((run_id, client.wait(run_id)))
    except Exception as error:  # noqa: BLE001 - the watching thread raises it
        events.put((run_id, error))


class _Terminal:
    """Redraws its lines in place."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._drawn = 0
        self._next = 0.0

    def show(self, lines: Sequence[Line], *, last: bool) -> None:
        if not last and time.monotonic() < self._next:
            return
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        width = shutil.get_terminal_size().columns - 1  # a line that wraps could not be redrawn
        self._out.write(up + "".join(f"\x1b[2K{str(line)[:width]}\n" for line in lines))
        self._out.flush()
        self._drawn, self._next = len(lines), time.monotonic() + 0.1


class _Log:
    """Prints changes of status at once, and where all runs stand every few seconds."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._statuses: dict[int, str] = {}
        self._next = time.monotonic() + LINE_SECONDS

    def show(self, lines: Sequence[Line], *, last: bool) -> None:
        due = last or time.monotonic() >= self._next
        changed = [line for line in lines if self._statuses.get(line.seed) != line.status]
        for line in lines if due else changed:
            self._out.write(f"{line}\n")
        self._out.flush()
        self._statuses = {line.seed: line.status for line in lines}
        if due:
            self._next = time.monotonic() + LINE_SECONDS


def failures(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for every ended run that did not succeed, with its reason."""
    bad = [run for run in runs if run["status"] in TERMINAL - {"succeeded"}]
    return [
        f"seed {run['seed']} {run['status']}: {(run['reason'] or {}).get('message', 'no reason given')}" for run in bad
    ]
