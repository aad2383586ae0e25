"""The action route through the whole service: gate, limits, store, sampling, problems."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from app.main import create_app
from app.middleware import ASGIApp
from app.schemas.environments import DiscreteSpace
from app.serving import asgi
from app.serving.policy import Policy
from app.settings import Settings
from tests.serving.bundles import Service, box, linear_graph, manifest, table_graph

KEY = "u7Lq29fPz0aXw3Rt6Kd8"
LEANING_LEFT, LEANING_RIGHT = [0.0, 0.0, -0.1, 0.0], [0.0, 0.0, 0.1, 0.0]
LOGITS = np.array([[0, 0], [0, 0], [-1, 1], [0, 0]])


@pytest.fixture
def app(service: Service) -> ASGIApp:
    url = str(service.database.engine.url)
    root = service.root.parent
    return create_app(Settings(data_dir=root, database_url=url, artifacts_dir=service.root, api_key=KEY))


@asynccontextmanager
async def connected(app: ASGIApp, key: str = KEY) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        yield client


def post(app: ASGIApp, run_id: str, body: Any, *, key: str = KEY) -> httpx.Response:
    """The answer to one request."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def once() -> httpx.Response:
        async with connected(app, key) as client:
            return await client.post(f"/v1/runs/{run_id}/actions", content=content)

    return asyncio.run(once())


