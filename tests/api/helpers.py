"""Short ways to say what many tests say."""

from collections.abc import Sequence
from typing import Any

import httpx

from app.db.engine import Database
from app.db.repositories import runs
from tests.db.scene import Scene


def spec(**changes: Any) -> dict[str, Any]:
    """A small valid spec."""
    base = {
        "name": "a test",
        "environment": {"id": "CartPole-v1", "num_envs": 8},
        "algorithm": {"name": "ppo"},
        "training": {"total_env_steps": 1000},
        "seeds": [0, 1],
    }
    return base | changes


def create(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    """An experiment."""
    answer = client.post("/v1/experiments", json=spec(**changes))
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def scene(database: Database, experiment: dict[str, Any], *, runs_of: Sequence[int] | None = None) -> Scene:
    """What a worker does to an experiment's first job, or to the job of the runs at these positions."""
    chosen = [experiment["runs"][position]["id"] for position in runs_of or range(len(experiment["runs"]))]
    with database.reading() as session:
        row = runs.get(session, chosen[0])
    assert row is not None
    return Scene(database, experiment["id"], row.job_id, tuple(chosen))


def assert_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The answer is a problem with this status, and gives nothing away."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:trainyard:problem:")
    assert body["title"]
    assert body["detail"]
    assert "Traceback" not in answer.text
    for error in body["errors"]:
        assert error["pointer"] == "" or error["pointer"].startswith("/")
        assert error["message"]
    return body


def pointers(problem: dict[str, Any]) -> set[str]:
    """Where a problem points."""
    return {error["pointer"] for error in problem["errors"]}
