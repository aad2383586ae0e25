"""Warm trainers waiting for a job, so that training begins within milliseconds of a claim."""

import logging
import threading
import time

from worker.jobs.process import TrainerProcess

log = logging.getLogger(__name__)

REFILL_SECONDS = 1.0
"""A new spare starts this long after one was taken, so as not to slow the first seconds of its training."""
MAX_BACK_OFF = 60.0


class Spares(threading.Thread):
    """Keeps ``count`` spares; one that dies is replaced after a delay that doubles with every death in a row.

    Args:
        database_url, threads: see :class:`TrainerProcess`.
    """

    def __init__(self, count: int, *, database_url: str, threads: int) -> None:
        super().__init__(name="spares", daemon=True)
        self._count = count
        self._database_url = database_url
        self._threads = threads
        self._spares: list[TrainerProcess] = []
        self._back_off = REFILL_SECONDS
        self._not_before = 0.0
        self._changed = threading.Condition()
        self._stopped = False

    def take(self) -> TrainerProcess:
        """A trainer: a warm one, else one that is warming up, else a new one."""
        with self._changed:
            alive = [spare for spare in self._spares if spare.alive()]
            spare = next((spare for spare in alive if spare.ready.is_set()), alive[0] if alive else None)
            if spare is not None:
                self._spares.remove(spare)
                self._back_off = REFILL_SECONDS if spare.ready.is_set() else self._back_off
            self._not_before = max(self._not_before, time.monotonic() + REFILL_SECONDS)
            self._changed.notify()
        return spare or self._start()

    def ready(self) -> int:
        """How many are warm."""
        return sum(spare.ready.is_set() and spare.alive() for spare in self._spares)

    def run(self) -> None:
        """Replace what was taken or died."""
        while True:
            with self._changed:
                if self._stopped:
                    return
                self._bury()
                missing = self._count - len(self._spares)
                delay = self._not_before - time.monotonic()
                if missing <= 0 or delay > 0:
                    self._changed.wait(delay if missing > 0 else None)
                else:
                    self._spares.append(self._start())

    def stop(self) -> None:
        """Kill the spares and start no more."""
        with self._changed:
            self._stopped = True
            spares, self._spares = self._spares, []
            self._changed.notify()
        for spare in spares:
            spare.kill()
            spare.wait(0)

    def _start(self) -> TrainerProcess:
        return TrainerProcess(database_url=self._database_url, threads=self._threads, on_end=self._notice)

    def _notice(self) -> None:
        with self._changed:
            self._changed.notify()

    def _bury(self) -> None:
        dead = [spare for spare in self._spares if not spare.alive()]
        self._spares = [spare for spare in self._spares if spare not in dead]
        for spare in dead:
            self._back_off = REFILL_SECONDS if spare.ready.is_set() else min(MAX_BACK_OFF, 2 * self._back_off)
            self._not_before = time.monotonic() + self._back_off
            log.warning(
                "a spare trainer ended (exit status %s); the next one starts in %.0f s: %s",
                spare.popen.returncode,
                self._back_off,
                spare.log.last,
            )
