"""A job's ordinary life: rung for, claimed once, trained, recorded."""

import json
import time

from sqlalchemy import select

from app.db.models import Experiment, LogLine, Worker
from app.schemas.bundle import PolicyBundle
from tests.jobs.scene import Stage, descendants, eventually, trainers


def test_ten_messages_start_one_training(each_stage: Stage) -> None:
    stage = each_stage
    worker = stage.start_worker(spares=1)
    runs = stage.post(seeds=(0, 1), total_env_steps=10_000)
    for _ in range(9):
        stage.doorbell.ring(stage.queue)
    for run_id in runs:
        run = stage.await_status(run_id, "succeeded")
        assert run.env_steps >= run.total_env_steps
        assert stage.statuses(run_id) == ["queued", "starting", "running", "succeeded"]
        kinds = {checkpoint.kind for checkpoint in stage.checkpoints(run_id)}
        assert kinds == {"best", "scheduled", "final"}
        assert run.best_return is not None and run.final_return is not None
        steps = [step for step, _ in stage.series(run_id)["losses/value"]]
        assert steps == list(range(256, run.env_steps + 1, 256))
    [attempt] = stage.attempts(runs[0])
    assert attempt.outcome == "done" and attempt.ended_at
    assert attempt.facts["pack"] == 2
    assert stage.job(runs[0]).status == "ended"
    eventually(lambda: stage.doorbell.length(stage.queue) == 0, "all messages are heard")
    assert len(stage.attempts(runs[0])) == 1
    eventually(lambda: trainers(worker), "a new spare")
    worker.terminate()
    assert worker.wait(30) == 0
    assert descendants(worker.pid) == []
    with stage.database.reading() as session:
        row = session.scalars(select(Worker)).one()
    assert row.stopped_at and row.devices == ["cpu"] and row.queues == [stage.queue]


def test_a_checkpoint_says_where_it_comes_from(stage: Stage) -> None:
    stage.start_worker()
    [run_id] = stage.post(seeds=(7,), total_env_steps=2_000)
    stage.await_status(run_id, "succeeded")
    for checkpoint in stage.checkpoints(run_id):
        folder = stage.artifacts / checkpoint.path
        assert {file["name"] for file in checkpoint.files} == {file.name for file in folder.iterdir()}
        lineage = PolicyBundle.model_validate_json((folder / "bundle.json").read_bytes()).lineage
        assert lineage is not None
        assert (lineage.run_id, lineage.seed, lineage.env_steps) == (run_id, 7, checkpoint.env_steps)
    assert not list((stage.artifacts / "jobs").glob("*/*/*")), "nobody goes on from a state of an ended job"


def test_an_environment_that_cannot_start_fails_the_run_at_once(stage: Stage) -> None:
    stage.start_worker()
    [run_id] = stage.post(environment={"id": "InvertedPendulum-v5", "kwargs": {"reset_noise_scale": 1e308}})
    run = stage.await_status(run_id, "failed")
    assert run.reason_code == "environment_error"
    assert "InvertedPendulum-v5 raised in reset: OverflowError" in run.reason_message
    assert len(stage.attempts(run_id)) == 1


def test_a_job_that_keeps_crashing_is_given_up(stage: Stage) -> None:
    stage.start_worker()
    stage.artifacts.write_text("a file where a folder should be")
    [run_id] = stage.post(total_env_steps=2_000)
    run = stage.await_status(run_id, "failed")
    assert "3 failures" in run.reason_message
    assert [attempt.outcome for attempt in stage.attempts(run_id)] == ["crashed"] * 3
    with stage.database.reading() as session:
        lines = [line.text for line in session.scalars(select(LogLine))]
    assert any("Traceback" in line for line in lines)


def test_a_stored_spec_that_cannot_be_read_fails_the_run_at_once(stage: Stage) -> None:
    [run_id] = stage.post()
    with stage.database.writing() as session:
        experiment = session.scalars(select(Experiment)).one()
        experiment.spec = experiment.spec | {"algorithm": {"name": "forgotten"}}
    stage.start_worker()
    run = stage.await_status(run_id, "failed")
    assert run.reason_code == "invalid_spec"
    assert run.reason_message is not None and "forgotten" in run.reason_message


def test_the_best_job_goes_first(stage: Stage) -> None:
    [late] = stage.post(total_env_steps=1_000, resources={"priority": -1})
    [early] = stage.post(total_env_steps=1_000, resources={"priority": 5})
    stage.start_worker()
    first, second = stage.await_status(early, "succeeded"), stage.await_status(late, "succeeded")
    assert first.finished_at is not None and second.started_at is not None
    assert first.finished_at <= second.started_at
    assert first.env_steps_per_second and second.env_steps_per_second, "known however short a run is"


def test_orders_are_heard_while_an_update_is_short(stage: Stage) -> None:
    stage.start_worker()
    [run_id] = stage.post(total_env_steps=10_000_000)
    stage.await_steps(run_id, 1_000)
    stage.act(run_id, "cancel")
    began = time.monotonic()
    run = stage.await_status(run_id, "cancelled")
    assert time.monotonic() - began < 30
    assert run.reason_code == "cancelled"
    [final] = [checkpoint for checkpoint in stage.checkpoints(run_id) if checkpoint.kind == "final"]
    assert json.loads((stage.artifacts / final.path / "bundle.json").read_bytes())["lineage"]["run_id"] == run_id
