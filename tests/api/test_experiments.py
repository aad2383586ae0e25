"""Experiments: created, listed, read, and acted on through their runs."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from app.db.engine import Database
from app.db.repositories import runs
from tests.api.conftest import ON_BOTH, Bells
from tests.api.helpers import assert_problem, create, scene, spec


def statuses(client: httpx.Client, experiment: dict[str, Any]) -> list[str]:
    return [run["status"] for run in client.get(f"/v1/experiments/{experiment['id']}").json()["runs"]]


class TestCreate:
    @ON_BOTH
    def test_answers_with_the_resolved_spec(self, client: httpx.Client) -> None:
        answer = client.post("/v1/experiments", json=spec(tags={"team": "robotics", "ünï": "☃"}))
        assert answer.status_code == 201
        body = answer.json()
        assert answer.headers["location"] == f"/v1/experiments/{body['id']}"
        assert body["id"].startswith("exp_")
        assert body["status"] == "queued"
        assert body["spec"]["algorithm"]["learning_rate"] > 0
        assert body["spec"]["training"]["checkpoint_every"] == 1000
        assert body["spec_hash"].startswith("sha256:")
        assert [(run["seed"], run["status"]) for run in body["runs"]] == [(0, "queued"), (1, "queued")]
        assert body["tags"] == {"team": "robotics", "ünï": "☃"}
        assert body["created_at"].endswith("Z")
        assert client.get(answer.headers["location"]).json() == body

    @pytest.mark.parametrize(("total", "every"), [(20_000, 6_400), (5_000, 5_000), (100_000, 10_000)])
    def test_episodes_end_between_checkpoints(self, client: httpx.Client, total: int, every: int) -> None:
        pendulum = {"id": "Pendulum-v1", "num_envs": 16}  # its episodes have 200 steps
        experiment = create(client, environment=pendulum, training={"total_env_steps": total})
        assert experiment["spec"]["training"]["checkpoint_every"] == every

    def test_needs_only_environment_and_algorithm(self, client: httpx.Client) -> None:
        body = {"environment": {"id": "CartPole-v1"}, "algorithm": {"name": "dqn"}}
        answer = client.post("/v1/experiments", json=body).json()
        assert answer["name"] == "dqn on CartPole-v1"
        assert len(answer["runs"]) == 1

    @pytest.mark.parametrize(("pack", "jobs"), [(1, 5), (2, 3), (5, 1), (64, 1)])
    def test_makes_a_job_per_pack_and_rings_for_each(
        self, client: httpx.Client, database: Database, bells: Bells, pack: int, jobs: int
    ) -> None:
        experiment = create(client, seeds=[4, 3, 2, 1, 0], resources={"pack": pack, "queue": "fast"})
        with database.reading() as session:
            rows = runs.of_experiments(session, [experiment["id"]])
        assert [row.seed for row in rows] == [4, 3, 2, 1, 0]
        assert len({row.job_id for row in rows}) == jobs
        assert bells.rung == ["fast"] * jobs

    def test_does_not_need_the_broker(self, client: httpx.Client, bells: Bells) -> None:
        bells.broken = True
        create(client, seeds=list(range(10)), resources={"pack": 1})
        assert len(bells.rung) == 1, "a broker that is away is asked once"

    def test_waits_until_all_runs_have_ended(self, client: httpx.Client) -> None:
        answer = client.post("/v1/experiments", json=spec(), headers={"Prefer": "respond-async, wait=1"})
        assert answer.status_code == 201
        assert answer.headers["preference-applied"] == "wait=1"


class TestIdempotency:
    @ON_BOTH
    def test_same_key_and_body_give_the_same_answer(self, client: httpx.Client, bells: Bells) -> None:
        headers = {"Idempotency-Key": "one"}
        first = client.post("/v1/experiments", json=spec(), headers=headers)
        client.post(f"/v1/experiments/{first.json()['id']}/cancel")
        again = client.post("/v1/experiments", json=dict(reversed(spec().items())), headers=headers)
        assert again.status_code == first.status_code
        assert again.json() == first.json()
        assert again.headers["location"] == first.headers["location"]
        assert again.headers["idempotency-replayed"] == "true"
        assert len(client.get("/v1/experiments").json()["data"]) == 1
        assert len(bells.rung) == 1

    def test_other_body_is_refused(self, client: httpx.Client) -> None:
        headers = {"Idempotency-Key": "one"}
        client.post("/v1/experiments", json=spec(), headers=headers)
        assert_problem(client.post("/v1/experiments", json=spec(seeds=[9]), headers=headers), 422)

    def test_a_refused_request_leaves_the_key_free(self, client: httpx.Client) -> None:
        headers = {"Idempotency-Key": "one"}
        assert_problem(client.post("/v1/experiments", json=spec(seeds=[1, 1]), headers=headers), 422)
        assert client.post("/v1/experiments", json=spec(), headers=headers).status_code == 201

    @ON_BOTH
    def test_concurrent_requests_create_one(self, client: httpx.Client, bells: Bells) -> None:
        def send(_: int) -> httpx.Response:
            return client.post("/v1/experiments", json=spec(), headers={"Idempotency-Key": "one"})

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(send, range(16)))
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.text for answer in answers}) == 1
        assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
        assert len(client.get("/v1/runs").json()["data"]) == 2
        assert len(bells.rung) == 1

    @pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "ü"])
    def test_odd_keys_are_refused(self, client: httpx.Client, key: str) -> None:
        assert_problem(client.post("/v1/experiments", json=spec(), headers={"Idempotency-Key": key.encode()}), 422)


class TestStatus:
    def test_follows_from_the_runs(self, client: httpx.Client, database: Database) -> None:
        experiment = create(client)
        path = f"/v1/experiments/{experiment['id']}"
        job = scene(database, experiment)
        attempt = job.begin()
        assert client.get(path).json()["status"] == "running"
        job.finish(attempt, "succeeded", job.run_ids[0])
        assert client.get(path).json()["status"] == "running"
        job.finish(attempt, "cancelled", job.run_ids[1])
        assert client.get(path).json()["status"] == "succeeded"

    @pytest.mark.parametrize(
        ("first", "second", "status"),
        [
            ("succeeded", "failed", "failed"),
            ("cancelled", "failed", "failed"),
            ("cancelled", "cancelled", "cancelled"),
            ("succeeded", "paused", "running"),
        ],
    )
    def test_of_ended_runs(
        self, client: httpx.Client, database: Database, first: str, second: str, status: str
    ) -> None:
        experiment = create(client)
        job = scene(database, experiment)
        attempt = job.begin()
        job.finish(attempt, first, job.run_ids[0])
        job.finish(attempt, second, job.run_ids[1])
        assert client.get(f"/v1/experiments/{experiment['id']}").json()["status"] == status


class TestActions:
    @ON_BOTH
    def test_cancel_settles_what_is_queued(self, client: httpx.Client) -> None:
        experiment = create(client, seeds=[0, 1, 2], resources={"pack": 2})
        answer = client.post(f"/v1/experiments/{experiment['id']}/cancel")
        assert answer.status_code == 200
        assert answer.json()["status"] == "cancelled"
        assert statuses(client, experiment) == ["cancelled"] * 3
        (error,) = assert_problem(client.post(f"/v1/experiments/{experiment['id']}/cancel"), 409)["errors"]
        assert error == {"pointer": "/status", "message": "runs are cancelled", "allowed": []}

    def test_cancel_asks_trainers(self, client: httpx.Client, database: Database) -> None:
        experiment = create(client, seeds=[0, 1, 2], resources={"pack": 2})
        job = scene(database, experiment, runs_of=[0, 1])
        attempt = job.begin()
        job.finish(attempt, "succeeded", job.run_ids[0])
        client.post(f"/v1/experiments/{experiment['id']}/cancel")
        assert statuses(client, experiment) == ["succeeded", "cancelling", "cancelled"]
        assert job.run(job.run_ids[1]).desired == "cancel"

    def test_pause_and_resume(self, client: httpx.Client, bells: Bells) -> None:
        experiment = create(client, seeds=[0, 1, 2], resources={"pack": 2})
        path = f"/v1/experiments/{experiment['id']}"
        (error,) = assert_problem(client.post(f"{path}/resume"), 409)["errors"]
        assert error["allowed"] == ["cancel", "pause"]
        client.post(f"{path}/pause")
        assert statuses(client, experiment) == ["paused"] * 3
        bells.rung.clear()
        client.post(f"{path}/resume")
        assert statuses(client, experiment) == ["queued"] * 3
        assert len(bells.rung) == 2, "runs that were paused in one job go on in one job"

    @pytest.mark.parametrize("action", ["cancel", "pause", "resume"])
    def test_of_nothing(self, client: httpx.Client, action: str) -> None:
        assert_problem(client.post(f"/v1/experiments/exp_nope/{action}"), 404)


class TestList:
    @ON_BOTH
    def test_pages_newest_first(self, client: httpx.Client) -> None:
        made = [create(client, name=f"number {number}")["id"] for number in range(5)]
        seen: list[str] = []
        page: dict[str, Any] = {"has_more": True}
        while page["has_more"]:
            params = {"limit": 2} | ({"after": seen[-1]} if seen else {})
            page = client.get("/v1/experiments", params=params).json()
            seen += [row["id"] for row in page["data"]]
        assert seen == made[::-1]

    def test_by_name(self, client: httpx.Client) -> None:
        create(client, name="a")
        chosen = create(client, name="b")
        assert [row["id"] for row in client.get("/v1/experiments?name=b").json()["data"]] == [chosen["id"]]

    @pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "after=x'y", "offset=3", "limit=1&limit=x"])
    def test_odd_queries(self, client: httpx.Client, query: str) -> None:
        assert_problem(client.get(f"/v1/experiments?{query}"), 422)
