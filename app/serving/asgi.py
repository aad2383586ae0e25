"""``POST /v1/runs/{run_id}/actions`` as a raw ASGI application: the hot path of the service.

A small model answers in the event loop, in less time than handing it to a thread takes; a slow one goes to a bounded
executor.
"""

import asyncio
import logging
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import orjson
from sqlalchemy.exc import SQLAlchemyError

from app.db.engine import Database
from app.errors import AppError, Unavailable
from app.middleware import Receive, Scope, Send, send_problem
from app.serving.policy import Policy
from app.serving.requests import ActionRequest
from app.serving.sampling import Actions, Observations
from app.serving.store import PolicyStore
from app.settings import Settings

INLINE_SECONDS: Final = 1e-3
"""The longest that inference may hold the event loop."""
MAX_THREADS: Final = 4
"""For slow inferences; at least one, at most half of the cores."""
BACKLOG_PER_THREAD: Final = 16
"""Slow inferences that may wait for each thread before more are refused."""

logger = logging.getLogger(__name__)


class ActionApp:
    """Answers action requests. Authentication, size and Host limits are the middleware's around it."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._store = PolicyStore(database, settings.artifacts_dir, capacity=settings.policy_cache_bytes)
        threads = min(MAX_THREADS, max(1, (os.cpu_count() or 2) // 2))
        self._threads = ThreadPoolExecutor(threads, "inference")
        self._vacant = threads * (1 + BACKLOG_PER_THREAD)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. The path is ``/v1/runs/{run_id}/actions``; the router has checked that."""
        body = await _body(receive)
        if body is None:
            return
        try:
            content = await self._answer(scope["path"].split("/")[3], body)
        except AppError as error:
            await send_problem(send, error)
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def close(self) -> None:
        """Let go of the threads."""
        self._store.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, run_id: str, body: bytes) -> bytes:
        request = ActionRequest.parse(body)
        policy = self._store.cached(run_id, request.checkpoint) or await self._find(run_id, request.checkpoint)
        observations = request.array(policy.shape, pixels=policy.pixels, states=policy.states)
        seed = None
        if not request.deterministic:
            seed = secrets.randbits(63) if request.seed is None else request.seed
        if policy.seconds(len(observations)) < INLINE_SECONDS:
            actions = policy.act(observations, seed=seed)
        else:
            actions = await self._offload(policy, observations, seed)
        name, value = ("action", actions[0]) if request.single else ("actions", actions)
        answer = {name: value, "checkpoint_id": policy.checkpoint_id}
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)

    async def _find(self, run_id: str, reference: str) -> Policy:
        try:
            return await self._store.get(run_id, reference)
        except SQLAlchemyError:
            logger.exception("the database cannot be read")
            raise Unavailable("the database cannot be read") from None

    async def _offload(self, policy: Policy, observations: Observations, seed: int | None) -> Actions:
        if self._vacant == 0:
            raise Unavailable("too many slow policies are being asked at once")
        self._vacant -= 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, lambda: policy.act(observations, seed=seed))
        finally:
            self._vacant += 1


async def _body(receive: Receive) -> bytes | None:
    """The whole body, or None if the client went away."""
    chunks, more = [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
