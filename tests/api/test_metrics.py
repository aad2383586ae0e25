"""Metrics: newest values and bounded series."""

import math

import httpx
import numpy as np
import pytest

from app.db.engine import Database
from tests.api.conftest import ON_BOTH
from tests.api.helpers import assert_problem, create, scene
from tests.db.scene import Scene, points

KEY = "train/episode_return"


@pytest.fixture
def job(client: httpx.Client, database: Database) -> Scene:
    return scene(database, create(client))


@ON_BOTH
def test_latest(client: httpx.Client, job: Scene) -> None:
    attempt = job.begin()
    job.flush(attempt, {KEY: points(1, 10), "losses/policy": points(3, 4)})
    job.flush(attempt, {KEY: points(11, 12)})
    rows = client.get(f"/v1/runs/{job.run_id}/metrics").json()["data"]
    assert [(row["key"], row["points"]) for row in rows] == [("losses/policy", 2), (KEY, 12)]
    assert rows[1]["latest"]["step"] == 12
    assert rows[1]["latest"]["value"] == 12.0
    assert rows[1]["latest"]["time"].endswith("Z")
    assert rows[1]["nonfinite"] == 0


class TestSeries:
    def read(self, client: httpx.Client, job: Scene, **params: object) -> dict[str, object]:
        answer = client.get(f"/v1/runs/{job.run_id}/series", params={"key": KEY} | params)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        body: dict[str, object] = answer.json()
        return body

    @ON_BOTH
    def test_whole(self, client: httpx.Client, job: Scene) -> None:
        attempt = job.begin()
        job.flush(attempt, {KEY: points(1, 3)})
        job.flush(attempt, {KEY: points(4, 5)})
        assert self.read(client, job) == {
            "run_id": job.run_id,
            "key": KEY,
            "x": "env_steps",
            "sampled": False,
            "points": 5,
            "nonfinite": 0,
            "step": [1, 2, 3, 4, 5],
            "value": [1.0, 2.0, 3.0, 4.0, 5.0],
            "min": [1.0, 2.0, 3.0, 4.0, 5.0],
            "max": [1.0, 2.0, 3.0, 4.0, 5.0],
        }

    @pytest.mark.parametrize("max_points", [3, 4, 7, 100, 999])
    def test_in_buckets(self, client: httpx.Client, job: Scene, max_points: int) -> None:
        job.flush(job.begin(), {KEY: points(1, 1000)})
        series = self.read(client, job, max_points=max_points)
        steps, low, mean, high = (np.array(series[name]) for name in ("step", "min", "value", "max"))
        assert series["sampled"] is True
        assert 0 < len(steps) <= max_points
        assert np.all(np.diff(steps) > 0)
        assert np.all(low <= mean) and np.all(mean <= high)
        assert (steps[0], mean[0], steps[-1], mean[-1]) == (1, 1.0, 1000, 1000.0)

    def test_nonfinite_values_are_null_and_counted(self, client: httpx.Client, job: Scene) -> None:
        steps = np.arange(1, 5, dtype=np.int64)
        values = np.array([1.0, math.nan, math.inf, 4.0])
        job.flush(job.begin(), {KEY: (steps, values, steps.astype(float))})
        series = self.read(client, job)
        assert series["value"] == [1.0, None, None, 4.0]
        assert series["nonfinite"] == 2

    def test_unknown_key_suggests(self, client: httpx.Client, job: Scene) -> None:
        job.flush(job.begin(), {KEY: points(1, 3)})
        problem = assert_problem(client.get(f"/v1/runs/{job.run_id}/series?key=train/episode_retrun"), 404)
        assert KEY in problem["detail"]

    @pytest.mark.parametrize(
        "query",
        ["", "key=", "key=a&max_points=2", "key=a&max_points=100001", "key=%00", "key=" + "x" * 201, "key=a&b=c"],
    )
    def test_odd_queries(self, client: httpx.Client, job: Scene, query: str) -> None:
        assert_problem(client.get(f"/v1/runs/{job.run_id}/series?{query}"), 422)
