"""Runs: read and acted on, with the tests as the worker."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import select

from app.db.engine import Database
from app.db.models import Job
from app.db.repositories import jobs, logs, workers
from app.db.repositories.runs import Reason
from app.db.repositories.training import StateFolder
from tests.api.conftest import ON_BOTH, Bells
from tests.api.helpers import assert_problem, create, scene
from tests.db.scene import LEASE, Scene, make, points


@pytest.fixture
def job(client: httpx.Client, database: Database) -> Scene:
    """A queued job of two runs."""
    return scene(database, create(client))


def act(client: httpx.Client, run_id: str, action: str) -> httpx.Response:
    return client.post(f"/v1/runs/{run_id}/{action}")


class TestRead:
    @ON_BOTH
    def test_queued(self, client: httpx.Client, job: Scene) -> None:
        run = client.get(f"/v1/runs/{job.run_id}").json()
        assert run["progress"] == {
            "env_steps": 0,
            "total_env_steps": 1000,
            "env_steps_per_second": None,
            "eta_seconds": None,
        }
        assert run["result"] == {"best_checkpoint_id": None, "best_return": None, "final_return": None}
        assert (run["status"], run["desired"], run["reason"], run["attempt"]) == ("queued", "run", None, 0)
        assert (run["latest"], run["started_at"], run["finished_at"]) == ({}, None, None)

    @ON_BOTH
    def test_running_and_done(self, client: httpx.Client, job: Scene) -> None:
        attempt = job.begin()
        job.flush(attempt, {"train/episode_return": points(10, 500), "losses/nan": points(1, 1, float("nan"))})
        run = client.get(f"/v1/runs/{job.run_id}").json()
        assert run["progress"]["env_steps"] == 500
        assert run["progress"]["eta_seconds"] == pytest.approx(5.0)
        assert run["latest"]["train/episode_return"] == {"step": 500, "value": 500.0}
        assert run["latest"]["losses/nan"] == {"step": 1, "value": None}
        assert (run["attempt"], run["worker"], run["device"]) == (1, "worker_a", "cpu")
        stored = job.checkpoint(attempt, 500, "best", 475.0)
        job.finish(attempt, "succeeded", final_return=470.0)
        run = client.get(f"/v1/runs/{job.run_id}").json()
        assert run["result"] == {"best_checkpoint_id": stored.id, "best_return": 475.0, "final_return": 470.0}
        assert run["progress"]["eta_seconds"] is None
        assert run["finished_at"] >= run["started_at"] >= run["created_at"]

    def test_failed_says_why(self, client: httpx.Client, job: Scene) -> None:
        attempt = job.begin()
        job.finish(attempt, "failed", reason=Reason("diverged", "the loss became infinite"))
        run = client.get(f"/v1/runs/{job.run_id}").json()
        assert run["reason"] == {"code": "diverged", "message": "the loss became infinite"}

    @pytest.mark.parametrize(
        "run_id", ["run_nope", "nope", "run_", "run_%00", "run_" + "x" * 2000, "..", "run_ü", "run_a%0a"]
    )
    def test_unknown(self, client: httpx.Client, run_id: str) -> None:
        assert_problem(client.get(f"/v1/runs/{run_id}/metrics" if run_id == ".." else f"/v1/runs/{run_id}"), 404)

    def test_waits_for_the_end(self, client: httpx.Client, job: Scene) -> None:
        attempt = job.begin()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.get, f"/v1/runs/{job.run_id}", headers={"Prefer": "wait=30"})
            job.finish(attempt, "succeeded")
            answer = waiting.result(25)
        assert answer.json()["status"] == "succeeded"

    def test_waits_no_longer_than_asked(self, client: httpx.Client, job: Scene) -> None:
        answer = client.get(f"/v1/runs/{job.run_id}", headers={"Prefer": "wait=1"})
        assert answer.json()["status"] == "queued"
        assert answer.headers["preference-applied"] == "wait=1"

    @pytest.mark.parametrize(
        "prefer", ["wait", "wait=", "wait=-1", "wait=x", "await=5", "wait=1.5", "handling=lenient"]
    )
    def test_other_preferences_are_ignored(self, client: httpx.Client, job: Scene, prefer: str) -> None:
        answer = client.get(f"/v1/runs/{job.run_id}", headers={"Prefer": prefer})
        assert answer.status_code == 200
        assert "preference-applied" not in answer.headers

    def test_many_waits_leave_room_for_others(self, client: httpx.Client, job: Scene) -> None:
        with ThreadPoolExecutor(40) as pool:
            headers = {"Prefer": "wait=20"}
            waits = [pool.submit(client.get, f"/v1/runs/{job.run_id}", headers=headers) for _ in range(40)]
            assert client.get("/v1/runs").status_code == 200
            assert act(client, job.run_id, "cancel").status_code == 200
            assert {wait.result(30).json()["status"] for wait in waits} == {"cancelled"}


class TestList:
    @ON_BOTH
    def test_pages_and_filters(self, client: httpx.Client, database: Database) -> None:
        first, second = create(client, seeds=[0, 1, 2]), create(client, seeds=[3])
        newest = client.get("/v1/runs?limit=1").json()
        assert newest["has_more"] is True
        assert [row["seed"] for row in newest["data"]] == [3]
        older = client.get(f"/v1/runs?limit=3&after={newest['data'][0]['id']}").json()
        assert [row["seed"] for row in older["data"]] == [2, 1, 0]
        assert older["has_more"] is False
        act(client, first["runs"][0]["id"], "cancel")
        assert len(client.get(f"/v1/runs?experiment_id={first['id']}").json()["data"]) == 3
        assert len(client.get(f"/v1/runs?experiment_id={first['id']}&status=queued").json()["data"]) == 2
        assert [row["id"] for row in client.get("/v1/runs?status=cancelled").json()["data"]] == [first["runs"][0]["id"]]
        assert client.get(f"/v1/runs?experiment_id={second['id']}&status=failed").json() == {
            "data": [],
            "has_more": False,
        }

    @pytest.mark.parametrize(
        "query", ["limit=100000", "limit=-1", "status=lost", "experiment_id=%00", "after=run_%00", "after=" + "a" * 999]
    )
    def test_odd_queries(self, client: httpx.Client, query: str) -> None:
        assert_problem(client.get(f"/v1/runs?{query}"), 422)


class TestActions:
    @ON_BOTH
    @pytest.mark.parametrize(("action", "code"), [("cancel", "cancelled"), ("kill", "killed")])
    def test_a_queued_run_is_stopped_at_once(self, client: httpx.Client, job: Scene, action: str, code: str) -> None:
        answer = act(client, job.run_id, action)
        assert answer.status_code == 200
        assert answer.json()["status"] == "cancelled"
        assert answer.json()["reason"]["code"] == code
        assert job.statuses() == ["cancelled", "queued"]
        assert [run_id for run_id, _ in job.claim().runs] == [job.run_ids[1]]

    def test_a_job_without_runs_ends(self, client: httpx.Client, job: Scene) -> None:
        for run_id in job.run_ids:
            act(client, run_id, "cancel")
        assert job.job().status == "ended"

    @ON_BOTH
    @pytest.mark.parametrize(
        ("action", "status", "desired"),
        [("cancel", "cancelling", "cancel"), ("kill", "cancelling", "kill"), ("pause", "pausing", "pause")],
    )
    def test_a_held_run_is_asked_for(
        self, client: httpx.Client, job: Scene, action: str, status: str, desired: str
    ) -> None:
        attempt = job.begin()
        answer = act(client, job.run_id, action)
        assert answer.status_code == 202
        assert (answer.json()["status"], answer.json()["desired"]) == (status, desired)
        with job.database.reading() as session:
            assert jobs.desires(session, job_id=job.job_id, attempt=attempt) == {job.run_id: desired}
        assert act(client, job.run_id, action).status_code == 202, "asking again changes nothing"
        assert [event.type for event in job.events()] == ["status"] * 4

    def test_kill_outranks_cancel(self, client: httpx.Client, job: Scene) -> None:
        job.begin()
        act(client, job.run_id, "cancel")
        assert act(client, job.run_id, "kill").json()["desired"] == "kill"
        assert act(client, job.run_id, "cancel").json()["desired"] == "kill"

    @pytest.mark.parametrize(
        ("state", "action"),
        [
            ("queued", "resume"),
            ("running", "resume"),
            ("pausing", "resume"),
            ("paused", "pause"),
            ("cancelling", "pause"),
            ("cancelling", "resume"),
            *(
                (state, action)
                for state in ("succeeded", "failed", "cancelled")
                for action in ("cancel", "kill", "pause")
            ),
            *((state, "resume") for state in ("succeeded", "failed", "cancelled")),
        ],
    )
    def test_what_a_state_does_not_allow(self, client: httpx.Client, job: Scene, state: str, action: str) -> None:
        job.force(status=state)
        events = len(job.events())
        problem = assert_problem(act(client, job.run_id, action), 409)
        assert state in problem["detail"]
        assert action not in problem["errors"][0]["allowed"]
        for allowed in problem["errors"][0]["allowed"]:
            assert allowed in problem["detail"]
        assert job.run().status == state
        assert len(job.events()) == events

    def test_unknown_run(self, client: httpx.Client) -> None:
        for action in ("cancel", "kill", "pause", "resume"):
            assert_problem(act(client, "run_nope", action), 404)

    @ON_BOTH
    def test_concurrent_actions_leave_one_end(self, client: httpx.Client, job: Scene) -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda action: act(client, job.run_id, action), ["cancel", "kill", "pause"] * 5))
        assert {answer.status_code for answer in answers} <= {200, 409}
        ends = [event.data["status"] for event in job.events() if event.data["status"] == "cancelled"]
        assert ends == ["cancelled"]
        assert job.run().status == "cancelled"

    @ON_BOTH
    def test_cancel_against_claim(self, client: httpx.Client, database: Database) -> None:
        """Whoever comes first: the run is cancelled, or it is held and to be cancelled; never both, never neither."""
        for _ in range(5):
            job = scene(database, create(client, seeds=[0]))

            def claim(job: Scene = job) -> object:
                with database.writing() as session:
                    return jobs.claim(
                        session, worker_id="w", queues=["default"], devices=workers.takes("cpu"), lease_seconds=LEASE
                    )

            with ThreadPoolExecutor(2) as pool:
                claimed, answer = pool.submit(claim), pool.submit(act, client, job.run_id, "cancel")
                won, status = claimed.result(), answer.result().json()["status"]
            assert (status, won is None) in {("cancelled", True), ("cancelling", False)}
            assert job.run().status == status


class TestResume:
    def pause(self, client: httpx.Client, job: Scene, attempt: int, run_ids: tuple[str, ...]) -> None:
        state = StateFolder(f"jobs/{job.job_id}/a{attempt}/500", 500, run_ids)
        for run_id in run_ids:
            assert act(client, run_id, "pause").status_code == 202
        for run_id in run_ids:
            job.finish(attempt, "paused", run_id, resume_state=state)

    @ON_BOTH
    def test_one_run_out_of_a_pack_goes_on_in_a_job_of_its_own(
        self, client: httpx.Client, job: Scene, bells: Bells
    ) -> None:
        attempt = job.begin()
        self.pause(client, job, attempt, job.run_ids[:1])
        bells.rung.clear()
        answer = act(client, job.run_id, "resume")
        assert answer.status_code == 200
        assert (answer.json()["status"], answer.json()["desired"]) == ("queued", "run")
        assert bells.rung == ["default"]
        fresh = Scene(job.database, job.experiment_id, job.run().job_id, job.run_ids[:1])
        assert fresh.job_id != job.job_id
        won = fresh.claim("worker_b")
        assert won.resume is not None
        assert (won.resume.env_steps, won.resume.run_ids) == (500, job.run_ids[:1])
        assert won.attempt == attempt + 1, "attempts of a run never repeat"
        assert job.statuses() == ["starting", "running"]
        attempts = client.get(f"/v1/runs/{job.run_id}/attempts").json()["data"]
        assert [row["attempt"] for row in attempts] == [1, 2]

    def test_only_runs_paused_at_one_state_go_on_together(self, client: httpx.Client, job: Scene) -> None:
        job.claim()
        pack = make(job.database, seeds=(0, 1, 2))
        attempt = pack.begin()
        first, between, last = pack.run_ids
        self.pause(client, pack, attempt, (first, last))
        act(client, between, "pause")
        state = StateFolder(f"jobs/{pack.job_id}/a{attempt}/600", 600, (between,))
        pack.finish(attempt, "paused", between, resume_state=state)
        assert client.post(f"/v1/experiments/{pack.experiment_id}/resume").status_code == 200
        jobs_of = [pack.run(run_id).job_id for run_id in (first, between, last)]
        assert jobs_of[0] == jobs_of[2] != jobs_of[1]

    @ON_BOTH
    def test_runs_paused_together_go_on_together(self, client: httpx.Client, job: Scene) -> None:
        attempt = job.begin()
        self.pause(client, job, attempt, job.run_ids)
        assert job.job().status == "ended"
        answer = client.post(f"/v1/experiments/{job.experiment_id}/resume")
        assert answer.status_code == 200
        fresh = Scene(job.database, job.experiment_id, job.run().job_id, job.run_ids)
        won = fresh.claim()
        assert tuple(run_id for run_id, _ in won.runs) == job.run_ids
        assert won.resume is not None
        assert won.attempt == attempt + 1

    @ON_BOTH
    def test_twice_at_once_makes_one_job(self, client: httpx.Client, job: Scene) -> None:
        act(client, job.run_id, "pause")
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: act(client, job.run_id, "resume").status_code, range(4)))
        assert sorted(answers) == [200, 409, 409, 409]
        with job.database.reading() as session:
            assert len(session.scalars(select(Job.id).where(Job.experiment_id == job.experiment_id)).all()) == 2

    def test_paused_before_it_began(self, client: httpx.Client, job: Scene) -> None:
        act(client, job.run_id, "pause")
        assert act(client, job.run_id, "resume").json()["status"] == "queued"
        fresh = Scene(job.database, job.experiment_id, job.run().job_id, job.run_ids[:1])
        job.claim()
        assert fresh.claim().resume is None


class TestHistory:
    @ON_BOTH
    def test_events_in_pages(self, client: httpx.Client, job: Scene) -> None:
        attempt = job.begin()
        job.checkpoint(attempt, 100)
        job.finish(attempt, "succeeded")
        everything = client.get(f"/v1/runs/{job.run_id}/events").json()
        assert [row["id"] for row in everything["data"]] == [1, 2, 3, 4, 5]
        assert [row["type"] for row in everything["data"]] == ["status"] * 3 + ["checkpoint", "status"]
        page = client.get(f"/v1/runs/{job.run_id}/events?limit=2&after=2").json()
        assert [row["id"] for row in page["data"]] == [3, 4]
        assert page["has_more"] is True
        assert client.get(f"/v1/runs/{job.run_id}/events?after=5").json() == {"data": [], "has_more": False}

    @ON_BOTH
    def test_logs_in_pages(self, client: httpx.Client, job: Scene) -> None:
        attempt = job.begin()
        with job.database.writing() as session:
            logs.append(session, job.job_id, attempt, [("stdout", f"line {number}") for number in range(5)])
        seen: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = client.get(f"/v1/runs/{job.run_id}/logs", params={"limit": 2} | after).json()
            seen += [row["text"] for row in page["data"]]
            if not page["has_more"]:
                break
            after = {"after": page["data"][-1]["id"]}
        assert seen == [f"line {number}" for number in range(5)]

    @pytest.mark.parametrize("after", ["x", "1", "1.", "-1.2", "1.2.3", "1." + "9" * 30, "%00", "１.１"])
    def test_odd_log_cursors(self, client: httpx.Client, job: Scene, after: str) -> None:
        assert_problem(client.get(f"/v1/runs/{job.run_id}/logs?after={after}"), 422)

    @pytest.mark.parametrize("after", ["x", "-1", str(2**63), "1.5", "9" * 5000])
    def test_odd_event_cursors(self, client: httpx.Client, job: Scene, after: str) -> None:
        assert_problem(client.get(f"/v1/runs/{job.run_id}/events?after={after}"), 422)

    def test_attempts_say_how_they_ended(self, client: httpx.Client, job: Scene) -> None:
        attempt = job.begin()
        with job.database.writing() as session:
            jobs.release(
                session, job_id=job.job_id, attempt=attempt, outcome="crashed", code="killed", message="out of memory?"
            )
        job.begin()
        first, second = client.get(f"/v1/runs/{job.run_id}/attempts").json()["data"]
        assert (first["outcome"], first["reason"]) == ("crashed", {"code": "killed", "message": "out of memory?"})
        assert first["ended_at"] >= first["started_at"]
        assert (second["attempt"], second["outcome"], second["ended_at"]) == (2, None, None)
        assert second["facts"] == {"threads": 1}

    def test_of_nothing(self, client: httpx.Client) -> None:
        for part in ("events", "logs", "attempts", "checkpoints", "metrics", "series?key=x", "stream"):
            assert_problem(client.get(f"/v1/runs/run_nope/{part}"), 404)


def test_every_state_says_what_it_allows() -> None:
    from app.db.states import TRANSITIONS
    from app.services.runs import ALLOWED

    assert ALLOWED.keys() == TRANSITIONS.keys()
    targets = {
        "cancel": {"cancelling", "cancelled"},
        "kill": {"cancelling", "cancelled"},
        "pause": {"pausing", "paused"},
    }
    for state, actions in ALLOWED.items():
        for action in actions:
            reached = targets.get(action, {"queued"})
            assert reached & (TRANSITIONS[state] | {state}), (state, action)
