"""What may happen to processes, and what must come of it: nothing lost, nothing twice, the same weights."""

import os
import signal
import subprocess
from collections.abc import Callable

from redis import Redis

from tests.jobs.scene import LEASE, Stage, busiest, eventually, trainers

SLOW = {"algorithm": {"epochs": 10, "num_minibatches": 16}, "total_env_steps": 20_000, "checkpoint_every": 4_000}
"""Some seconds long, so that things can happen to it."""


def kill_worker(stage: Stage, worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()
    stage.start_worker()


def kill_trainer(stage: Stage, worker: subprocess.Popen[bytes]) -> None:
    busiest(trainers(worker)).kill()


def freeze_worker(stage: Stage, worker: subprocess.Popen[bytes]) -> None:
    trainer = busiest(trainers(worker))
    os.kill(worker.pid, signal.SIGSTOP)
    stage.start_worker()
    trainer.wait(20 * LEASE)  # it heard no tick


def stop_worker(stage: Stage, worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    assert worker.wait(60) == 0
    stage.start_worker()


def interrupted(stage: Stage, strike: Callable[[Stage, subprocess.Popen[bytes]], None]) -> tuple[list[str], list[str]]:
    """Train the same experiment twice, once undisturbed; the runs of both."""
    worker = stage.start_worker()
    whole = stage.post(seeds=(3, 4), **SLOW)
    for run_id in whole:
        stage.await_status(run_id, "succeeded")
    broken = stage.post(seeds=(3, 4), **SLOW)
    stage.await_resume_state(broken[0])
    strike(stage, worker)
    for run_id in broken:
        stage.await_status(run_id, "succeeded")
    if worker.poll() is None:
        os.kill(worker.pid, signal.SIGCONT)
    return whole, broken


def assert_same_training(stage: Stage, whole: list[str], broken: list[str]) -> None:
    """The same points, none twice, none missing, and weights identical to the last bit."""
    for one, other in zip(whole, broken, strict=True):
        expected, found = stage.series(one), stage.series(other)
        assert expected.keys() == found.keys()
        for key in expected.keys() - {"train/env_steps_per_second"}:
            assert found[key] == expected[key], key
        assert stage.weights(one) == stage.weights(other)
        assert [s for s in stage.statuses(other) if s in ("succeeded", "failed", "cancelled")] == ["succeeded"]
        kept = [(c.kind, c.env_steps, c.return_mean) for c in stage.checkpoints(one)]
        assert [(c.kind, c.env_steps, c.return_mean) for c in stage.checkpoints(other)] == kept


def test_a_killed_worker(each_stage: Stage) -> None:
    whole, broken = interrupted(each_stage, kill_worker)
    assert_same_training(each_stage, whole, broken)
    first, second = each_stage.attempts(broken[0])
    assert first.outcome == "lost"
    assert second.outcome in ("done", None)
    assert second.resumed_from_env_steps and second.resumed_from_env_steps >= 4_000


def test_a_killed_trainer(stage: Stage) -> None:
    whole, broken = interrupted(stage, kill_trainer)
    assert_same_training(stage, whole, broken)
    first = stage.attempts(broken[0])[0]
    assert (first.outcome, first.code) == ("crashed", "trainer_killed")
    assert first.message is not None and "memory" in first.message


def test_a_frozen_worker_is_taken_over_and_its_late_word_is_refused(stage: Stage) -> None:
    whole, broken = interrupted(stage, freeze_worker)
    assert_same_training(stage, whole, broken)
    eventually(lambda: not trainers(stage.workers[0]) or len(trainers(stage.workers[0])) == 1, "only its spare is left")
    first, _second = stage.attempts(broken[0])
    assert first.outcome == "lost", "what the thawed worker said came too late"


def test_a_worker_that_shuts_down_hands_its_job_on(stage: Stage) -> None:
    worker = stage.start_worker()
    runs = stage.post(seeds=(3, 4), **SLOW)
    stage.await_steps(runs[0], 1_000)
    stop_worker(stage, worker)
    for run_id in runs:
        stage.await_status(run_id, "succeeded")
        assert stage.statuses(run_id).count("queued") == 2
    first, _second = stage.attempts(runs[0])
    assert first.outcome == "preempted"
    assert stage.job(runs[0]).total_failures == 0


def test_a_wiped_broker(stage: Stage) -> None:
    [run_id] = stage.post(total_env_steps=1_000)
    with Redis.from_url(stage.broker_url.replace("redis+socket", "unix")) as redis:
        redis.flushall()
    stage.start_worker()
    stage.await_status(run_id, "succeeded")


def test_a_corrupt_state_means_an_earlier_one(stage: Stage) -> None:
    worker = stage.start_worker()
    [run_id] = stage.post(**SLOW)
    eventually(lambda: len(list(stage.artifacts.glob("jobs/*/*/[0-9]*"))) == 2, "a second state")
    worker.kill()
    worker.wait()
    newest = max(stage.artifacts.glob("jobs/*/*/[0-9]*"), key=lambda folder: int(folder.name))
    (newest / "state.safetensors").write_bytes(b"damaged")
    stage.start_worker()
    stage.await_status(run_id, "succeeded")
    steps = [step for step, _ in stage.series(run_id)["losses/value"]]
    assert steps == list(range(256, 20_000 + 256, 256))