def pointers(response: httpx.Response, status: int) -> list[str]:
    """Where a problem points."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status and problem["title"] and "Traceback" not in response.text
    return [error["pointer"] for error in problem["errors"]]


class TestAnswers:
    def test_one_observation(self, app: ASGIApp, cartpole: str) -> None:
        answers = [post(app, cartpole, {"observation": x}).json() for x in (LEANING_LEFT, LEANING_RIGHT)]
        assert [answer["action"] for answer in answers] == [0, 1]
        assert answers[0]["checkpoint_id"].startswith("ckpt_") and len(answers[0]) == 2

    def test_integers(self, app: ASGIApp, service: Service) -> None:
        run_id = service.run()
        bundle = manifest(algorithm="q_learning", observation=DiscreteSpace(n=3), distribution="epsilon_greedy")
        service.checkpoint(run_id, bundle, table_graph(np.array([[0, 1], [1, 0], [0, 2]])), kind="best")
        assert post(app, run_id, {"observation": 1}).json()["action"] == 0
        assert post(app, run_id, {"observations": [0, 1, 2]}).json()["actions"] == [1, 0, 1]
        assert pointers(post(app, run_id, {"observation": 3}), 422) == ["/observation"]
        assert pointers(post(app, run_id, {"observations": [0, 1.0]}), 422) == ["/observations/1"]

    def test_a_batch_and_a_named_checkpoint(self, app: ASGIApp, cartpole: str) -> None:
        body: dict[str, Any] = {"observations": [LEANING_LEFT, LEANING_RIGHT, LEANING_LEFT]}
        answer = post(app, cartpole, body).json()
        assert answer["actions"] == [0, 1, 0]
        assert post(app, cartpole, body | {"checkpoint": answer["checkpoint_id"]}).json() == answer

    def test_samples(self, app: ASGIApp, cartpole: str) -> None:
        body: dict[str, Any] = {"observations": [[0.0] * 4] * 100, "deterministic": False}
        first, second, other, unseeded = (
            post(app, cartpole, body | seed).json()["actions"] for seed in ({"seed": 1}, {"seed": 1}, {"seed": 2}, {})
        )
        assert first == second
        assert 20 < sum(first) < 80
        assert first != other != unseeded != first

    def test_box_actions(self, app: ASGIApp, service: Service) -> None:
        action = box(2).model_copy(update={"low": (-1.0, None), "high": (1.0, None)})
        bundle = manifest(action=action, distribution="gaussian")
        weight = np.eye(4)[:, :2]
        run_id = service.run()
        service.checkpoint(run_id, bundle, linear_graph(bundle, mean=weight, log_std=weight * 0))
        assert post(app, run_id, {"observation": [3.5, -7.25, 0, 0]}).json()["action"] == [1.0, -7.25]
        assert post(app, run_id, {"observations": [[0.5, 2, 0, 0]]}).json()["actions"] == [[0.5, 2.0]]

    def test_images(self, app: ASGIApp, service: Service) -> None:
        bundle = manifest(observation=box(2, 2, 1, dtype="uint8"))
        run_id = service.run()
        service.checkpoint(run_id, bundle, linear_graph(bundle, logits=np.eye(4)[:, :2]))
        assert post(app, run_id, {"observation": [[[1], [2]], [[3], [4]]]}).json()["action"] == 1
        assert pointers(post(app, run_id, {"observation": [[[1], [256]], [[3], [4]]]}), 422) == ["/observation/0/1/0"]

    def test_a_better_checkpoint_takes_over(self, app: ASGIApp, service: Service, cartpole: str) -> None:
        async def until_it_changes() -> None:
            async with connected(app) as client:
                path, body = f"/v1/runs/{cartpole}/actions", {"observation": LEANING_LEFT}
                assert (await client.post(path, json=body)).json()["action"] == 0
                bundle = manifest()
                service.checkpoint(cartpole, bundle, linear_graph(bundle, logits=-LOGITS), kind="best", env_steps=20)
                while (await client.post(path, json=body)).json()["action"] == 0:
                    await asyncio.sleep(0.05)

        asyncio.run(asyncio.wait_for(until_it_changes(), 30))


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "where"),
        [
            (b'{"observation": [NaN, 0, 0, 0]}', [""]),
            ({"observation": [0.0]}, ["/observation"]),
            ({"observation": ["a", 0, 0, 0]}, ["/observation/0"]),
            ({"observations": [LEANING_LEFT, [0]]}, ["/observations/1"]),
            ({"observations": []}, ["/observations"]),
            ({"observation": LEANING_LEFT, "sed": 1}, ["/sed"]),
        ],
    )
    def test_what_is_wrong_is_a_422(self, app: ASGIApp, cartpole: str, body: Any, where: list[str]) -> None:
        assert pointers(post(app, cartpole, body), 422) == where

    def test_unknown_runs_and_checkpoints(self, app: ASGIApp, service: Service, cartpole: str) -> None:
        body = {"observation": LEANING_LEFT}
        assert pointers(post(app, "run_0", body), 404) == []
        assert pointers(post(app, cartpole, body | {"checkpoint": "ckpt_0"}), 404) == ["/checkpoint"]
        assert pointers(post(app, cartpole, body | {"checkpoint": "final"}), 409) == ["/checkpoint"]
        assert pointers(post(app, service.run(), body), 409) == ["/checkpoint"]

    def test_a_damaged_bundle(self, app: ASGIApp, service: Service) -> None:
        run_id = service.run()
        service.checkpoint(run_id, manifest(), b"no graph")
        answer = post(app, run_id, {"observation": LEANING_LEFT})
        assert pointers(answer, 500) == [] and "retry-after" not in answer.headers
        assert answer.json()["type"].endswith(":damaged") and "cannot be served" in answer.json()["detail"]

    def test_no_key(self, app: ASGIApp, cartpole: str) -> None:
        assert pointers(post(app, cartpole, {"observation": LEANING_LEFT}, key="wrong"), 401) == []

    def test_a_database_that_cannot_be_read(self, app: ASGIApp, service: Service, cartpole: str) -> None:
        with service.database.writing() as session:
            session.connection().exec_driver_sql("ALTER TABLE runs RENAME TO walks")
        answer = post(app, cartpole, {"observation": LEANING_LEFT})
        assert pointers(answer, 503) == [] and answer.headers["retry-after"] == "1"


class TestSlowPolicies:
    @pytest.fixture(autouse=True)
    def all_are_slow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(asgi, "INLINE_SECONDS", 0.0)

    def test_they_run_in_a_thread(self, app: ASGIApp, cartpole: str) -> None:
        assert post(app, cartpole, {"observation": LEANING_RIGHT}).json()["action"] == 1

    def test_beyond_the_backlog_is_a_503(
        self, app: ASGIApp, service: Service, cartpole: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All requests wait for inferences that take long; the event loop answers the rest at once."""
        release = threading.Event()
        act = Policy.act

        def held(self: Policy, *args: Any, **options: Any) -> Any:
            release.wait()
            return act(self, *args, **options)

        async def crowd() -> list[httpx.Response]:
            async with connected(app) as client:
                path, body = f"/v1/runs/{cartpole}/actions", {"observation": LEANING_RIGHT}
                await client.post(path, json=body)
                monkeypatch.setattr(Policy, "act", held)
                asked = [asyncio.create_task(client.post(path, json=body)) for _ in range(200)]
                done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                assert all(task.result().status_code == 503 for task in done)
                release.set()
                return await asyncio.gather(*asked)

        answers = asyncio.run(crowd())
        refused = [answer for answer in answers if answer.status_code != 200]
        assert 0 < len(refused) < 200
        assert all(pointers(answer, 503) == [] and answer.headers["retry-after"] == "1" for answer in refused)
        assert all(answer.json()["action"] == 1 for answer in answers if answer.status_code == 200)
