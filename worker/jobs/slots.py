"""Places to train: one job per slot, a slot per GPU or per share of the CPU. Nothing here loads a GPU library."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from worker.jobs import gpus


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one job. ``device`` is ``cpu`` or ``cuda:N``."""

    index: int
    device: str


class Slots:
    """The slots of this worker, handed out one at a time."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.all = tuple(Slot(index, device) for index, device in enumerate(devices))
        self._free = list(self.all)
        self._lock = threading.Lock()

    @property
    def busy(self) -> int:
        """How many slots are taken."""
        return len(self.all) - len(self._free)

    def free_devices(self) -> list[str]:
        """The kinds of slots that are free, each once, GPUs first."""
        with self._lock:
            return sorted({slot.device for slot in self._free}, reverse=True)

    @contextmanager
    def take(self, device: str) -> Iterator[Slot | None]:
        """A free slot of this device for the length of the context; None if another thread was faster."""
        with self._lock:
            slot = next((slot for slot in self._free if slot.device == device), None)
            if slot is not None:
                self._free.remove(slot)
        try:
            yield slot
        finally:
            if slot is not None:
                with self._lock:
                    self._free.append(slot)


def devices(configured: Sequence[str], slots: int | None) -> tuple[str, ...]:
    """One entry per slot: as configured, else one per GPU, else ``slots`` (half of the cores) times ``cpu``."""
    if configured:
        return tuple(configured)
    if slots is None and (found := gpus.count()):
        return tuple(f"cuda:{index}" for index in range(found))
    return ("cpu",) * (slots or max(1, cores() // 2))


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
