"""Who is let in: Host allow-list, the operator's key, the body limit."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import app.main
from app.middleware import BodyLimit, Message, Receive, Scope, Send
from app.settings import Settings
from tests.api.asgi import serve
from tests.api.conftest import Bells
from tests.api.helpers import assert_problem

KEY = "k5Fq-81hPz.Ttu27_wVgR"
ROUTES = ["/v1/runs", "/v1/experiments", "/v1/nothing", "/v1/workers", "/v1/runs/run_x/stream"]


@pytest.fixture
def keyed(sqlite_url: str, tmp_path: Path, bells: Bells) -> Iterator[httpx.Client]:
    settings = Settings(database_url=sqlite_url, data_dir=tmp_path, host="0.0.0.0", api_key=KEY, sweep_seconds=10)
    with serve(app.main.create_app(settings), "http://trainyard.example") as client:
        yield client


class TestKey:
    @pytest.mark.parametrize("path", ROUTES)
    @pytest.mark.parametrize(
        "header", [None, "", "Bearer", "Bearer ", f"Basic {KEY}", KEY, "Bearer wrong", f"Bearer {KEY}x", "Bearer é"]
    )
    def test_is_required(self, keyed: httpx.Client, path: str, header: str | None) -> None:
        answer = keyed.get(path, headers={} if header is None else {"Authorization": header.encode()})
        assert_problem(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert KEY not in answer.text

    def test_of_actions_is_required_too(self, keyed: httpx.Client) -> None:
        assert_problem(keyed.post("/v1/runs/run_x/actions", json={"observation": [0]}), 401)

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_opens(self, keyed: httpx.Client, scheme: str) -> None:
        assert keyed.get("/v1/runs", headers={"Authorization": f"{scheme} {KEY}"}).status_code == 200

    def test_given_twice_is_refused(self, keyed: httpx.Client) -> None:
        headers = [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")]
        assert_problem(keyed.get("/v1/runs", headers=headers), 401)

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
    def test_is_not_asked_for_by_probes(self, keyed: httpx.Client, path: str) -> None:
        assert keyed.get(path).status_code == 200


class TestHost:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]:8000", "[::1]"])
    def test_loopback_is_answered(self, client: httpx.Client, host: str) -> None:
        assert client.get("/healthz", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::2]", ":8000", ""]
    )
    @pytest.mark.parametrize("path", ["/healthz", "/v1/runs"])
    def test_others_are_not(self, client: httpx.Client, host: str, path: str) -> None:
        assert_problem(client.get(path, headers={"Host": host}), 421)

    def test_two_are_refused(self, client: httpx.Client) -> None:
        assert_problem(client.get("/v1/runs", headers=[("Host", "localhost"), ("Host", "localhost")]), 400)

    def test_any_is_answered_with_a_key(self, keyed: httpx.Client) -> None:
        assert keyed.get("/healthz", headers={"Host": "whatever.example"}).status_code == 200


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def _send(chunks: list[bytes], headers: list[tuple[bytes, bytes]], limit: int = 10) -> tuple[int, bytes]:
    """What a request gets whose body comes in these pieces."""
    sent: list[Message] = []
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    asyncio.run(BodyLimit(_echo, limit=limit)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


class TestBodyLimit:
    def test_up_to_the_limit(self) -> None:
        assert _send([b"01234", b"56789"], [(b"content-length", b"10")]) == (200, b"0123456789")

    def test_declared_too_large(self) -> None:
        assert _send([], [(b"content-length", b"11")])[0] == 413

    @pytest.mark.parametrize("headers", [[], [(b"content-length", b"3")], [(b"transfer-encoding", b"chunked")]])
    def test_larger_than_declared(self, headers: list[tuple[bytes, bytes]]) -> None:
        assert _send([b"01234", b"567890"], headers)[0] == 413

    @pytest.mark.parametrize("length", [b"-1", b"1e3", b"", b"9" * 5000, b"0x5"])
    def test_nonsense_length(self, length: bytes) -> None:
        assert _send([b"a"], [(b"content-length", length)])[0] == 413

    def test_is_a_problem(self, client: httpx.Client) -> None:
        answer = client.post(
            "/v1/experiments", content=b"x" * (2**20 + 1), headers={"Content-Type": "application/json"}
        )
        assert_problem(answer, 413)

    def test_of_actions_is_larger(self, client: httpx.Client) -> None:
        big = b'{"observation": [' + b"0," * 2**20 + b"0]}"
        assert client.post("/v1/runs/run_x/actions", content=big).status_code != 413
