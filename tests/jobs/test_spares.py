"""Spares: warm, taken, replaced."""

from collections.abc import Iterator

import psutil
import pytest

from tests.jobs.scene import eventually
from worker.jobs.spares import Spares


@pytest.fixture
def spares(sqlite_url: str) -> Iterator[Spares]:
    spares = Spares(1, database_url=sqlite_url, threads=1)
    spares.start()
    yield spares
    spares.stop()


def test_a_spare_is_replaced_when_it_dies_and_when_it_is_taken(spares: Spares) -> None:
    eventually(spares.ready, "a warm spare")
    first = spares.take()
    assert first.ready.is_set()
    eventually(spares.ready, "another one")
    first.kill()
    assert first.wait(0) < 0
    second = spares.take()
    assert second.popen.pid != first.popen.pid
    assert second.alive()
    second.kill()
    second.wait(0)
    third = spares.take()
    assert third.alive(), "warm or not, there is always a trainer"
    third.kill()
    third.wait(0)


def test_a_trainer_ends_with_its_input(spares: Spares) -> None:
    trainer = spares.take()
    assert trainer.popen.stdin is not None
    trainer.popen.stdin.close()
    assert trainer.popen.wait(60) < 0
    trainer.wait(0)


def test_waiting_threads_of_a_trainer_do_not_spin(spares: Spares) -> None:
    trainer = spares.take()
    environment = psutil.Process(trainer.popen.pid).environ()
    assert (environment["OMP_WAIT_POLICY"], environment["OMP_NUM_THREADS"]) == ("PASSIVE", "1")
    trainer.kill()
    trainer.wait(0)
