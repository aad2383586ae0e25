"""An ASGI application in an event loop of its own thread, and a synchronous client for it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from app.middleware import ASGIApp, Message

BASE_URL = "http://127.0.0.1"


class _Transport(httpx.BaseTransport):
    """Hands requests to the application; answers come whole."""

    def __init__(self, app: ASGIApp, portal: BlockingPortal) -> None:
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]
        self._portal = portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return self._portal.call(self._answer, request)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())


@asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """Start and stop an application as a server does."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    task = asyncio.create_task(_run(app, inbox, outbox))
    await inbox.put({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    yield
    await inbox.put({"type": "lifespan.shutdown"})
    assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
    await task


async def _run(app: ASGIApp, inbox: asyncio.Queue[Message], outbox: asyncio.Queue[Message]) -> None:
    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, inbox.get, outbox.put)


@contextmanager
def serve(app: ASGIApp, base_url: str = BASE_URL) -> Iterator[httpx.Client]:
    """A client of the running application. Threads may share it."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(lifespan(app)),
        httpx.Client(transport=_Transport(app, portal), base_url=base_url, timeout=60) as client,
    ):
        yield client
