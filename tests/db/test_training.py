"""What trainers write: the begin of an attempt, checkpoints and their retention, resume states, the end of a run."""

import math

import pytest
from sqlalchemy import select

from app.db.engine import Database
from app.db.models import Attempt, ResumeState
from app.db.repositories import checkpoints, jobs, resume_states, runs, training
from app.db.repositories.runs import Reason
from app.db.repositories.training import StateFolder
from tests.db import scene


def evaluate(made: scene.Scene, attempt: int, env_steps: int, returns: list[float]) -> None:
    with made.database.writing() as session:
        training.add_evaluation(
            session,
            job_id=made.job_id,
            attempt=attempt,
            run_id=made.run_id,
            env_steps=env_steps,
            returns=returns,
            lengths=[1] * len(returns),
        )


def begun_from(made: scene.Scene, attempt: int, earlier: StateFolder) -> tuple[str, ...]:
    """Begin from an earlier state, the last one being damaged: the folders that are obsolete."""
    with made.database.writing() as session:
        return training.begin(
            session,
            job_id=made.job_id,
            attempt=attempt,
            env_steps=earlier.env_steps,
            device="cpu",
            facts={},
            earlier=earlier,
            damage="a bit flipped",
        )


def kept(made: scene.Scene) -> list[tuple[str, int]]:
    with made.database.reading() as session:
        page = checkpoints.list_page(session, made.run_id, limit=100)
    return sorted((checkpoint.kind, checkpoint.env_steps) for checkpoint in page.data)


