"""Claims, leases, fences, and what becomes of a job that lost its trainer."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.db import clock
from app.db.engine import Database
from app.db.repositories import jobs, runs, training, workers
from tests.db import scene


def claim(database: Database, *, queues: tuple[str, ...] = ("default",), device: str = "cpu") -> jobs.Claim | None:
    with database.writing() as session:
        return jobs.claim(
            session, worker_id="worker_a", queues=queues, devices=workers.takes(device), lease_seconds=scene.LEASE
        )


class TestClaim:
    def test_says_what_to_train(self, database: Database) -> None:
        made = scene.make(database, seeds=(7, 3, 5))
        won = claim(database)
        assert won is not None
        assert (won.job_id, won.attempt, won.experiment_id) == (made.job_id, 1, made.experiment_id)
        assert won.runs == tuple(zip(made.run_ids, (7, 3, 5), strict=True))
        assert won.spec == {"algorithm": {"name": "ppo"}}
        assert won.resume is None
        assert made.statuses() == ["starting"] * 3
        assert made.run().worker_id == "worker_a"
        with database.reading() as session:
            assert [a.worker_id for a in runs.attempts(session, made.run_ids[2])] == ["worker_a"]
        assert claim(database) is None

    def test_best_is_priority_then_age(self, database: Database) -> None:
        old, new, urgent = (scene.make(database, priority=priority) for priority in (0, 0, 5))
        order = [won.job_id for _ in range(3) if (won := claim(database))]
        assert order == [urgent.job_id, old.job_id, new.job_id]

    def test_takes_only_its_queues(self, database: Database) -> None:
        made = scene.make(database, queue="gpu")
        assert claim(database) is None
        won = claim(database, queues=("default", "gpu"))
        assert won is not None and won.job_id == made.job_id

    @pytest.mark.parametrize(
        ("slot", "asked", "fits"),
        [
            ("cpu", "auto", True),
            ("cpu", "cpu", True),
            ("cpu", "cuda", False),
            ("cpu", "cuda:0", False),
            ("cuda:1", "auto", True),
            ("cuda:1", "cuda", True),
            ("cuda:1", "cuda:1", True),
            ("cuda:1", "cuda:0", False),
            ("cuda:1", "cpu", False),
        ],
    )
    def test_takes_only_what_fits_the_slot(self, database: Database, slot: str, asked: str, fits: bool) -> None:
        scene.make(database, device=asked)
        assert (claim(database, device=slot) is not None) == fits

    def test_leaves_out_jobs_that_still_run_here(self, database: Database) -> None:
        held, other = scene.make(database), scene.make(database)
        with database.writing() as session:
            won = jobs.claim(
                session,
                worker_id="worker_a",
                queues=["default"],
                devices=["auto"],
                lease_seconds=scene.LEASE,
                excluding={held.job_id},
            )
        assert won is not None and won.job_id == other.job_id

    @pytest.mark.parametrize("rounds", [8])
    def test_of_many_claimers_exactly_one_wins(self, database: Database, rounds: int) -> None:
        claimers = 8
        barrier = threading.Barrier(claimers)

        def contend() -> jobs.Claim | None:
            barrier.wait()
            return claim(database)

        with ThreadPoolExecutor(claimers) as pool:
            for _ in range(rounds):
                made = scene.make(database)
                won = [future.result() for future in [pool.submit(contend) for _ in range(claimers)]]
                assert [one.job_id for one in won if one] == [made.job_id]
                assert made.job().attempt == 1

    def test_claimers_share_the_jobs_out(self, database: Database) -> None:
        made = {scene.make(database).job_id for _ in range(12)}

        def drain() -> list[str]:
            mine = []
            while won := claim(database):
                mine.append(won.job_id)
            return mine

        with ThreadPoolExecutor(4) as pool:
            taken = [job for future in [pool.submit(drain) for _ in range(4)] for job in future.result()]
        assert len(taken) == len(made)
        assert set(taken) == made

    def test_settles_runs_that_are_not_to_be_started(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1, 2))
        made.force(made.run_ids[0], desired="cancel")
        made.force(made.run_ids[2], desired="pause")
        won = claim(database)
        assert won is not None and won.runs == ((made.run_ids[1], 1),)
        assert made.statuses() == ["cancelled", "starting", "paused"]

    def test_passes_over_a_job_without_runs_to_start(self, database: Database) -> None:
        made, other = scene.make(database), scene.make(database)
        made.force(desired="kill")
        won = claim(database)
        assert won is not None and won.job_id == other.job_id
        assert made.job().status == "ended"
        assert made.run().reason_code == "killed"


class TestLease:
    def test_renewal_depends_on_the_attempt_alone(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.claim().attempt
        made.force_job(lease_expires_at=1.0)
        with database.writing() as session:
            assert jobs.renew(session, job_id=made.job_id, attempt=attempt, lease_seconds=5)
            assert jobs.expire(session) == 0
            assert not jobs.renew(session, job_id=made.job_id, attempt=attempt + 1, lease_seconds=5)

    def test_a_lease_taken_back_cannot_be_renewed(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.claim().attempt
        made.force_job(lease_expires_at=1.0)
        with database.writing() as session:
            assert jobs.expire(session) == 1
            assert not jobs.renew(session, job_id=made.job_id, attempt=attempt, lease_seconds=5)
            assert jobs.desires(session, job_id=made.job_id, attempt=attempt) is None

    def test_a_job_that_ended_was_not_taken_away(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.finish(attempt, "succeeded")
        with database.writing() as session:
            assert jobs.renew(session, job_id=made.job_id, attempt=attempt, lease_seconds=5)
            assert jobs.desires(session, job_id=made.job_id, attempt=attempt) == {}
        assert made.job().lease_expires_at is None

    def test_desires_are_those_of_active_runs(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1, 2))
        attempt = made.begin()
        made.request("pause", made.run_ids[1])
        made.request("kill", made.run_ids[2])
        with database.reading() as session:
            wanted = jobs.desires(session, job_id=made.job_id, attempt=attempt)
        assert wanted == {made.run_ids[1]: "pause", made.run_ids[2]: "kill"}
        made.finish(attempt, "cancelled", made.run_ids[2])
        with database.reading() as session:
            assert jobs.desires(session, job_id=made.job_id, attempt=attempt) == {made.run_ids[1]: "pause"}


class TestExpire:
    def test_a_lost_worker_costs_a_failure_and_requeues(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1, 2, 3))
        attempt = made.begin()
        made.request("cancel", made.run_ids[1])
        made.request("pause", made.run_ids[2])
        made.finish(attempt, "succeeded", made.run_ids[3])
        made.force_job(lease_expires_at=1.0)
        with database.writing() as session:
            assert jobs.expire(session) == 1
            assert jobs.expire(session) == 0
        assert made.statuses() == ["queued", "cancelled", "paused", "succeeded"]
        assert made.run().reason_code == "retrying"
        job = made.job()
        assert (job.status, job.failures, job.total_failures) == ("queued", 1, 1)
        with database.reading() as session:
            assert [a.outcome for a in runs.attempts(session, made.run_id)] == ["lost"]

    def test_a_lease_from_before_a_clock_jump_counts_as_expired(self, database: Database) -> None:
        made = scene.make(database)
        made.claim()
        made.force_job(lease_expires_at=clock.now() + 1.9 * scene.LEASE)
        with database.writing() as session:
            assert jobs.expire(session) == 0
        made.force_job(lease_expires_at=clock.now() + 2.1 * scene.LEASE)
        with database.writing() as session:
            assert jobs.expire(session) == 1

    def test_a_paused_run_goes_on_from_the_jobs_state(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        state = made.publish(attempt, 100)
        made.request("pause")
        made.force_job(lease_expires_at=1.0)
        with database.writing() as session:
            jobs.expire(session)
        assert made.run().resume_state_id == state.id
        assert made.job().status == "ended"

    def test_concurrent_sweepers_count_a_failure_once(self, database: Database) -> None:
        made = scene.make(database)
        made.claim()
        made.force_job(lease_expires_at=1.0)
        barrier = threading.Barrier(4)

        def sweep() -> int:
            barrier.wait()
            with database.writing() as session:
                return jobs.expire(session)

        with ThreadPoolExecutor(4) as pool:
            counts = [future.result() for future in [pool.submit(sweep) for _ in range(4)]]
        assert sum(counts) == 1
        assert made.job().failures == 1


class TestRelease:
    def test_preempting_counts_as_no_failure(self, database: Database) -> None:
        made = scene.make(database)
        for _ in range(10):
            made.release(made.begin(), "preempted")
        job = made.job()
        assert (job.status, job.attempt, job.failures, job.total_failures) == ("queued", 10, 0, 0)
        assert made.run().reason_code == "preempted"

    def test_third_failure_without_a_new_state_is_the_last(self, database: Database) -> None:
        made = scene.make(database)
        for _ in range(jobs.MAX_FAILURES - 1):
            made.release(made.begin(), "crashed", code="crashed", message="signal 9")
            assert made.run().status == "queued"
        made.release(made.begin(), "crashed", code="crashed", message="signal 9")
        run = made.run()
        assert (run.status, run.reason_code) == ("failed", "crashed")
        assert run.reason_message is not None and "signal 9" in run.reason_message
        assert made.job().status == "ended"

    def test_a_new_state_counts_failures_from_zero_up_to_the_cap_in_all(self, database: Database) -> None:
        made = scene.make(database)
        for step in range(jobs.MAX_TOTAL_FAILURES):
            assert made.run().status == "queued"
            attempt = made.begin(step)
            made.publish(attempt, step + 1)
            made.release(attempt, "crashed")
        assert made.run().status == "failed"
        assert made.job().total_failures == jobs.MAX_TOTAL_FAILURES

    def test_publishing_the_same_step_again_is_no_progress(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.publish(attempt, 10)
        for _ in range(jobs.MAX_FAILURES):
            made.release(attempt, "crashed")
            if made.run().status == "failed":
                break
            attempt = made.begin(10)
            made.publish(attempt, 10)
        assert made.run().status == "failed"

    def test_what_cannot_succeed_is_not_tried_again(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1))
        attempt = made.begin()
        made.request("kill", made.run_ids[1])
        made.release(attempt, "crashed", code="environment_error", message="step() raised", retryable=False)
        assert made.statuses() == ["failed", "cancelled"]
        assert made.run().reason_message == "step() raised"
        assert made.run(made.run_ids[1]).reason_code == "killed"
        assert made.job().status == "ended"

    @pytest.mark.parametrize("outcome", ["done", "crashed"])
    def test_an_attempt_has_ended_with_its_last_run(self, database: Database, outcome: str) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.finish(attempt, "succeeded")
        made.release(attempt, outcome, code=outcome)
        with database.reading() as session:
            (row,) = runs.attempts(session, made.run_id)
        assert (row.outcome, row.code) == ("done", None)
        assert row.ended_at is not None

    def test_done_with_active_runs_is_a_failure(self, database: Database) -> None:
        made = scene.make(database)
        made.release(made.begin(), "done")
        assert made.job().failures == 1
        assert made.run().status == "queued"

    @pytest.mark.parametrize("outcome", ["done", "preempted", "crashed", "killed"])
    def test_a_stale_attempt_changes_nothing(self, database: Database, outcome: str) -> None:
        made = scene.make(database)
        stale = made.begin()
        made.release(stale, "preempted")
        made.release(stale, outcome, retryable=False)
        assert (made.job().status, made.run().status) == ("queued", "queued")
        made.begin()
        made.release(stale, outcome, retryable=False)
        assert (made.job().status, made.run().status) == ("leased", "running")


class TestSettle:
    @pytest.mark.parametrize(
        ("status", "desired", "expected"),
        [
            ("starting", "run", "queued"),
            ("running", "run", "queued"),
            ("cancelling", "cancel", "cancelled"),
            ("cancelling", "kill", "cancelled"),
            ("pausing", "pause", "paused"),
        ],
    )
    def test_held_runs_of_a_job_nobody_leases(
        self, database: Database, status: str, desired: str, expected: str
    ) -> None:
        made = scene.make(database, seeds=(0, 1))
        made.force(status=status, desired=desired)
        with database.writing() as session:
            assert jobs.needs_sweep(session)
            assert jobs.settle(session) == 1
            assert not jobs.needs_sweep(session)
            assert jobs.settle(session) == 0
        assert made.statuses() == [expected, "queued"]

    def test_active_runs_of_an_ended_job_fail(self, database: Database) -> None:
        made = scene.make(database)
        made.force_job(status="ended")
        with database.writing() as session:
            assert jobs.settle(session) == 1
        assert made.run().status == "failed"

    def test_a_queued_job_without_active_runs_ends(self, database: Database) -> None:
        made = scene.make(database)
        made.force(status="cancelled")
        with database.writing() as session:
            assert jobs.settle(session) == 1
        assert made.job().status == "ended"

    def test_leaves_a_sound_database_alone(self, database: Database) -> None:
        made = scene.make(database)
        made.begin()
        scene.make(database)
        with database.writing() as session:
            assert not jobs.needs_sweep(session)
            assert (jobs.expire(session), jobs.settle(session)) == (0, 0)


class TestFence:
    """Every write of an attempt that lost its job is refused, whether the job waits or another attempt has it."""

    @pytest.mark.parametrize("taken", [False, True], ids=["queued", "claimed"])
    @pytest.mark.parametrize("write", ["begin", "metrics", "evaluation", "checkpoint", "publish", "finish"])
    def test_every_write(self, database: Database, write: str, taken: bool) -> None:
        made = scene.make(database)
        stale = made.begin()
        made.release(stale, "crashed")
        if taken:
            made.begin()
        before = (columns(made.run()), columns(made.job()), len(made.events()))
        with pytest.raises(training.StaleAttempt):
            self._write(made, stale, write)
        assert (columns(made.run()), columns(made.job()), len(made.events())) == before

    def _write(self, made: scene.Scene, attempt: int, write: str) -> None:
        if write == "metrics":
            made.flush(attempt, {"k": scene.points(1, 2)})
        elif write == "checkpoint":
            made.checkpoint(attempt, 5, "final")
        elif write == "publish":
            made.publish(attempt, 5)
        elif write == "finish":
            made.finish(attempt, "succeeded")
        own = {"job_id": made.job_id, "attempt": attempt}
        with made.database.writing() as session:
            if write == "begin":
                training.begin(session, **own, env_steps=0, device="cpu", facts={})
            elif write == "evaluation":
                training.add_evaluation(session, **own, run_id=made.run_id, env_steps=5, returns=[1.0], lengths=[1])

    def test_a_run_that_went_on_elsewhere_is_refused(self, database: Database) -> None:
        made, other = scene.make(database), scene.make(database)
        attempt = made.begin()
        with pytest.raises(training.StaleAttempt):
            made.flush(attempt, {"k": scene.points(1, 2)}, other.run_id)
        with pytest.raises(training.StaleAttempt):
            made.finish(attempt, "succeeded", other.run_id)
        assert made.series("k", other.run_id) == ([], [])


class TestQueues:
    def test_names(self, database: Database) -> None:
        scene.make(database, queue="gpu", priority=-1)
        scene.make(database)
        scene.make(database)
        with database.reading() as session:
            assert jobs.queued_queues(session) == ["default", "gpu"]
        claim(database, queues=("gpu",))
        with database.reading() as session:
            assert jobs.queued_queues(session) == ["default"]


def columns(row: object) -> dict[str, object]:
    return {name: value for name, value in vars(row).items() if not name.startswith("_")}
