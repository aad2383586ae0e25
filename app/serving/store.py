"""The policies in memory: references resolved for a second, bundles loaded once, the least recently used dropped."""

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from app.db.engine import Database
from app.db.models import Run
from app.db.repositories import checkpoints
from app.errors import AppError, Conflict, Damaged, NotFound, Unavailable
from app.schemas.base import FieldError
from app.serving.policy import DamagedBundle, Policy, load

T = TypeVar("T")

REFERENCE_SECONDS: Final = 1.0
MAX_REFERENCES: Final = 4096
_LOADERS: Final = 2
_RUN_ID: Final = re.compile("run_[0-9a-z]{1,40}")

logger = logging.getLogger(__name__)


class Located(NamedTuple):
    """A checkpoint as its row has it; ``path`` is relative to the artifact root."""

    id: str
    path: str
    files: list[dict[str, Any]]


class PolicyStore:
    """Finds and keeps policies. Belongs to one event loop; databases and disks are read in threads.

    Args:
        capacity: bytes that the loaded policies may take together (the one in use is kept even if larger).
    """

    def __init__(self, database: Database, root: Path, *, capacity: int) -> None:
        self._database = database
        self._root = root
        self._capacity = capacity
        self._policies: OrderedDict[str, Policy] = OrderedDict()
        self._bytes = 0
        self._references: OrderedDict[tuple[str, str], tuple[float, Located | AppError]] = OrderedDict()
        self._flights: dict[object, asyncio.Task[Any]] = {}
        self._threads = ThreadPoolExecutor(_LOADERS, "policy-loader")

    def cached(self, run_id: str, reference: str) -> Policy | None:
        """The policy, if it takes neither database nor disk to say which it is."""
        expires, located = self._references.get((run_id, reference), (0.0, None))
        if located is None or expires < time.monotonic() or isinstance(located, AppError):
            return None
        policy = self._policies.get(located.id)
        if policy is not None:
            self._policies.move_to_end(located.id)
        return policy

    async def get(self, run_id: str, reference: str) -> Policy:
        """The policy of a run's checkpoint.

        Raises:
            NotFound: no such run, or no such checkpoint of it.
            Conflict: the run has no checkpoint (or no final one) yet.
            Damaged: its files are.
            Unavailable: they cannot be read now.
            SQLAlchemyError: the database cannot be read, and never could be for this reference.
        """
        try:
            return await self._load(await self._resolve(run_id, reference))
        except DamagedBundle:
            # A better checkpoint may have taken its place, and its files with it, since the row was read.
            self._references.pop((run_id, reference), None)
        located = await self._resolve(run_id, reference)
        try:
            return await self._load(located)
        except DamagedBundle as damage:
            logger.error("checkpoint %s is damaged: %s", located.id, damage)
            error = Damaged(f"checkpoint {located.id} cannot be served: {damage}")
            self._remember((run_id, reference), error)
            raise error from None

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _resolve(self, run_id: str, reference: str) -> Located:
        key = run_id, reference
        expires, located = self._references.get(key, (0.0, None))
        if located is None or expires < time.monotonic():
            located = await self._once(key, lambda: self._look_up(key))
        if isinstance(located, AppError):
            raise located.with_traceback(None)
        return located

    async def _look_up(self, key: tuple[str, str]) -> Located | AppError:
        try:
            found = await self._in_thread(self._locate, *key)
        except SQLAlchemyError:
            _, known = self._references.get(key, (0.0, None))
            if not isinstance(known, Located):
                raise
            logger.warning("the database cannot be read: %s of %s stays what it was", key[1], key[0])
            found = known
        self._remember(key, found)
        return found

    def _remember(self, key: tuple[str, str], found: Located | AppError) -> None:
        self._references[key] = time.monotonic() + REFERENCE_SECONDS, found
        if len(self._references) > MAX_REFERENCES:
            self._references.popitem(last=False)

    def _locate(self, run_id: str, reference: str) -> Located | AppError:
        with self._database.reading() as session:
            run = session.get(Run, run_id) if _RUN_ID.fullmatch(run_id) else None
            if run is None:
                return NotFound(f"there is no run {run_id}")
            checkpoint = checkpoints.find(session, run_id, reference)
            if checkpoint is not None:
                return Located(checkpoint.id, checkpoint.path, checkpoint.files)
            if reference in ("best", "final"):
                lacks = f"has no {'final checkpoint' if reference == 'final' else 'checkpoint'} yet"
                errors = [FieldError("/checkpoint", f"the run {lacks}")]
                return Conflict(f"run {run_id} is {run.status} and {lacks}", errors=errors)
            errors = [FieldError("/checkpoint", "is not a checkpoint of this run")]
            return NotFound(f"run {run_id} has no checkpoint {reference}", errors=errors)

    async def _load(self, located: Located) -> Policy:
        policy = self._policies.get(located.id)
        if policy is not None:
            return policy
        try:
            return await self._once(located.id, lambda: self._fetch(located))
        except OSError as error:
            logger.error("checkpoint %s cannot be read: %s", located.id, error)
            raise Unavailable(f"checkpoint {located.id} cannot be read: {error.strerror}") from None

    async def _fetch(self, located: Located) -> Policy:
        policy = await self._in_thread(load, located.id, self._root / located.path, located.files)
        self._policies[located.id] = policy
        self._bytes += policy.bytes
        while self._bytes > self._capacity and len(self._policies) > 1:
            _, dropped = self._policies.popitem(last=False)
            self._bytes -= dropped.bytes
        return policy

    async def _once(self, key: object, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do ``work``, or share what whoever came first with this key is waiting for."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._fly(key, work))
        return await asyncio.shield(flight)

    async def _fly(self, key: object, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await work()
        finally:
            del self._flights[key]

    async def _in_thread(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *args))
