import hashlib
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainyard.conftest import SPEC
from trainyard import Client, Problem, ServiceUnreachable, TrainyardError

FIELD = {"pointer": "/seeds", "message": "is empty"}
OBSERVATION = [0.0, 0.1, 0.02, -0.1]


class TestAddresses:
    @pytest.mark.parametrize(
        "url", ["nonsense", "", "http://", "127.0.0.1:8000", "ftp://there", "http://[::1", "http://there:99999"]
    )
    def test_urls(self, url: str) -> None:
        with pytest.raises(TrainyardError, match="is not the URL of a service") as caught:
            Client(url)
        assert not isinstance(caught.value, ServiceUnreachable)

    @pytest.mark.parametrize("key", ["two words", "line\n", "schlüssel"])
    def test_keys(self, key: str) -> None:
        with pytest.raises(TrainyardError, match="the API key is not one") as caught:
            Client(key=key)
        assert key not in str(caught.value)


class TestProblems:
    def test_what_the_errors_say_is_said_once(self) -> None:
        body = {"title": "Invalid request", "detail": "/seeds: is empty", "errors": [FIELD]}
        assert str(Problem(422, body)) == "422 Invalid request\n  /seeds: is empty"

    def test_a_detail_of_its_own_is_kept(self) -> None:
        body = {"title": "Conflict", "detail": "it is final", "errors": [FIELD]}
        assert str(Problem(409, body)) == "409 Conflict: it is final\n  /seeds: is empty"
        assert str(Problem(404, {"title": "Not found", "detail": "no run"})) == "404 Not found: no run"

    def test_an_error_of_the_whole_body_has_no_pointer(self) -> None:
        errors = [{"pointer": "", "message": "not valid JSON"}]
        assert str(Problem(422, {"title": "Invalid", "errors": errors})) == "422 Invalid\n  not valid JSON"


class TestExperiments:
    def test_the_same_key_gives_the_same_one(self, client: Client) -> None:
        key = uuid.uuid4().hex
        first, second = (client.create(SPEC, idempotency_key=key) for _ in range(2))
        assert first["id"] == second["id"]
        client.cancel_experiment(first["id"])

    def test_they_are_listed_newest_first(self, client: Client, trained: dict[str, Any]) -> None:
        listed = [experiment["id"] for experiment in client.experiments(limit=100)["data"]]
        assert trained["id"] in listed
        assert listed == sorted(listed, reverse=True)
        assert trained in client.experiments(name=trained["name"], limit=100)["data"]
        assert client.experiments(name="of nobody")["data"] == []

    def test_a_refusal_names_the_field(self, client: Client) -> None:
        with pytest.raises(Problem) as caught:
            client.create(SPEC | {"environment": {"id": "CartPol-v1"}})
        assert caught.value.status == 422
        assert caught.value.errors[0]["pointer"] == "/environment/id"
        assert "did you mean CartPole-v1?" in str(caught.value)


class TestRuns:
    def test_streams_end_with_done_and_can_be_resumed(self, client: Client, trained: dict[str, Any]) -> None:
        run = trained["runs"][0]["id"]
        events = list(client.stream(run))
        assert events[-1].type == "done"
        assert {"status", "metrics", "evaluation", "checkpoint"} <= {event.type for event in events}
        numbered = [event.id for event in events if event.id]
        later = [event.id for event in client.stream(run, last_event_id=numbered[1]) if event.id]
        assert later == numbered[2:]

    def test_a_run_that_is_not_there(self, client: Client) -> None:
        with pytest.raises(Problem, match="404"):
            list(client.stream("run_nope"))

    def test_metrics_and_series(self, client: Client, trained: dict[str, Any]) -> None:
        run = trained["runs"][1]["id"]
        assert "evaluation/return_mean" in {row["key"] for row in client.metrics(run)["data"]}
        series = client.series(run, "evaluation/return_mean", max_points=10)
        assert series["step"] == sorted(set(series["step"]))

    def test_attempts(self, client: Client, trained: dict[str, Any]) -> None:
        (attempt,) = client.attempts(trained["runs"][0]["id"])["data"]
        assert attempt["outcome"] == "done"
        assert attempt["facts"]["threads"] >= 1

    def test_lists_filter(self, client: Client, trained: dict[str, Any]) -> None:
        runs = client.runs(experiment_id=trained["id"], status="succeeded")["data"]
        assert {run["id"] for run in runs} == {run["id"] for run in trained["runs"]}

    def test_steering(self, client: Client) -> None:
        experiment = client.create(SPEC | {"training": {"total_env_steps": 10**9}, "seeds": [0]})
        run = experiment["runs"][0]["id"]
        client.act_on(run, "kill")
        ended = client.wait(run)
        assert (ended["status"], ended["reason"]["code"]) == ("cancelled", "killed")
        with pytest.raises(Problem) as caught:
            client.act_on(run, "resume")
        assert caught.value.status == 409


