"""Runs: state, actions, metrics, history."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from app.api.deps import WHOLE, PageQuery, RunId, Service, ServiceDep, WaitDep
from app.api.problems import problems
from app.db.states import TERMINAL
from app.schemas.responses import Attempt, Checkpoint, Event, LogLine, Metric, Page, Run, RunStatus, Series
from app.services import checkpoints, metrics, runs
from app.services.lookup import ID_PATTERN
from app.services.runs import Action

router = APIRouter(prefix="/v1/runs", tags=["runs"])

MAX_NUMBER = 2**63 - 1
_STREAM_EXAMPLE = 'id: 2\nevent: status\ndata: {"status":"running","reason":null}\n\n'
_ACTED: dict[int | str, dict[str, Any]] = {
    200: {"description": "Done at once: no worker held the run."},
    202: {"description": "Asked for; the worker sees to it within two seconds.", "model": Run},
}


class RunsQuery(PageQuery):
    """A page of runs."""

    experiment_id: str | None = Field(None, pattern=ID_PATTERN, description="Runs of this experiment.")
    status: RunStatus | None = Field(None, description="Runs in this state.")


class SeriesQuery(BaseModel):
    """Which series, how finely."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(
        min_length=1, max_length=200, pattern=r"^[^\x00]+$", description="A metric.", examples=["train/episode_return"]
    )
    max_points: int = Field(1000, ge=3, le=100_000, description="Buckets at most.")


class EventsQuery(BaseModel):
    """A page of a run's history, oldest first."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(20, ge=1, le=100, description="Items on the page.")
    after: int = Field(0, ge=0, le=MAX_NUMBER, description="Id of the last event of the page before.")


class LogsQuery(BaseModel):
    """A page of a run's log, oldest first."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(100, ge=1, le=1000, description="Lines on the page.")
    after: str | None = Field(None, max_length=40, description="Id of the last line of the page before.")


class CheckpointsQuery(PageQuery):
    """A page of checkpoints."""

    kind: Literal["scheduled", "best", "final"] | None = Field(None, description="Only of this kind.")


@router.get("", summary="List runs, newest first", responses=problems(422))
def list_runs(query: Annotated[RunsQuery, Query()], service: ServiceDep) -> Page[Run]:
    """All, or those of an experiment, or in a state."""
    with service.database.reading() as session:
        return runs.list_page(session, **query.model_dump())


@router.get("/{run_id}", summary="Read a run", responses=problems(404, 429))
async def read_run(run_id: RunId, service: ServiceDep, wait: WaitDep, response: Response) -> Run:
    """With ``Prefer: wait=N`` the answer comes when the run has ended."""
    run = await run_in_threadpool(_read, service, run_id)
    if wait and run.status not in TERMINAL:
        await service.hub.ended([run_id], wait)
        response.headers["Preference-Applied"] = f"wait={wait}"
        run = await run_in_threadpool(_read, service, run_id)
    return run


def _read(service: Service, run_id: str) -> Run:
    with service.database.reading() as session:
        return runs.get(session, run_id)


@router.post("/{run_id}/cancel", summary="Stop a run soon", responses={**_ACTED, **problems(404, 409)})
def cancel_run(run_id: RunId, service: ServiceDep, response: Response) -> Run:
    """It keeps a final checkpoint."""
    return _act(service, run_id, "cancel", response)


@router.post("/{run_id}/kill", summary="Stop a run at once", responses={**_ACTED, **problems(404, 409)})
def kill_run(run_id: RunId, service: ServiceDep, response: Response) -> Run:
    """Nothing more is saved; it ends as ``cancelled`` for the reason ``killed``."""
    return _act(service, run_id, "kill", response)


@router.post("/{run_id}/pause", summary="Pause a run", responses={**_ACTED, **problems(404, 409)})
def pause_run(run_id: RunId, service: ServiceDep, response: Response) -> Run:
    """It saves its complete state and gives its worker back."""
    return _act(service, run_id, "pause", response)