class TestBegin:
    def test_starts_the_runs(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1))
        attempt = made.begin()
        assert made.statuses() == ["running", "running"]
        assert made.run().device == "cpu"
        with database.reading() as session:
            (row,) = runs.attempts(session, made.run_id)
        assert (row.attempt, row.device, row.facts, row.resumed_from_env_steps) == (
            attempt,
            "cpu",
            {"threads": 1},
            None,
        )

    def test_leaves_a_run_that_is_to_stop_as_it_is(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1))
        attempt = made.claim().attempt
        made.request("cancel")
        with database.writing() as session:
            training.begin(session, job_id=made.job_id, attempt=attempt, env_steps=0, device="cpu", facts={})
        assert made.statuses() == ["cancelling", "running"]

    def test_cuts_what_lies_beyond_its_step(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.flush(attempt, {"k": scene.points(1, 10)})
        evaluate(made, attempt, 10, [1.0])
        made.checkpoint(attempt, 10, "best", 1.0)
        made.checkpoint(attempt, 10)
        made.publish(attempt, 10)
        made.flush(attempt, {"k": scene.points(11, 30), "later": scene.points(12, 12)})
        evaluate(made, attempt, 20, [5.0])
        made.checkpoint(attempt, 20, "best", 5.0)
        made.checkpoint(attempt, 20)
        assert made.run().best_return == 5.0
        version = made.run().metrics_version
        made.release(attempt, "crashed")

        made.begin(10)
        run = made.run()
        assert made.series("k") == (list(range(1, 11)), [float(step) for step in range(1, 11)])
        assert made.series("later") == ([], [])
        assert kept(made) == [("best", 10), ("scheduled", 10)]
        assert (run.env_steps, run.best_return, run.metrics_version > version) == (10, 1.0, True)
        with database.reading() as session:
            best = checkpoints.find(session, made.run_id, "best")
            assert best is not None and best.id == run.best_checkpoint_id
        trained = [(event.type, event.env_steps) for event in made.events() if event.type != "status"]
        assert trained == [("evaluation", 10), ("checkpoint", 10), ("checkpoint", 10)]

    def test_an_earlier_state_takes_the_place_of_a_damaged_one(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.flush(attempt, {"k": scene.points(1, 30)})
        made.publish(attempt, 30)
        made.release(attempt, "crashed")
        attempt = made.claim().attempt
        earlier = StateFolder(f"jobs/{made.job_id}/a1/20", 20, made.run_ids)
        dropped = [begun_from(made, attempt, earlier) for _ in range(2)]  # a flush may be repeated
        assert dropped == [(f"jobs/{made.job_id}/a1/30",), ()]
        with database.reading() as session:
            [state] = session.scalars(select(ResumeState))
            [*_, row] = session.scalars(select(Attempt).order_by(Attempt.attempt))
        assert made.job().resume_state_id == state.id
        assert (state.path, state.env_steps, row.resumed_from_env_steps) == (earlier.path, 20, 20)
        assert made.series("k")[0] == list(range(1, 21))
        last = made.events()[-1]
        assert (last.type, last.data["status"]) == ("status", "running")
        assert last.data["reason"]["message"] == "a bit flipped; goes on from env step 20"

    def test_may_be_repeated(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        with database.writing() as session:
            training.begin(session, job_id=made.job_id, attempt=attempt, env_steps=0, device="cpu", facts={})
        assert made.run().status == "running"


class TestProgress:
    def test_is_kept_where_a_flush_says_nothing_of_it(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1))
        attempt = made.begin()
        own = {"job_id": made.job_id, "attempt": attempt}
        with database.writing() as session:
            progress = dict.fromkeys(made.run_ids, (50, 10.0))
            training.append_metrics(session, **own, points={}, progress=progress)
            training.append_metrics(
                session, **own, points={made.run_id: {"k": scene.points(1, 2)}}, progress={made.run_ids[1]: (60, None)}
            )
            training.append_metrics(session, **own, points={}, progress={})
        first, second = made.run(), made.run(made.run_ids[1])
        assert (first.env_steps, first.env_steps_per_second, first.metrics_version) == (50, 10.0, 3)
        assert (second.env_steps, second.env_steps_per_second, second.metrics_version) == (60, 10.0, 3)


class TestEvaluation:
    def test_is_an_event_with_its_statistics(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        evaluate(made, attempt, 10, [1.0, 3.0])
        evaluate(made, attempt, 10, [1.0, 3.0])
        evaluate(made, attempt, 20, [math.inf, 1.0])
        first, second = (event.data for event in made.events() if event.type == "evaluation")
        assert (first["return_mean"], first["return_std"], first["episodes"]) == (2.0, 1.0, 2)
        assert (second["return_mean"], second["return_std"], second["returns"]) == (None, None, [None, 1.0])


class TestCheckpoint:
    def test_keeps_the_newest_scheduled_ones_and_the_best(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        obsolete = []
        for step in range(10, 60, 10):
            obsolete += made.checkpoint(attempt, step, keep=2).obsolete
            if step in (20, 30):
                obsolete += made.checkpoint(attempt, step, "best", float(step)).obsolete
            made.publish(attempt, step)
        assert kept(made) == [("best", 30), ("scheduled", 40), ("scheduled", 50)]
        # The folder of step 20 went when the last row that names it did, that of 30 is still the best one's.
        assert obsolete == [f"runs/{made.run_id}/a1/{step}" for step in (10, 20)]

    def test_keeps_what_a_crash_would_fall_back_to(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.checkpoint(attempt, 10, keep=1)
        made.checkpoint(attempt, 10, "best", 1.0)
        made.publish(attempt, 10)
        for step in (20, 30):
            made.checkpoint(attempt, step, keep=1)
            made.checkpoint(attempt, step, "best", float(step))
        assert kept(made) == [("best", 10), ("best", 30), ("scheduled", 10), ("scheduled", 30)]
        made.checkpoint(attempt, 40, "final")
        made.finish(attempt, "succeeded", keep=1)
        assert kept(made) == [("best", 30), ("final", 40), ("scheduled", 30)]

    def test_may_be_repeated(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        assert made.checkpoint(attempt, 10).id == made.checkpoint(attempt, 10).id
        assert [event.type for event in made.events()].count("checkpoint") == 1

    def test_references(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        with database.reading() as session:
            assert checkpoints.find(session, made.run_id, "best") is None
        only = made.checkpoint(attempt, 10).id
        with database.reading() as session:
            for reference in ("best", "latest", only):
                found = checkpoints.find(session, made.run_id, reference)
                assert found is not None and found.id == only
            assert checkpoints.find(session, made.run_id, "ckpt_none") is None


class TestPublish:
    def test_replaces_the_state(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1))
        attempt = made.begin()
        first = made.publish(attempt, 10)
        second = made.publish(attempt, 20)
        assert first.obsolete == ()
        assert second.obsolete == (f"jobs/{made.job_id}/a1/10",)
        assert made.publish(attempt, 20).id == second.id
        made.release(attempt, "preempted")
        resume = made.claim().resume
        assert resume is not None
        assert (resume.id, resume.env_steps, resume.run_ids) == (second.id, 20, made.run_ids)

    def test_leaves_the_state_of_a_paused_run(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1))
        attempt = made.begin()
        made.publish(attempt, 10)
        made.request("pause")
        made.release(attempt, "crashed")
        attempt = made.begin(10)
        assert made.publish(attempt, 20).obsolete == ()
        made.request("cancel")
        obsolete = made.publish(attempt, 30).obsolete
        assert set(obsolete) == {f"jobs/{made.job_id}/a1/10", f"jobs/{made.job_id}/a2/20"}

    def test_a_cancelled_paused_run_frees_its_state(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.request("pause")
        made.finish(attempt, "paused", resume_state=StateFolder("jobs/x/a1/40", 40, made.run_ids))
        with database.writing() as session:
            assert resume_states.drop_unused(session) == ()
        made.request("cancel")
        with database.writing() as session:
            assert resume_states.drop_unused(session) == ("jobs/x/a1/40",)


def paused_and_resumed(made: scene.Scene) -> tuple[str, scene.Scene]:
    """A run paused at 15, after its job published a state at 10: the folder of its state, and the job it is in now."""
    attempt = made.begin()
    made.publish(attempt, 10)
    made.request("pause")
    path = f"jobs/{made.job_id}/a1/paused-15"
    assert made.finish(attempt, "paused", resume_state=StateFolder(path, 15, made.run_ids)) == ()
    state_id = made.run().resume_state_id
    with made.database.writing() as session:
        job = jobs.create(
            session,
            job_id="job_fresh",
            experiment_id=made.experiment_id,
            queue="default",
            device="auto",
            resume_state_id=state_id,
            attempt=attempt,
        )
        assert runs.resume(session, made.run_id, job.id)
    return path, scene.Scene(made.database, made.experiment_id, "job_fresh", made.run_ids)


class TestFinish:
    @pytest.mark.parametrize("outcome", ["succeeded", "failed", "cancelled"])
    def test_the_job_ends_with_its_last_run(self, database: Database, outcome: str) -> None:
        made = scene.make(database, seeds=(0, 1))
        attempt = made.begin()
        made.publish(attempt, 10)
        made.finish(attempt, outcome, final_return=7.0, reason=Reason("because", "so"))
        assert made.job().status == "leased"
        obsolete = made.finish(attempt, "succeeded", made.run_ids[1])
        run, job = made.run(), made.job()
        assert (run.status, run.final_return, run.reason_code) == (outcome, 7.0, "because")
        assert run.finished_at is not None and job.ended_at is not None
        assert job.status == "ended"
        with database.reading() as session:
            assert [row.outcome for row in runs.attempts(session, made.run_id)] == ["done"]
        # The state of a job with a run that failed is kept: it says how far that one came.
        assert obsolete == (() if outcome == "failed" else (f"jobs/{made.job_id}/a1/10",))

    def test_exactly_one_terminal_state(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1))
        attempt = made.begin()
        made.finish(attempt, "succeeded")
        made.finish(attempt, "succeeded")
        with pytest.raises(training.StaleAttempt):
            made.finish(attempt, "failed")
        ends = [event for event in made.events() if event.type == "status" and event.data["status"] == "succeeded"]
        assert len(ends) == 1

    def test_paused_runs_of_one_cut_share_a_state(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1, 2))
        attempt = made.begin()
        made.publish(attempt, 10)
        state = StateFolder("jobs/x/a1/15", 15, made.run_ids[:2])
        for run_id in made.run_ids[:2]:
            made.request("pause", run_id)
            made.finish(attempt, "paused", run_id, resume_state=state)
        first, second = made.run(made.run_ids[0]), made.run(made.run_ids[1])
        assert first.resume_state_id is not None
        assert first.resume_state_id == second.resume_state_id
        assert (first.status, first.env_steps) == ("paused", 15)
        assert made.job().resume_state_id != first.resume_state_id

    def test_the_state_before_a_pause_is_kept_until_there_is_a_new_one(self, database: Database) -> None:
        made = scene.make(database)
        paused, fresh = paused_and_resumed(made)
        with database.writing() as session:
            assert resume_states.drop_unused(session) == ()
        obsolete = fresh.publish(fresh.begin(15), 20).obsolete
        assert set(obsolete) == {f"jobs/{made.job_id}/a1/10", paused}

    def test_a_job_may_go_on_from_the_state_before_a_pause(self, database: Database) -> None:
        made = scene.make(database)
        paused, fresh = paused_and_resumed(made)
        earlier = StateFolder(f"jobs/{made.job_id}/a1/10", 10, made.run_ids)
        assert begun_from(fresh, fresh.claim().attempt, earlier) == (paused,)
        with database.reading() as session:
            [state] = session.scalars(select(ResumeState))
        assert (state.path, state.id) == (earlier.path, fresh.job().resume_state_id)

    def test_cancel_outranks_pause_at_the_last_moment(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.request("pause")
        made.request("kill")
        made.finish(attempt, "paused", resume_state=StateFolder("jobs/x/a1/15", 15, made.run_ids))
        run = made.run()
        assert (run.status, run.reason_code) == ("cancelled", "killed")

    def test_returns_that_are_not_finite_are_unknown(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.checkpoint(attempt, 1, "best", math.nan)
        made.finish(attempt, "succeeded", final_return=math.inf)
        run = made.run()
        assert (run.best_return, run.final_return) == (None, None)
