"""What users do to runs, and the numbers of their events."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy import delete, text

from app.db.engine import Database
from app.db.ids import new_id
from app.db.models import Experiment, Job
from app.db.repositories import experiments, jobs, runs
from app.db.repositories.training import StateFolder
from tests.db import scene

REFUSED = None
REQUESTS = {
    # state: {request: (state, desired) afterwards}
    "queued": {"cancel": ("cancelled", "cancel"), "kill": ("cancelled", "kill"), "pause": ("paused", "pause")},
    "starting": {"cancel": ("cancelling", "cancel"), "kill": ("cancelling", "kill"), "pause": ("pausing", "pause")},
    "running": {"cancel": ("cancelling", "cancel"), "kill": ("cancelling", "kill"), "pause": ("pausing", "pause")},
    "pausing": {"cancel": ("cancelling", "cancel"), "kill": ("cancelling", "kill"), "pause": ("pausing", "pause")},
    "paused": {"cancel": ("cancelled", "cancel"), "kill": ("cancelled", "kill"), "pause": ("paused", "pause")},
    "cancelling": {"cancel": ("cancelling", "cancel"), "kill": ("cancelling", "kill"), "pause": REFUSED},
    "succeeded": {"cancel": REFUSED, "kill": REFUSED, "pause": REFUSED},
    "failed": {"cancel": REFUSED, "kill": REFUSED, "pause": REFUSED},
    "cancelled": {"cancel": REFUSED, "kill": REFUSED, "pause": REFUSED},
}
DESIRED = {"pausing": "pause", "paused": "pause", "cancelling": "cancel"}


class TestRequest:
    def test_every_state_and_request(self, database: Database) -> None:
        for state, requests in REQUESTS.items():
            for request, expected in requests.items():
                made = scene.make(database)
                made.force(status=state, desired=DESIRED.get(state, "run"))
                accepted = made.request(request)
                run = made.run()
                assert accepted == (expected is not REFUSED), (state, request)
                assert (run.status, run.desired) == (expected or (state, DESIRED.get(state, "run"))), (state, request)

    def test_kill_outranks_cancel(self, database: Database) -> None:
        made = scene.make(database)
        made.begin()
        assert made.request("kill") and made.request("cancel")
        assert made.run().desired == "kill"

    @pytest.mark.parametrize(("desired", "code"), [("cancel", "cancelled"), ("kill", "killed")])
    def test_a_run_nobody_held_says_why_it_ended(self, database: Database, desired: str, code: str) -> None:
        lost = scene.make(database)
        lost.begin()
        lost.force_job(lease_expires_at=1.0)
        queued, paused = scene.make(database), scene.make(database)
        paused.request("pause")
        for made in (lost, queued, paused):
            assert made.request(desired)
        with database.writing() as session:
            jobs.expire(session)
        for made in (lost, queued, paused):
            assert (made.run().status, made.run().reason_code) == ("cancelled", code)

    def test_a_job_ends_with_its_last_queued_run(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1))
        made.request("cancel", made.run_ids[0])
        assert made.job().status == "queued"
        made.request("pause", made.run_ids[1])
        assert made.job().status == "ended"
        assert made.job().ended_at is not None

    def test_an_unknown_run_is_refused(self, database: Database) -> None:
        with database.writing() as session:
            assert not runs.request(session, "run_none", "cancel")

    def test_racing_with_a_claim_leaves_one_truth(self, database: Database) -> None:
        """Whoever is first, the run is cancelled at once, or is being started and asked to cancel."""
        for _ in range(10):
            made = scene.make(database)
            barrier = threading.Barrier(2)

            def cancel(made: scene.Scene = made, barrier: threading.Barrier = barrier) -> bool:
                barrier.wait()
                return made.request("cancel")

            def claim(barrier: threading.Barrier = barrier) -> jobs.Claim | None:
                barrier.wait()
                with database.writing() as session:
                    return jobs.claim(
                        session, worker_id="w", queues=["default"], devices=["auto"], lease_seconds=scene.LEASE
                    )

            with ThreadPoolExecutor(2) as pool:
                cancelled, claimed = pool.submit(cancel), pool.submit(claim)
            assert cancelled.result()
            run, job = made.run(), made.job()
            if claimed.result() is None:
                assert (run.status, job.status) == ("cancelled", "ended")
            else:
                assert (run.status, run.desired, job.status) == ("cancelling", "cancel", "leased")


class TestResume:
    def test_goes_on_under_a_new_job_from_its_state(self, database: Database) -> None:
        made = scene.make(database, seeds=(0, 1))
        attempt = made.begin()
        made.request("pause")
        state = StateFolder(f"jobs/{made.job_id}/a{attempt}/40", 40, (made.run_id,))
        assert made.finish(attempt, "paused", resume_state=state) == ()
        made.request("cancel", made.run_ids[1])
        made.finish(attempt, "cancelled", made.run_ids[1])
        assert made.job().status == "ended"
        paused = made.run()
        job_id = new_id("job")
        with database.writing() as session:
            jobs.create(
                session,
                job_id=job_id,
                experiment_id=made.experiment_id,
                queue="default",
                device="auto",
                resume_state_id=paused.resume_state_id,
                attempt=made.job().attempt,
            )
            assert runs.resume(session, made.run_id, job_id)
            assert not runs.resume(session, made.run_id, job_id)
        with database.writing() as session:
            claim = jobs.claim(session, worker_id="w", queues=["default"], devices=["auto"], lease_seconds=9)
        assert claim is not None and claim.resume is not None
        assert (claim.attempt, claim.resume.env_steps) == (attempt + 1, 40)
        assert claim.runs == ((made.run_id, 0),)
        assert claim.resume.run_ids == (made.run_id,)
        with database.reading() as session:
            assert [a.attempt for a in runs.attempts(session, made.run_id)] == [attempt, attempt + 1]

    @pytest.mark.parametrize("status", ["queued", "running", "pausing", "cancelling", "succeeded", "failed"])
    def test_only_paused_runs_resume(self, database: Database, status: str) -> None:
        made = scene.make(database)
        made.force(status=status)
        with database.writing() as session:
            assert not runs.resume(session, made.run_id, made.job_id)


class TestEvents:
    def test_numbers_have_no_gaps_and_appear_in_order_under_concurrent_writers(self, database: Database) -> None:
        made = scene.make(database)
        writers, each = 6, 15
        written = threading.Event()
        seen: list[int] = []

        def write(writer: int) -> None:
            for number in range(each):
                with database.writing() as session:
                    runs.append_event(session, made.run_id, "status", {"writer": writer, "number": number})

        def look() -> None:
            with database.reading() as session:
                seen.extend(event.seq for event in runs.events(session, made.run_id, seen[-1] if seen else 0))

        def watch() -> None:
            while not written.is_set():
                look()

        with ThreadPoolExecutor(writers + 1) as pool:
            watcher = pool.submit(watch)
            try:
                list(pool.map(write, range(writers)))
            finally:
                written.set()
            watcher.result()
        look()
        assert seen == list(range(1, 2 + writers * each))

    def test_a_rolled_back_event_leaves_no_gap(self, database: Database) -> None:
        made = scene.make(database)
        with suppress(ZeroDivisionError), database.writing() as session:
            runs.append_event(session, made.run_id, "status", {})
            raise ZeroDivisionError
        with database.writing() as session:
            assert runs.append_event(session, made.run_id, "status", {}) == 2

    def test_an_unknown_run_has_no_events(self, database: Database) -> None:
        with database.writing() as session, pytest.raises(LookupError):
            runs.append_event(session, "run_none", "status", {})


class TestPages:
    def test_newest_first_with_a_cursor(self, database: Database) -> None:
        made = [scene.make(database, seeds=(0, 1)) for _ in range(3)]
        newest = [run_id for one in reversed(made) for run_id in reversed(one.run_ids)]
        with database.reading() as session:
            first = runs.list_page(session, limit=4)
            rest = runs.list_page(session, limit=4, after=first.data[-1].id)
            of_one = runs.list_page(session, limit=9, experiment_id=made[1].experiment_id)
            none = runs.list_page(session, limit=9, status="running")
            named = experiments.list_page(session, limit=2)
        assert [run.id for run in first.data + rest.data] == newest
        assert (first.has_more, rest.has_more, named.has_more) == (True, False, True)
        assert {run.id for run in of_one.data} == set(made[1].run_ids)
        assert none.data == []

    def test_deleting_an_experiment_deletes_all_of_it(self, database: Database) -> None:
        made = scene.make(database)
        attempt = made.begin()
        made.flush(attempt, {"k": scene.points(1, 3)})
        made.publish(attempt, 3)
        made.checkpoint(attempt, 3)
        with database.writing() as session:
            session.execute(delete(Experiment).where(Experiment.id == made.experiment_id))
        with database.reading() as session:
            assert runs.get(session, made.run_id) is None
            assert session.get(Job, made.job_id) is None


def test_the_active_runs_are_told_while_somebody_holds_their_rows(postgres_url: str) -> None:
    database = Database(postgres_url)
    made = scene.make(database)
    with database.writing() as holder, database.reading() as session:
        runs.active(holder, made.job_id)
        session.execute(text("SET LOCAL lock_timeout = '1s'"))
        assert runs.active_ids(session, made.job_id) == set(made.run_ids)
    database.dispose()