@router.post("/{run_id}/resume", summary="Resume a paused run", responses={**_ACTED, **problems(404, 409)})
def resume_run(run_id: RunId, service: ServiceDep, response: Response) -> Run:
    """It is queued, and goes on from where it was."""
    return _act(service, run_id, "resume", response)


def _act(service: Service, run_id: str, action: Action, response: Response) -> Run:
    with service.database.writing() as session:
        run, queues = runs.act(session, run_id, action)
    service.ring(queues)
    if run.status in ("pausing", "cancelling"):
        response.status_code = 202
    return run


@router.get(
    "/{run_id}/metrics",
    summary="List a run's metrics with their newest values",
    dependencies=[WHOLE],
    responses=problems(404, 422),
)
def list_metrics(run_id: RunId, service: ServiceDep) -> Page[Metric]:
    """By key."""
    with service.database.reading() as session:
        return metrics.latest(session, run_id)


@router.get(
    "/{run_id}/series",
    summary="Read a metric over env steps",
    response_model=Series,
    responses=problems(404, 422),
)
def read_series(run_id: RunId, query: Annotated[SeriesQuery, Query()], service: ServiceDep) -> Response:
    """In at most ``max_points`` buckets with mean, minimum and maximum; the first and the last point stand alone."""
    with service.database.reading() as session:
        series = metrics.series(session, run_id, query.key, query.max_points)
    return Response(orjson.dumps(series, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@router.get("/{run_id}/events", summary="Read a run's history, oldest first", responses=problems(404, 422))
def list_events(run_id: RunId, query: Annotated[EventsQuery, Query()], service: ServiceDep) -> Page[Event]:
    """Changes of state, checkpoints, evaluations; ids count up."""
    with service.database.reading() as session:
        return runs.events(session, run_id, after=query.after, limit=query.limit)


@router.get("/{run_id}/logs", summary="Read a run's log, oldest first", responses=problems(404, 422))
def list_log_lines(run_id: RunId, query: Annotated[LogsQuery, Query()], service: ServiceDep) -> Page[LogLine]:
    """What the processes that trained it wrote."""
    with service.database.reading() as session:
        return runs.log_lines(session, run_id, after=query.after, limit=query.limit)


@router.get(
    "/{run_id}/attempts",
    summary="List the attempts to train a run, oldest first",
    dependencies=[WHOLE],
    responses=problems(404, 422),
)
def list_attempts(run_id: RunId, service: ServiceDep) -> Page[Attempt]:
    """A crash, a preemption or a pause ends one."""
    with service.database.reading() as session:
        return runs.attempts(session, run_id)


@router.get("/{run_id}/checkpoints", summary="List a run's checkpoints, newest first", responses=problems(404, 422))
def list_checkpoints(
    run_id: RunId, query: Annotated[CheckpointsQuery, Query()], service: ServiceDep
) -> Page[Checkpoint]:
    """With the files of each."""
    with service.database.reading() as session:
        return checkpoints.list_page(session, run_id, **query.model_dump())


@router.get(
    "/{run_id}/stream",
    summary="Follow a run: server-sent events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events `status`, `metrics`, `log`, `checkpoint`, `evaluation`, and `done` last.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _STREAM_EXAMPLE}},
        },
        **problems(404, 422, 429),
    },
)
async def stream_run(
    run_id: RunId,
    service: ServiceDep,
    last_event_id: Annotated[
        int, Header(alias="Last-Event-ID", ge=0, le=MAX_NUMBER, description="Go on after this event.")
    ] = 0,
) -> StreamingResponse:
    """The history after ``Last-Event-ID``, then what happens; ids are those of ``/events``."""
    await run_in_threadpool(_read, service, run_id)
    frames = service.hub.stream(run_id, last_event_id)
    first = await anext(frames)  # a refusal comes before the answer has begun

    async def content() -> AsyncIterator[bytes]:
        yield first
        async for frame in frames:
            yield frame

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(content(), media_type="text/event-stream", headers=headers)