class TestPolicies:
    def test_a_policy_is_a_function(self, client: Client, trained: dict[str, Any]) -> None:
        policy = client.policy(trained["runs"][0]["id"])
        assert policy(OBSERVATION) in (0, 1)
        assert policy(np.array(OBSERVATION)) == policy(OBSERVATION)
        assert policy.batch([OBSERVATION] * 3) == [policy(OBSERVATION)] * 3
        with pytest.raises(Problem) as caught:
            policy([0.0, None, 0.0, 0.0])
        assert caught.value.errors[0]["pointer"] == "/observation/1", "of the one that was given"

    @pytest.mark.parametrize("value", [float("nan"), float("-inf"), np.float32(0)])
    def test_what_json_cannot_say_is_refused(self, client: Client, value: float) -> None:
        with pytest.raises(TrainyardError, match="cannot be sent as JSON"):
            client.policy("run_1")([0.0, 0.1, 0.02, value])

    def test_samples_follow_the_seed(self, client: Client, trained: dict[str, Any]) -> None:
        run, batch = trained["runs"][0]["id"], [[0.0] * 4] * 32
        first, second = (client.actions(run, batch, deterministic=False, seed=7) for _ in range(2))
        assert first == second

    def test_files_have_the_digest_they_claim(self, client: Client, trained: dict[str, Any], tmp_path: Path) -> None:
        checkpoint = client.checkpoints(trained["runs"][0]["id"])["data"][0]
        for file in checkpoint["files"]:
            client.download(checkpoint["id"], file["name"], tmp_path / "file")
            assert hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest() == file["sha256"]
        with pytest.raises(Problem, match="404"):
            client.download(checkpoint["id"], "nothing", tmp_path / "file")


class TestImpostors:
    def test_half_a_file_is_no_file(self, impostor: Callable[..., Client], tmp_path: Path) -> None:
        client = impostor(b"half", "application/octet-stream", missing=4)
        (tmp_path / "file").write_bytes(b"before")
        with pytest.raises(ServiceUnreachable, match="did not send all of"):
            client.download("ckpt_1", "policy.onnx", tmp_path / "file")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]

    def test_a_file_that_is_not_what_its_digest_says(self, impostor: Callable[..., Client], tmp_path: Path) -> None:
        with pytest.raises(TrainyardError, match="is damaged"):
            impostor(b"other", "application/octet-stream").download("ckpt_1", "policy.onnx", tmp_path / "file")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("body", [b"<html>", b"[1]", b'"\xff"'])
    def test_another_service(self, impostor: Callable[..., Client], body: bytes) -> None:
        with pytest.raises(TrainyardError, match="something else"):
            impostor(body).runs()
        with pytest.raises(Problem, match="502 Bad Gateway"):
            impostor(body, status=502).runs()


class TestRestarts:
    def test_a_stream_is_taken_up_where_it_broke(self, restarting: Callable[..., Client]) -> None:
        cut = b'id: 1\nevent: status\ndata: {"status": "running"}\n\nid: 2\nevent: st'
        rest = b'id: 2\nevent: status\ndata: {"status": "failed"}\n\nevent: done\ndata: {}\n\n'
        seen: list[str | None] = []
        events = list(restarting((200, cut), (503, b"starting"), (200, rest), seen=seen).stream("run_1"))
        assert [(event.id, event.type) for event in events] == [("1", "status"), ("2", "status"), (None, "done")]
        assert seen == [None, "1", "1"]

    def test_a_wait_goes_on(self, restarting: Callable[..., Client]) -> None:
        answers = [(200, b'{"status": "running"}'), (503, b"starting"), (200, b'{"status": "failed"}')]
        assert restarting(*answers, seen=[]).wait("run_1")["status"] == "failed"

    def test_patience_ends(self, restarting: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trainyard.client.PATIENCE_SECONDS", 1.0)
        client = restarting((200, b'{"status": "running"}'), seen=[])
        with pytest.raises(ServiceUnreachable, match="does not answer"):
            client.wait("run_1")
        with pytest.raises(ServiceUnreachable, match="does not answer"):
            list(client.stream("run_1"))

    def test_a_refusal_is_not_waited_out(self, restarting: Callable[..., Client]) -> None:
        with pytest.raises(Problem, match="404"):
            restarting((200, b'{"status": "running"}'), (404, b"{}"), seen=[]).wait("run_1")


def test_nothing_listens() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with Client(f"http://127.0.0.1:{held.getsockname()[1]}") as client:
            assert not client.ready()
            with pytest.raises(ServiceUnreachable):
                client.runs()
            with pytest.raises(ServiceUnreachable):
                list(client.stream("run_1"))
