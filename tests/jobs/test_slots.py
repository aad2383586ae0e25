"""Where jobs can be trained."""

import threading

import pytest
from pydantic import ValidationError

from app.settings import Settings
from worker.jobs import gpus, slots
from worker.jobs.slots import Slots


def test_what_is_configured_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "count", lambda: 4)
    assert slots.devices(("cpu", "cuda:1"), 3) == ("cpu", "cuda:1")


def test_one_slot_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "count", lambda: 2)
    assert slots.devices((), None) == ("cuda:0", "cuda:1")


def test_half_of_the_cores_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "count", lambda: 0)
    monkeypatch.setattr(slots, "cores", lambda: 6)
    assert slots.devices((), None) == ("cpu",) * 3
    assert slots.devices((), 1) == ("cpu",)
    monkeypatch.setattr(slots, "cores", lambda: 1)
    assert slots.devices((), None) == ("cpu",)


def test_a_device_of_no_known_kind_is_refused() -> None:
    assert Settings(devices=("cpu", "cuda:7")).devices == ("cpu", "cuda:7")
    with pytest.raises(ValidationError, match="neither cpu nor cuda:N"):
        Settings(devices=("cuda",))


def test_a_slot_is_taken_once() -> None:
    places = Slots(("cpu", "cuda:0"))
    assert places.free_devices() == ["cuda:0", "cpu"]
    with places.take("cuda:0") as slot:
        assert slot is not None and slot.device == "cuda:0"
        assert places.busy == 1
        assert places.free_devices() == ["cpu"]
        with places.take("cuda:0") as second:
            assert second is None
    assert places.busy == 0


def test_threads_never_share_a_slot() -> None:
    places = Slots(("cpu",) * 2)
    taken: list[int] = []
    barrier = threading.Barrier(4)

    def grab() -> None:
        with places.take("cpu") as slot:
            if slot is not None:
                taken.append(slot.index)
            barrier.wait(10)

    threads = [threading.Thread(target=grab) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [0, 1]
