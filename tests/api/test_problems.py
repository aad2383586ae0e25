"""Every failure is problem+json, points at the field, and suggests what was meant."""

import json
import math

import httpx
import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from app.services import experiments, runs
from tests.api.helpers import assert_problem, pointers, spec

LONG = {"algorithm": {"name": "ppo", "num_steps": 1024}, "training": {"total_env_steps": 10**9}}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"surprise": 1}, "/surprise"),
        ({"algorithm": {"name": "ppo", "learning_rate": -1}}, "/algorithm/learning_rate"),
        ({"algorithm": {"name": "ppo", "learning_rate": math.nan}}, "/algorithm/learning_rate"),
        ({"algorithm": {"name": "ppo", "hidden_sizes": [64, 0]}}, "/algorithm/hidden_sizes/1"),
        ({"algorithm": {"name": "ppo", "buffer_size": 5}}, "/algorithm/buffer_size"),
        ({"algorithm": {"name": "sarsa", "planning_steps": 5}}, "/algorithm/planning_steps"),
        ({"algorithm": {"name": "rainbow", "epsilon_start": 0.5}}, "/algorithm/epsilon_start"),
        ({"algorithm": {"name": "c51", "batch_size": 0}}, "/algorithm/batch_size"),
        ({"algorithm": {"name": "c51", "v_min": 20}}, "/algorithm/v_max"),
        ({"algorithm": {"name": "ppo", "clip_range_value": 1e300}}, "/algorithm/clip_range_value"),
        ({"algorithm": {"name": "sac", "target_entropy": 1e300}}, "/algorithm/target_entropy"),
        ({"algorithm": {"name": "q_learning", "initial_value": 1e300}}, "/algorithm/initial_value"),
        ({"algorithm": {"name": "sarsa"}}, "/algorithm/name"),
        ({"environment": {"id": "FrozenLake-v1"}}, "/algorithm/name"),
        ({"environment": {"id": "Blackjack-v1"}}, "/environment/id"),
        ({"algorithm": {"name": "ppoo"}}, "/algorithm/name"),
        ({"algorithm": {}}, "/algorithm/name"),
        ({"algorithm": "ppo"}, "/algorithm"),
        ({"algorithm": {"name": "ppo", "hidden_sizes": [4096] * 8}}, "/algorithm/hidden_sizes"),
        ({"algorithm": {"name": "ppo", "num_minibatches": 3}}, "/algorithm/num_minibatches"),
        ({"algorithm": {"name": "dqn", "batch_size": 9, "buffer_size": 8}}, "/algorithm/batch_size"),
        (
            {"environment": {"id": "CarRacing-v3"}, "algorithm": {"name": "sac", "buffer_size": 10**7}},
            "/algorithm/buffer_size",
        ),
        ({"environment": {"id": "CarRacing-v3", "num_envs": 4096}, **LONG}, "/environment/num_envs"),
        ({"seeds": [1, 1]}, "/seeds"),
        ({"seeds": [3, -1]}, "/seeds/1"),
        ({"seeds": [2**63]}, "/seeds/0"),
        ({"seeds": []}, "/seeds"),
        ({"environment": {"id": "CartPole-v1", "num_envs": 10**9}}, "/environment/num_envs"),
        ({"environment": {"id": "os:Evil-v0"}}, "/environment/id"),
        ({"environment": {"id": "CartPole-v1", "kwargs": {"render_mode": "human"}}}, "/environment/kwargs/render_mode"),
        ({"environment": {"id": "Pendulum-v1", "kwargs": {"g": "heavy"}}}, "/environment/kwargs/g"),
        ({"environment": {"id": "Pendulum-v1", "kwargs": {"g": math.nan}}}, "/environment/kwargs/g"),
        ({"environment": {"id": "Pendulum-v1", "kwargs": {"g": 2**64}}}, "/environment/kwargs/g"),
        ({"environment": {}}, "/environment/id"),
        ({"training": {"total_env_steps": 0}}, "/training/total_env_steps"),
        ({"resources": {"device": "gpu"}}, "/resources/device"),
        ({"resources": {"pack": "some"}}, "/resources/pack"),
        ({"tags": {"team": 3}}, "/tags/team"),
        ({"tags": {"a/b~c": 3}}, "/tags/a~1b~0c"),
        ({"tags": {"team": "nul\0"}}, "/tags/team"),
        ({"name": "nul\0"}, "/name"),
        ({"name": ""}, "/name"),
    ],
)
def test_points_at_the_field(client: httpx.Client, changes: dict[str, object], pointer: str) -> None:
    answer = client.post("/v1/experiments", content=json.dumps(spec(**changes)), headers=JSON)
    assert pointer in pointers(assert_problem(answer, 422))


