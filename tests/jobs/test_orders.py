"""What users order: of single runs in a pack, and of all of them."""

from tests.jobs.scene import Stage, busiest, eventually, trainers

LONG = 10_000_000


def steps_without_gap(stage: Stage, run_id: str) -> bool:
    steps = [step for step, _ in stage.series(run_id)["losses/value"]]
    return steps == list(range(256, steps[-1] + 1, 256))


def test_single_runs_leave_a_pack(each_stage: Stage) -> None:
    stage = each_stage
    stage.start_worker()
    paused, cancelled, killed, left = stage.post(seeds=(0, 1, 2, 3), total_env_steps=LONG, checkpoint_every=20_000)
    stage.await_steps(left, 1_000)
    stage.act(paused, "pause")
    stage.act(cancelled, "cancel")
    stage.act(killed, "kill")
    stage.await_status(paused, "paused")
    assert stage.await_status(cancelled, "cancelled").reason_code == "cancelled"
    assert stage.await_status(killed, "cancelled").reason_code == "killed"
    assert stage.run(left).status == "running", "nobody else was disturbed"
    assert [c.kind for c in stage.checkpoints(cancelled)][-1] == "final"
    assert "final" not in [c.kind for c in stage.checkpoints(killed)]
    shared = stage.job(left).id

    stage.act(paused, "resume")
    own = stage.job(paused)
    assert own.id != shared and own.attempt == 1, "a job of its own, whose attempts go on"
    stage.act(left, "cancel")
    stage.await_status(left, "cancelled")
    before = stage.run(paused).env_steps
    stage.await_steps(paused, before + 2_000)
    assert [attempt.resumed_from_env_steps for attempt in stage.attempts(paused)] == [before]
    stage.act(paused, "cancel")
    stage.await_status(paused, "cancelled")
    assert all(steps_without_gap(stage, run_id) for run_id in (paused, cancelled, left))


def test_all_runs_are_paused_and_go_on(stage: Stage) -> None:
    worker = stage.start_worker()
    runs = stage.post(seeds=(0, 1), total_env_steps=LONG)
    stage.await_steps(runs[0], 1_000)
    trainer = busiest(trainers(worker))
    for run_id in runs:
        stage.act(run_id, "pause")
    for run_id in runs:
        stage.await_status(run_id, "paused")
    eventually(lambda: not trainer.is_running(), "the worker is released")
    assert stage.job(runs[0]).status == "ended"
    for run_id in runs:
        stage.act(run_id, "resume")
    for run_id in runs:
        stage.await_steps(run_id, stage.run(run_id).env_steps + 1_000)
        stage.act(run_id, "cancel")
        stage.await_status(run_id, "cancelled")
        assert steps_without_gap(stage, run_id)


def test_the_process_is_killed_when_all_its_runs_are_to_be(stage: Stage) -> None:
    worker = stage.start_worker()
    runs = stage.post(seeds=(0, 1), total_env_steps=LONG, checkpoint_every=LONG, evaluate_every=LONG)
    stage.await_steps(runs[0], 1_000)
    trainer = busiest(trainers(worker))
    for run_id in runs:
        stage.act(run_id, "kill")
    for run_id in runs:
        assert stage.await_status(run_id, "cancelled").reason_code == "killed"
        assert stage.checkpoints(run_id) == []
    eventually(lambda: not trainer.is_running(), "the trainer is gone")
    eventually(lambda: stage.job(runs[0]).status == "ended", "the job has ended")


def test_orders_before_a_claim_are_carried_out_without_a_trainer(stage: Stage) -> None:
    kept, cancelled, paused = stage.post(seeds=(0, 1, 2), total_env_steps=1_000, ring=False)
    stage.act(cancelled, "cancel")
    stage.act(paused, "pause")
    assert (stage.run(cancelled).status, stage.run(paused).status) == ("cancelled", "paused")
    stage.start_worker()
    stage.await_status(kept, "succeeded")
    stage.act(paused, "resume")
    stage.await_status(paused, "succeeded")
    assert stage.attempts(kept)[0].facts["pack"] == 1
