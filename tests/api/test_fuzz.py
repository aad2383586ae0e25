"""Whatever is sent: an answer below 500, and problem+json if it is a refusal. On PostgreSQL too, which refuses NUL."""

import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.conftest import ON_BOTH
from tests.api.helpers import assert_problem, create, spec

JSON = {"Content-Type": "application/json"}
RELAXED = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

ODD = [
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    10**400,
    -(10**400),
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 5000,
    "nul\0",
    "\ud800",
    "\U0001f600",
    "‮",
    "' OR 1=1 --",
    "../../etc/passwd",
    [],
    {},
    [[]],
    {"": ""},
    {"\0": "\0"},
    {"\ud800": 1},
    {"name": "ppo"},
]
PLACES = [
    ("name",),
    ("environment",),
    ("environment", "id"),
    ("environment", "kwargs"),
    ("environment", "kwargs", "g"),
    ("environment", "num_envs"),
    ("algorithm",),
    ("algorithm", "name"),
    ("algorithm", "preset"),
    ("algorithm", "learning_rate"),
    ("algorithm", "hidden_sizes"),
    ("algorithm", "num_steps"),
    ("algorithm", "target_kl"),
    ("training",),
    ("training", "total_env_steps"),
    ("training", "evaluate_every"),
    ("training", "checkpoint_every"),
    ("seeds",),
    ("seeds", 0),
    ("resources",),
    ("resources", "device"),
    ("resources", "queue"),
    ("resources", "priority"),
    ("resources", "pack"),
    ("resources", "threads"),
    ("tags",),
    ("tags", "team"),
    ("odd",),
]


def assert_sane(answer: httpx.Response) -> None:
    """Not a failure of the service; if a refusal, a problem."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert_problem(answer, answer.status_code)


def with_value(place: tuple[str | int, ...], value: object) -> dict[str, Any]:
    body = spec(
        environment={"id": "Pendulum-v1", "kwargs": {}},
        training={},
        resources={},
        tags={},
        seeds=[1],
        algorithm={"name": "ppo"},
    )
    inner: Any = body
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return body


@ON_BOTH
def test_odd_values_in_every_place(client: httpx.Client) -> None:
    for place in PLACES:
        for value in ODD:
            body = with_value(place, value)
            answer = client.post("/v1/experiments", content=json.dumps(body), headers=JSON)
            assert_sane(answer)
            if answer.status_code == 201:
                assert client.get(answer.headers["location"]).json() == answer.json(), (place, value)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(alphabet=st.characters(exclude_categories=()), max_size=20),
    st.sampled_from(["ppo", "dqn", "CartPole-v1", "auto", "cpu"]),
)
NAMES = st.one_of(
    st.sampled_from(
        ["name", "id", "environment", "algorithm", "training", "seeds", "resources", "kwargs", "ppo", "pack"]
    ),
    st.text(alphabet=st.characters(exclude_categories=()), max_size=5),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=5)),
    max_leaves=20,
)


@RELAXED
@given(body=TREES)
def test_any_json(client: httpx.Client, body: object) -> None:
    assert_sane(client.post("/v1/experiments", content=json.dumps(body), headers=JSON))


@RELAXED
@given(
    content=st.binary(max_size=200),
    kind=st.sampled_from(["application/json", "text/plain", "application/json; charset=utf-16"]),
)
def test_any_bytes(client: httpx.Client, content: bytes, kind: str) -> None:
    assert_sane(client.post("/v1/experiments", content=content, headers={"Content-Type": kind}))


@pytest.mark.parametrize("depth", [20, 200, 900, 5000, 100_000])
@pytest.mark.parametrize("field", ["kwargs", "surprise"])
def test_deep_nesting(client: httpx.Client, depth: int, field: str) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        deep = opening * depth + "1" + closing * depth
        text = json.dumps(with_value(("environment", field), "HERE")).replace('"HERE"', f'{{"g": {deep}}}')
        answer = client.post("/v1/experiments", content=text, headers=JSON)
        assert_sane(answer)
        assert answer.status_code >= 400


TEXT = st.text(alphabet=st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)
PATHS = ["/v1/runs/{}", "/v1/runs/{}/events", "/v1/experiments/{}", "/v1/checkpoints/{}", "/v1/checkpoints/{}/files/x"]
QUERIES = [
    "/v1/runs?after={}",
    "/v1/runs?experiment_id={}",
    "/v1/runs?status={}",
    "/v1/runs?limit={}",
    "/v1/experiments?name={}",
    "/v1/workers?after={}",
]


@ON_BOTH
def test_any_path_and_query(client: httpx.Client) -> None:
    run_id = create(client)["runs"][0]["id"]
    own = ["series?key={}", "series?key=a&max_points={}", "events?after={}", "logs?after={}", "checkpoints?after={}"]
    templates = PATHS + QUERIES + [f"/v1/runs/{run_id}/{part}" for part in own]

    @RELAXED
    @given(template=st.sampled_from(templates), text=st.one_of(TEXT, st.integers().map(str), st.just("\0")))
    def check(template: str, text: str) -> None:
        assert_sane(client.get(template.format(quote(text, safe=""))))

    check()


@RELAXED
@given(
    name=st.sampled_from(
        ["Idempotency-Key", "Prefer", "Last-Event-ID", "Range", "If-None-Match", "If-Range", "Accept"]
    ),
    value=st.binary(max_size=40).filter(lambda value: not set(value) & set(b"\r\n\0")),
)
def test_any_header(client: httpx.Client, name: str, value: bytes) -> None:
    if b"wait" in value.lower():
        return
    for method, path in (
        ("GET", "/v1/runs/run_x"),
        ("GET", "/v1/runs/run_x/stream"),
        ("GET", "/v1/checkpoints/ckpt_x/files/x"),
    ):
        assert_sane(client.request(method, path, headers={name: value}))
    assert_sane(client.post("/v1/experiments", json=spec(seeds=[0]), headers={name: value}))


@pytest.mark.parametrize("size", [1000, 100_000])
def test_long_paths(client: httpx.Client, size: int) -> None:
    for path in ("/v1/runs/{}", "/v1/checkpoints/ckpt_x/files/{}", "/v1/runs?after={}", "/{}"):
        assert_sane(client.get(path.format("a" * min(size, 60_000))))