def test_says_nothing_of_fields_whose_defaults_follow_from_the_wrong_one(client: httpx.Client) -> None:
    answer = client.post("/v1/experiments", json=spec(algorithm={"name": "c51", "batch_size": 0}))
    assert pointers(assert_problem(answer, 422)) == {"/algorithm/batch_size"}


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ([-1], [("/seeds/0", "input should be greater than or equal to 0")]),
        ([], [("/seeds", "list should have at least 1 item, not 0")]),
        (3, [("/seeds", "input should be a valid list")]),
    ],
)
def test_says_once_what_is_wrong_with_a_list(
    client: httpx.Client, seeds: object, expected: list[tuple[str, str]]
) -> None:
    problem = assert_problem(client.post("/v1/experiments", json=spec(seeds=seeds)), 422)
    assert [(error["pointer"], error["message"]) for error in problem["errors"]] == expected


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"pack": 0}, "input should be 'auto' or greater than or equal to 1"),
        ({"threads": 257}, "input should be 'auto' or less than or equal to 256"),
        ({"pack": "all"}, "input should be 'auto' or a valid integer"),
    ],
)
def test_says_once_what_is_wrong_with_a_word_or_number(
    client: httpx.Client, resources: dict[str, object], expected: str
) -> None:
    (error,) = assert_problem(client.post("/v1/experiments", json=spec(resources=resources)), 422)["errors"]
    assert error["message"] == expected and "allowed" not in error, "there is more than one word"


@pytest.mark.parametrize(
    ("changes", "pointer", "suggestion"),
    [
        ({"environment": {"id": "CartPol-v1"}}, "/environment/id", "CartPole-v1"),
        ({"algorithm": {"name": "ppoo"}}, "/algorithm/name", "ppo"),
        ({"algorithm": {"name": "ppo", "learning_rat": 1}}, "/algorithm/learning_rat", "learning_rate"),
        ({"sedes": [1]}, "/sedes", "seeds"),
        ({"training": {"total_env_step": 5}}, "/training/total_env_step", "total_env_steps"),
        ({"environment": {"id": "Pendulum-v1"}, "algorithm": {"name": "dqn"}}, "/algorithm/name", "ppo"),
        ({"environment": {"id": "FrozenLake-v1"}, "algorithm": {"name": "dqn"}}, "/algorithm/name", "q_learning"),
        ({"algorithm": {"name": "ppo", "activation": "than"}}, "/algorithm/activation", "tanh"),
        (
            {
                "environment": {"id": "CartPole-v1", "num_envs": 4096},
                "algorithm": {"name": "ppo", "num_steps": 65536},
                "training": {"total_env_steps": 20_000},
            },
            "/algorithm/num_steps",
            "16",
        ),
    ],
)
def test_suggests(client: httpx.Client, changes: dict[str, object], pointer: str, suggestion: str) -> None:
    problem = assert_problem(client.post("/v1/experiments", json=spec(**changes)), 422)
    error = next(error for error in problem["errors"] if error["pointer"] == pointer)
    assert error["suggestion"] == suggestion


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"total_env_steps": 1}},
        {"algorithm": {"name": "ppo", "num_steps": 8192}},
        {"environment": {"id": "CartPole-v1", "num_envs": 4096}, **LONG},
        {"algorithm": {"name": "ppo", "hidden_sizes": [4096, 1024, 4096]}},
        {"environment": {"id": "CarRacing-v3"}, "algorithm": {"name": "sac"}},
    ],
)
def test_takes_what_can_be_held(client: httpx.Client, changes: dict[str, object]) -> None:
    assert client.post("/v1/experiments", json=spec(**changes)).status_code == 201


@pytest.mark.parametrize(
    ("name", "kind"), [(None, "null"), (3, "a number"), (True, "a boolean"), (["ppo"], "an array"), ({}, "an object")]
)
def test_an_algorithm_has_a_name(client: httpx.Client, name: object, kind: str) -> None:
    (error,) = assert_problem(client.post("/v1/experiments", json=spec(algorithm={"name": name})), 422)["errors"]
    assert error["pointer"] == "/algorithm/name" and "ppo" in error["allowed"]
    assert error["message"].startswith(f"must be the algorithm's name, not {kind}: one of ppo, dqn")


