"""Pure ASGI middleware around the service: Host allow-list, authentication, body limit, no traceback to clients."""

import hmac
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from app.errors import PROBLEM_TYPE, AppError, BadRequest, Internal, Misdirected, TooLarge, Unauthorized, problem_bytes

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

PUBLIC = frozenset({"/healthz", "/readyz", "/openapi.json"})
"""Paths answered without a key."""

logger = logging.getLogger(__name__)


async def send_problem(send: Send, error: AppError) -> None:
    """Answer with ``error``."""
    body = problem_bytes(error)
    headers = [(b"content-type", PROBLEM_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Gate:
    """Lets in what names a known host and carries the operator's key; turns what the app lets slip into a 500."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str] | None, api_key: str | None) -> None:
        self._app = app
        self._hosts = None if hosts is None else frozenset(host.strip("[]").encode() for host in hosts)
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if scope["type"] == "websocket":
            if refusal is None:
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": refusal.title})
            return
        if refusal is not None:
            await send_problem(send, refusal)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            logger.exception("%s %r failed", scope["method"], scope["path"])
            if not started:
                await send_problem(send, Internal("an unexpected error; the service's log has the details"))

    def _refusal(self, scope: Scope) -> AppError | None:
        hosts, credentials = [], []
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value)
            elif name == b"authorization":
                credentials.append(value)
        if self._hosts is not None:
            if len(hosts) != 1:
                return BadRequest("exactly one Host header is required")
            if _host_name(hosts[0]) not in self._hosts:
                return Misdirected("this service does not answer for that Host; see TRAINYARD_ALLOWED_HOSTS")
        scope.setdefault("state", {})["principal"] = "anonymous" if self._key is None else "operator"
        if self._key is None or scope["path"] in PUBLIC:
            return None
        if not credentials:
            return Unauthorized("send the operator key: Authorization: Bearer <key>")
        scheme, _, given = credentials[0].partition(b" ")
        if len(credentials) > 1 or scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
            return Unauthorized("this key is not known")
        return None


def _host_name(value: bytes) -> bytes:
    """The host of a Host header, without port and brackets, lower case."""
    value = value.strip().lower()
    if value.startswith(b"["):
        return value[1:].partition(b"]")[0]
    return value.partition(b":")[0]


class BodyLimit:
    """Reads the body, at most ``limit`` bytes of it, before the app runs: what is declared is not trusted."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or len(value) > 18 or int(value) > self._limit):
                await self._refuse(send)
                return
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunk, more = message.get("body", b""), message.get("more_body", False)
            size += len(chunk)
            if size > self._limit:
                await self._refuse(send)
                return
            chunks.append(chunk)
        body: bytes | None = chunks[0] if len(chunks) == 1 else b"".join(chunks)

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            whole, body = body, None
            return {"type": "http.request", "body": whole, "more_body": False}

        await self._app(scope, replay, send)

    async def _refuse(self, send: Send) -> None:
        detail = f"the body may have {self._limit} bytes at most"
        await send_problem(send, TooLarge(detail, headers={"Connection": "close"}))
