"""The trainer's ear: what ends a trainer whose supervisor is gone, frozen, or cannot be heard."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.jobs.scene import eventually
from worker.jobs.protocol import Verdict

JOB = {
    "job_id": "job_1",
    "attempt": 1,
    "experiment_id": "exp_1",
    "spec": {},
    "spec_hash": "",
    "runs": [["run_1", 0]],
    "resume": None,
    "artifacts_dir": "",
    "lease_seconds": 1.0,
    "device": "cpu",
    "threads": 1,
}
LISTEN = """
import ctypes, signal, subprocess, sys, time
from worker.jobs.control import Control
control = Control()
signal.signal(signal.SIGTERM, control.terminate)
control.start()
control.job()
print("job", flush=True)
"""


class Trainer:
    """A process that listens like a trainer and then does something else."""

    def __init__(self, then: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LISTEN + then],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.send({"type": "job", "job": JOB})
        assert self.line() == "job"

    def send(self, message: dict[str, object]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()


@pytest.fixture
def trainers() -> Iterator[list[Trainer]]:
    started: list[Trainer] = []
    yield started
    for trainer in started:
        with trainer.process:  # closes the pipes
            trainer.process.kill()


def test_one_that_holds_the_interpreter_is_ended(trainers: list[Trainer]) -> None:
    stuck = Trainer("ctypes.PyDLL(None).sleep(600)")
    trainers.append(stuck)
    assert stuck.process.wait(60) == 1
    assert stuck.process.stderr is not None
    assert b"most recent call first" in stuck.process.stderr.read()


def test_ticks_keep_it_alive(trainers: list[Trainer]) -> None:
    alive = Trainer("time.sleep(600)")
    trainers.append(alive)
    for _ in range(10):
        time.sleep(0.2)
        alive.send({"type": "tick"})
    assert alive.process.poll() is None
    assert alive.process.wait(60) == 1, "and their absence ends it"


def test_the_end_of_its_input_ends_its_whole_group(trainers: list[Trainer]) -> None:
    parent = Trainer("print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)")
    trainers.append(parent)
    child = psutil.Process(int(parent.line()))
    assert parent.process.stdin is not None
    parent.process.stdin.close()
    assert parent.process.wait(60) < 0
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "its child ends, too")


@pytest.mark.parametrize("message", [{"type": "job", "job": JOB | {"threads": "many"}}, {"kind": "tick"}])
def test_a_message_it_cannot_read_ends_it_with_a_verdict(trainers: list[Trainer], message: dict[str, object]) -> None:
    deaf = Trainer("time.sleep(600)")
    trainers.append(deaf)
    deaf.send(message)
    assert deaf.process.wait(60) < 0, "its worker's pipe is open all the while"
    assert deaf.process.stdout is not None and deaf.process.stderr is not None
    verdict = Verdict.parse(deaf.process.stdout.read().strip())
    assert verdict is not None and verdict.code == "protocol_error" and verdict.retryable
    assert b"Traceback" in deaf.process.stderr.read()


def test_orders_replace_one_another_and_sigterm_preempts(trainers: list[Trainer]) -> None:
    report = "print(dict(control.orders), control.preempt, flush=True)"
    trainer = Trainer(f"while True: time.sleep(0.05); {report}")
    trainers.append(trainer)
    trainer.send({"type": "desired", "runs": {"run_1": "cancel"}})
    eventually(lambda: trainer.line() == "{'run_1': 'cancel'} False", "the order")
    trainer.send({"type": "desired", "runs": {}})
    eventually(lambda: trainer.line() == "{} False", "its withdrawal")
    trainer.process.terminate()
    eventually(lambda: trainer.line() == "{} True", "the wish to be preempted")
