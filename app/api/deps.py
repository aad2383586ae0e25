"""What routes ask for: the service's parts, pages, preferences, idempotency keys."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from app.db.engine import Database
from app.queue import Doorbell
from app.services.lookup import ID_PATTERN
from app.services.streams import Hub
from app.settings import Settings

MAX_WAIT_SECONDS = 60
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?=$|[,;])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Service:
    """The parts that routes work with."""

    settings: Settings
    database: Database
    doorbell: Doorbell
    hub: Hub

    def ring(self, queues: tuple[str, ...]) -> None:
        """Ring once per job, after the commit. A broker that is away is asked once: the sweeper rings for the rest."""
        for queue in queues:
            if not self.doorbell.ring(queue):
                return


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _wait_seconds(
    prefer: Annotated[
        str | None,
        Header(max_length=1000, description="`wait=N`: answer when all has ended, or after N seconds (60 at most)."),
    ] = None,
) -> int:
    match = _WAIT.search(prefer or "")
    return min(int(match[1]), MAX_WAIT_SECONDS) if match else 0


class WholeQuery(BaseModel):
    """Of a list that comes whole: there is nothing to choose."""

    model_config = ConfigDict(extra="forbid")


async def _whole(query: Annotated[WholeQuery, Query()]) -> None: ...


class PageQuery(BaseModel):
    """A page of a list, newest first."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(20, ge=1, le=100, description="Items on the page.")
    after: str | None = Field(None, pattern=ID_PATTERN, description="Id of the last item of the page before.")


ServiceDep = Annotated[Service, Depends(_service)]
WaitDep = Annotated[int, Depends(_wait_seconds)]
KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key and body get the same answer, for a day.",
    ),
]
PageDep = Annotated[PageQuery, Query()]
WHOLE = Depends(_whole)
RunId = Annotated[str, Path(description="Id of a run.", examples=["run_0rb8x5c7k2m4n6p8q0s2t4v6wa"])]
