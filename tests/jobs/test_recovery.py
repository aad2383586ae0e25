"""What may happen to processes, and what must come of it: nothing lost, nothing twice, the same weights."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from redis import Redis

from app.db.states import TERMINAL
from app.schemas.experiment import ExperimentSpec, resolve
from tests.jobs.scene import Stage, busiest, eventually, spec_of, trainers
from worker.rl import drivers
from worker.rl.reporter import MemoryReporter

SLOW = {"algorithm": {"epochs": 25, "num_minibatches": 16}, "total_env_steps": 12_000, "checkpoint_every": 3_000}
"""Some seconds long, so that things can happen to it."""
SEEDS = (3, 4)


@pytest.fixture(scope="module")
def undisturbed() -> MemoryReporter:
    """The same training by the driver alone, in this process, never interrupted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    reporter = MemoryReporter(list(SEEDS))
    spec = resolve(ExperimentSpec.model_validate(spec_of(SEEDS, "default", **SLOW)))
    drivers.train(spec, SEEDS, reporter)
    torch.set_num_threads(threads)
    return reporter


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
    eventually(lambda: trainer.status() == psutil.STATUS_ZOMBIE, "the trainer ends: it hears no tick")


def stop_worker(stage: Stage, worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    assert worker.wait(60) == 0
    stage.start_worker()


def interrupted(stage: Stage, strike: Callable[[Stage, subprocess.Popen[bytes]], None]) -> list[str]:
    """Runs of an experiment that was struck after its first checkpoint and completed all the same."""
    worker = stage.start_worker()
    runs = stage.post(seeds=SEEDS, **SLOW)
    stage.await_resume_state(runs[0])
    strike(stage, worker)
    for run_id in runs:
        stage.await_status(run_id, "succeeded")
    return runs


def assert_undisturbed(stage: Stage, runs: list[str], reference: MemoryReporter) -> None:
    """The same points, none twice, none missing, and weights identical to the last bit."""
    for run_id, seed in zip(runs, SEEDS, strict=True):
        expected, found = reference.series[seed], stage.series(run_id)
        assert expected.keys() == found.keys()
        for key in expected.keys() - {"train/env_steps_per_second"}:
            assert found[key] == expected[key], key
        assert [s for s in stage.statuses(run_id) if s in TERMINAL] == ["succeeded"]
        for checkpoint in stage.checkpoints(run_id):
            [(files, mean)] = [
                (files, mean)
                for step, kind, files, mean in reference.checkpoints[seed]
                if (step, kind) == (checkpoint.env_steps, checkpoint.kind)
            ]
            assert checkpoint.return_mean == mean
            weights = stage.artifacts / checkpoint.path / "weights.safetensors"
            assert weights.read_bytes() == files["weights.safetensors"], checkpoint.kind


def test_a_killed_worker(each_stage: Stage, undisturbed: MemoryReporter) -> None:
    runs = interrupted(each_stage, kill_worker)
    assert_undisturbed(each_stage, runs, undisturbed)
    first, second = each_stage.attempts(runs[0])
    assert first.outcome == "lost"
    assert second.resumed_from_env_steps is not None and second.resumed_from_env_steps >= 3_000


def test_a_killed_trainer(stage: Stage, undisturbed: MemoryReporter) -> None:
    runs = interrupted(stage, kill_trainer)
    assert_undisturbed(stage, runs, undisturbed)
    first = stage.attempts(runs[0])[0]
    assert (first.outcome, first.code) == ("crashed", "trainer_killed")
    assert first.message is not None and "memory" in first.message


def test_a_frozen_trainer(stage: Stage, undisturbed: MemoryReporter) -> None:
    worker = stage.start_worker(frozen_seconds=6)
    runs = stage.post(seeds=SEEDS, **SLOW)
    stage.await_resume_state(runs[0])
    busiest(trainers(worker)).suspend()
    for run_id in runs:
        stage.await_status(run_id, "succeeded")
    assert_undisturbed(stage, runs, undisturbed)
    first, _second = stage.attempts(runs[0])
    assert (first.outcome, first.code) == ("crashed", "trainer_frozen")
    assert first.message == "the trainer process did not react for 6 s and was ended"


def test_a_frozen_worker_is_taken_over_and_its_late_word_is_refused(stage: Stage, undisturbed: MemoryReporter) -> None:
    runs = interrupted(stage, freeze_worker)
    os.kill(stage.workers[0].pid, signal.SIGCONT)
    eventually(lambda: stage.workers_alive() == 2, "it beats again")
    assert_undisturbed(stage, runs, undisturbed)
    first, _second = stage.attempts(runs[0])
    assert first.outcome == "lost", "what the thawed worker said came too late"


def test_a_worker_that_shuts_down_hands_its_job_on(stage: Stage) -> None:
    worker = stage.start_worker()
    runs = stage.post(seeds=SEEDS, **SLOW)
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


def killed_after_two_states(stage: Stage) -> tuple[str, list[Path]]:
    """A run whose worker is dead, and the folders of its resume states, the newest last."""
    worker = stage.start_worker()
    [run_id] = stage.post(**SLOW)

    def states() -> list[Path]:
        return sorted(stage.artifacts.glob("jobs/*/*/[0-9]*"), key=lambda folder: int(folder.name))

    eventually(lambda: len(states()) == 2 and stage.resumes_from(run_id) == states()[-1], "a second state")
    worker.kill()
    worker.wait()
    eventually(lambda: not trainers(worker), "its trainer ends, too")
    return run_id, states()


def damage(folder: Path) -> None:
    (folder / "state.safetensors").write_bytes(b"damaged")


def of_tomorrow(folder: Path) -> None:
    manifest = json.loads((folder / "state.json").read_bytes())
    (folder / "state.json").write_text(json.dumps(manifest | {"format": 99}))


@pytest.mark.parametrize("lose", [of_tomorrow, shutil.rmtree])
def test_a_state_that_is_lost_means_an_earlier_one_and_says_so(stage: Stage, lose: Callable[[Path], None]) -> None:
    run_id, [earlier, newest] = killed_after_two_states(stage)
    lose(newest)
    stage.start_worker()
    stage.await_status(run_id, "succeeded")
    steps = [step for step, _ in stage.series(run_id)["losses/value"]]
    assert steps == list(range(256, 12_000 + 256, 256))
    assert stage.attempts(run_id)[-1].resumed_from_env_steps == int(earlier.name)
    [reason] = [event["reason"] for event in stage.status_events(run_id) if event["status"] == "running"][1:]
    assert reason["code"] == "earlier_state"
    assert f"env step {newest.name} cannot be used" in reason["message"]
    assert f"goes on from env step {earlier.name}" in reason["message"]


@pytest.mark.parametrize("lose", [damage, shutil.rmtree])
def test_a_state_lost_while_paused_means_the_one_before(stage: Stage, lose: Callable[[Path], None]) -> None:
    stage.start_worker()
    [run_id] = stage.post(**SLOW)
    stage.await_resume_state(run_id)
    stage.act(run_id, "pause")
    stage.await_status(run_id, "paused")
    earlier = stage.resumes_from(run_id)
    assert earlier is not None
    [state] = stage.artifacts.glob("jobs/*/*/paused-*")
    lose(state)
    stage.act(run_id, "resume")
    stage.await_status(run_id, "succeeded")
    assert [attempt.resumed_from_env_steps for attempt in stage.attempts(run_id)] == [int(earlier.name)]
    steps = [step for step, _ in stage.series(run_id)["losses/value"]]
    assert steps == list(range(256, 12_000 + 256, 256))
    assert [event["reason"]["code"] for event in stage.status_events(run_id) if event["reason"]] == ["earlier_state"]


@pytest.mark.parametrize(
    ("lose", "code", "words"),
    [(damage, "corrupt_state", "damaged"), (of_tomorrow, "incompatible_state", "format 99")],
)
def test_without_any_state_nothing_begins_anew(
    stage: Stage, lose: Callable[[Path], None], code: str, words: str
) -> None:
    run_id, [earlier, newest] = killed_after_two_states(stage)
    before = stage.series(run_id), [checkpoint.id for checkpoint in stage.checkpoints(run_id)]
    damage(earlier)
    lose(newest)
    stage.start_worker()
    run = stage.await_status(run_id, "failed")
    assert run.reason_code == code
    assert words in run.reason_message and "no earlier one" in run.reason_message
    assert (stage.series(run_id), [checkpoint.id for checkpoint in stage.checkpoints(run_id)]) == before