def test_suggests_query_parameters(client: httpx.Client) -> None:
    (error,) = assert_problem(client.get("/v1/runs?experimentid=exp_x"), 422)["errors"]
    assert (error["pointer"], error["suggestion"]) == ("/experimentid", "experiment_id")
    assert error["allowed"] == ["limit", "after", "experiment_id", "status"]


@pytest.mark.parametrize(
    "path",
    ["algorithms", "environments", "experiments", "runs", "workers", "runs/run_x/metrics", "runs/run_x/attempts"],
)
def test_no_list_takes_an_unknown_query_parameter(client: httpx.Client, path: str) -> None:
    (error,) = assert_problem(client.get(f"/v1/{path}?surprise=1"), 422)["errors"]
    assert error["pointer"] == "/surprise" and error["message"] == "unknown query parameter 'surprise'"


def test_names_everything_at_once(client: httpx.Client) -> None:
    body = {"environment": {}, "algorithm": {"name": "ppo", "gamma": 2}, "seed": [0]}
    assert pointers(assert_problem(client.post("/v1/experiments", json=body), 422)) == {
        "/environment/id",
        "/algorithm/gamma",
        "/seed",
    }


def test_a_field_named_like_the_algorithm_confuses_nobody(client: httpx.Client) -> None:
    algorithm = {"name": "ppo", "ppo": 1, "gamma": 2}
    problem = assert_problem(client.post("/v1/experiments", json=spec(algorithm=algorithm)), 422)
    assert pointers(problem) == {"/algorithm/ppo", "/algorithm/gamma"}


def test_an_experiment_named_like_a_field_confuses_nobody(client: httpx.Client) -> None:
    problem = assert_problem(client.post("/v1/experiments", json=spec(name="training", training={"x": 1})), 422)
    assert pointers(problem) == {"/training/x"}


@pytest.mark.parametrize("content", [b"{", b"", b"nonsense", b"[1,2]", b"null", b"3", b'"text"'])
def test_not_an_object(client: httpx.Client, content: bytes) -> None:
    assert_problem(client.post("/v1/experiments", content=content, headers=JSON), 422)


@pytest.mark.parametrize("content", [b"\xff\xfe{", b'{"a": ' + b"9" * 5000 + b"}", b"[" * 100_000])
def test_cannot_be_parsed(client: httpx.Client, content: bytes) -> None:
    assert_problem(client.post("/v1/experiments", content=content, headers=JSON), 400)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "nonsense"])
def test_only_json_is_taken(client: httpx.Client, kind: str) -> None:
    answer = client.post("/v1/experiments", content=json.dumps(spec()), headers={"Content-Type": kind})
    assert_problem(answer, 415)


def test_a_body_without_a_type_is_not_taken(client: httpx.Client) -> None:
    assert_problem(client.post("/v1/experiments", content=json.dumps(spec())), 415)


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/experiments/", "/v1/nothing", "/v2/models", "/v1/runs/run_x/nothing"]
)
def test_unknown_paths(client: httpx.Client, path: str) -> None:
    assert_problem(client.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/experiments", "GET, POST"),
        ("PUT", "/v1/runs/run_x", "GET"),
        ("GET", "/v1/runs/run_x/cancel", "POST"),
        ("GET", "/v1/runs/run_x/actions", "POST"),
        ("POST", "/healthz", "GET"),
        ("TRACE", "/healthz", "GET"),
    ],
)
def test_wrong_method(client: httpx.Client, method: str, path: str, allow: str) -> None:
    answer = client.request(method, path)
    assert_problem(answer, 405)
    assert set(answer.headers["allow"].split(", ")) <= set(allow.split(", "))


def test_a_database_error_is_a_503_without_details(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OperationalError("SELECT secret", {}, Exception("connection to 10.0.0.1 refused"))

    monkeypatch.setattr(runs, "list_page", fail)
    answer = client.get("/v1/runs")
    assert_problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    assert "10.0.0.1" not in answer.text
    assert "SELECT" not in answer.text


def test_a_full_disk_is_called_that(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    full = create_engine("sqlite://")

    def fail(*_: object, **__: object) -> None:
        with full.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
            connection.exec_driver_sql("CREATE TABLE more (x)")

    monkeypatch.setattr(runs, "list_page", fail)
    problem = assert_problem(client.get("/v1/runs"), 503)
    full.dispose()
    assert problem["detail"] == "the disk of the database is full"


def test_a_defect_is_a_500_without_a_traceback(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("at /home/someone/app.py")

    monkeypatch.setattr(experiments, "list_page", fail)
    answer = client.get("/v1/experiments")
    assert_problem(answer, 500)
    assert "someone" not in answer.text
