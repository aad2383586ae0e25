"""The catalogue: algorithms and environments as data, with JSON Schema."""

import httpx
import pytest

from app.schemas import presets
from app.services import catalogue
from tests.api.helpers import assert_problem, spec


def test_algorithms(client: httpx.Client) -> None:
    rows = {row["name"]: row for row in client.get("/v1/algorithms").json()["data"]}
    assert {"ppo", "dqn", "sac"} <= rows.keys()
    for name, row in rows.items():
        assert client.get(f"/v1/algorithms/{name}").json() == row
        assert row["parameters"]["type"] == "object"
        assert row["parameters"]["additionalProperties"] is False
        assert row["paper"].startswith("https://")
    assert rows["dqn"]["action_spaces"] == ["discrete"]
    assert rows["ppo"]["parameters"]["properties"]["learning_rate"]["default"] == 3e-4
    assert "description" in rows["ppo"]["parameters"]["properties"]["target_kl"]


def test_environments(client: httpx.Client) -> None:
    rows = {row["id"]: row for row in client.get("/v1/environments").json()["data"]}
    assert {"CartPole-v1", "Pendulum-v1", "HalfCheetah-v5"} <= rows.keys()
    assert client.get("/v1/environments/CartPole-v1").json() == rows["CartPole-v1"]
    for path in ("MinAtar/Breakout-v1", "MinAtar%2FBreakout-v1"):
        assert client.get(f"/v1/environments/{path}").json() == rows["MinAtar/Breakout-v1"]
    [continuous] = rows["LunarLander-v3"]["variants"]
    assert continuous["kwargs"] == {"continuous": True} and continuous["action_space"]["type"] == "box"
    assert "dqn" in rows["LunarLander-v3"]["algorithms"] and continuous["algorithms"] == ["ppo", "sac"]
    assert rows["CartPole-v1"]["action_space"] == {"type": "discrete", "n": 2, "start": 0}
    assert "sac" not in rows["CartPole-v1"]["algorithms"]
    assert rows["Pendulum-v1"]["kwargs_schema"]["properties"]["g"]["type"] == "number"


def test_says_why_nothing_fits(client: httpx.Client) -> None:
    rows = client.get("/v1/environments").json()["data"]
    assert all((row["unsupported"] is None) == bool(row["algorithms"]) for row in rows)
    blackjack = next(row for row in rows if row["id"] == "Blackjack-v1")
    assert blackjack["unsupported"] == "no algorithm takes Tuple observations"


def test_what_the_catalogue_says_fits_is_accepted(client: httpx.Client) -> None:
    rows = client.get("/v1/environments").json()["data"]
    for row in [row for row in rows if not row["id"].startswith("ALE/") or row["id"] == "ALE/Pong-v5"]:
        for algorithm in row["algorithms"]:
            body = spec(environment={"id": row["id"]}, algorithm={"name": algorithm}, seeds=[0])
            assert client.post("/v1/experiments", json=body).status_code == 201, (row["id"], algorithm)


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("algorithms/ppoo", "ppo"),
        ("environments/CartPol-v1", "CartPole-v1"),
        ("environments/cartpole-v1", "CartPole-v1"),
        ("environments/Pong-v5", "ALE/Pong-v5"),
    ],
)
def test_unknown_suggests(client: httpx.Client, path: str, suggestion: str) -> None:
    assert suggestion in assert_problem(client.get(f"/v1/{path}"), 404)["detail"]


@pytest.mark.parametrize("path", ["algorithms/%00", "environments/" + "x" * 5000, "environments/a%2Fb"])
def test_odd_names(client: httpx.Client, path: str) -> None:
    assert_problem(client.get(f"/v1/{path}"), 404)


def test_presets_say_where_they_come_from(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"gamma": 0.98, "num_envs": 4, "origin": "measured, 5 seeds"}
    monkeypatch.setitem(presets.PRESETS, ("ppo", "Pendulum-v1"), numbers)
    catalogue.algorithms.cache_clear()
    catalogue.environments.cache_clear()
    try:
        expected = {
            "algorithm": "ppo",
            "environment_id": "Pendulum-v1",
            "origin": "measured, 5 seeds",
            "values": {"gamma": 0.98, "num_envs": 4},
        }
        assert expected in client.get("/v1/algorithms/ppo").json()["presets"]
        assert expected in client.get("/v1/environments/Pendulum-v1").json()["presets"]
        assert expected not in client.get("/v1/environments/CartPole-v1").json()["presets"]
        body = spec(environment={"id": "Pendulum-v1"}, algorithm={"name": "ppo", "preset": "auto"})
        resolved = client.post("/v1/experiments", json=body).json()["spec"]
        assert resolved["algorithm"]["gamma"] == 0.98
        assert resolved["environment"]["num_envs"] == 4
    finally:
        catalogue.algorithms.cache_clear()
        catalogue.environments.cache_clear()
