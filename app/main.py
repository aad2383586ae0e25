"""``create_app``: settings -> the ASGI application, that is the action route, the API, and the gate around both."""

import asyncio
import re
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import anyio.to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError

from app.api import actions, catalogue, checkpoints, experiments, operations, problems, runs
from app.api.deps import Service
from app.db.engine import Database
from app.db.migrate import SchemaOutdated, check
from app.errors import MethodNotAllowed
from app.middleware import ASGIApp, BodyLimit, Gate, Receive, Scope, Send, send_problem
from app.queue import Doorbell
from app.schemas.responses import Problem
from app.services.streams import Hub
from app.services.sweep import Sweeper
from app.serving.asgi import ActionApp
from app.settings import Settings, get_settings

_ACTIONS: Final = re.compile(r"/v1/runs/[^/]+/actions")


def create_app(settings: Settings | None = None) -> ASGIApp:
    """The service. Its parts start and stop with the ASGI lifespan."""
    settings = settings or get_settings()
    database = Database(settings.database_url, pool_size=settings.database_pool_size)
    doorbell = Doorbell(settings.broker_url)
    service = Service(settings, database, doorbell, Hub(database, limit=settings.max_streams))
    acting = ActionApp(settings, database)
    routed = Router(
        api=BodyLimit(_api(service, acting), limit=settings.max_body_bytes),
        actions=BodyLimit(acting, limit=settings.max_action_body_bytes),
    )
    key = settings.api_key.get_secret_value() if settings.api_key else None
    return Gate(routed, hosts=settings.hosts, api_key=key)


class Router:
    """Hands action requests to their own application, past the framework, and everything else to the API."""

    def __init__(self, *, api: ASGIApp, actions: ASGIApp) -> None:
        self._api = api
        self._actions = actions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _ACTIONS.fullmatch(scope["path"]):
            await self._api(scope, receive, send)
        elif scope["method"] == "POST":
            await self._actions(scope, receive, send)
        else:
            detail = f"{scope['path']} does not take {scope['method']}"
            await send_problem(send, MethodNotAllowed(detail, headers={"Allow": "POST"}))


def _api(service: Service, acting: ActionApp) -> FastAPI:
    api = FastAPI(
        title="Trainyard",
        version=operations.VERSION,
        summary="Trains deep reinforcement-learning agents and serves their policies.",
        lifespan=_lifespan(service, acting),
        redirect_slashes=False,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        responses=problems.problems(401, 500, 503),
        generate_unique_id_function=lambda route: route.name,
    )
    api.state.service = service
    problems.install(api)
    for module in (experiments, runs, checkpoints, catalogue, operations):
        api.include_router(module.router)
        _answer_head(api, [route for route in module.router.routes if isinstance(route, APIRoute)])
    document = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = _completed(document())
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign]
    return api


def _answer_head(api: FastAPI, routes: Sequence[APIRoute]) -> None:
    """Let what answers GET answer HEAD (RFC 9110, 9.1), save streams, which have no end; the server drops the body."""
    heads = {route.path for route in routes if "HEAD" in (route.methods or ())}
    for route in routes:
        if "GET" in (route.methods or ()) and route.path not in heads and not route.path.endswith("/stream"):
            api.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with what the framework doesn't know of: problems, the action route, authentication."""
    components = document.setdefault("components", {})
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"] |= schema.pop("$defs") | {"Problem": schema}
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        if "422" in operation["responses"]:  # the framework declares its own form where a route doesn't
            operation["responses"]["422"] = problems.problems(422)[422]
    components["securitySchemes"] = {"operator": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"operator": []}, {}]
    document["paths"][actions.PATH] = actions.OPENAPI
    return document


def _lifespan(service: Service, acting: ActionApp) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        settings, database, doorbell = service.settings, service.database, service.doorbell
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.database_pool_size
        with suppress(SchemaOutdated, SQLAlchemyError):  # readiness says so until it is mended; a newer schema ends us
            await anyio.to_thread.run_sync(check, settings.database_url)
        sweeper = Sweeper(
            database,
            interval=settings.sweep_seconds,
            ring=doorbell.ring,
            queue_length=doorbell.length,
            artifacts_dir=settings.artifacts_dir,
        )
        sweeper.start()
        try:
            with _at_termination(service.hub.close):
                yield
        finally:
            service.hub.close()
            sweeper.stop()
            acting.close()
            doorbell.close()
            database.dispose()

    return lifespan


@contextmanager
def _at_termination(act: Callable[[], None]) -> Iterator[None]:
    """Run ``act`` in the event loop when SIGTERM or SIGINT comes, before the server's own handler.

    A server waits for open answers to end before its shutdown reaches the lifespan; streams would never end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(act)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)
