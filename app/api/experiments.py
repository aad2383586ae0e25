"""Experiments."""

import contextlib
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from app.api.deps import KeyHeader, PageQuery, Service, ServiceDep, WaitDep
from app.api.problems import problems
from app.errors import TooManyRequests
from app.schemas import examples
from app.schemas.experiment import ExperimentSpec
from app.schemas.responses import Experiment, Page
from app.services import experiments
from app.services.experiments import Outcome
from app.services.idempotency import AnsweredMeanwhile, Keyed, digest
from app.services.runs import Action

router = APIRouter(prefix="/v1/experiments", tags=["experiments"])

ExperimentId = Annotated[str, Path(description="Id of an experiment.", examples=[examples.EXPERIMENT["id"]])]
Spec = Annotated[
    ExperimentSpec,
    Body(
        openapi_examples={
            "minimal": {"summary": "Only what is required", "value": examples.SPEC_MINIMAL},
            "full": {"summary": "Four seeds with a few settings", "value": examples.SPEC},
        }
    ),
]


class ExperimentsQuery(PageQuery):
    """A page of experiments."""

    name: str | None = Field(
        None, min_length=1, max_length=200, pattern=r"^[^\x00]+$", description="Exactly this name."
    )


@router.post(
    "",
    status_code=201,
    summary="Create an experiment: a run per seed, queued at once",
    response_description="The experiment, its spec resolved.",
    responses=problems(400, 413, 415, 422),
)
async def create_experiment(
    request: Request, spec: Spec, service: ServiceDep, response: Response, wait: WaitDep, key: KeyHeader = None
) -> Experiment:
    """Defaults are filled in and stored. With ``Prefer: wait=N`` the answer comes when all runs have ended."""
    keyed = None
    if key is not None:
        body = digest(spec.model_dump(mode="json", exclude_unset=True))
        keyed = Keyed(request.state.principal, "POST /v1/experiments", key, body)
    outcome = await run_in_threadpool(_create, service, spec, keyed)
    experiment = outcome.experiment
    response.headers["Location"] = experiments.location(experiment.id)
    if outcome.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    if wait:
        with contextlib.suppress(TooManyRequests):  # it has been created: answer now rather than fail
            await service.hub.ended([run.id for run in experiment.runs], wait)
            response.headers["Preference-Applied"] = f"wait={wait}"
        experiment = await run_in_threadpool(_read, service, experiment.id)
    return experiment


def _create(service: Service, spec: ExperimentSpec, keyed: Keyed | None) -> Outcome:
    resolved = experiments.resolved(spec)
    try:
        with service.database.writing() as session:
            outcome = experiments.create(session, resolved, keyed)
    except AnsweredMeanwhile:
        with service.database.writing() as session:
            outcome = experiments.create(session, resolved, keyed)
    service.ring(outcome.queues)
    return outcome


def _read(service: Service, experiment_id: str) -> Experiment:
    with service.database.reading() as session:
        return experiments.get(session, experiment_id)


@router.get("", summary="List experiments, newest first", responses=problems(422))
def list_experiments(query: Annotated[ExperimentsQuery, Query()], service: ServiceDep) -> Page[Experiment]:
    """With their runs' states."""
    with service.database.reading() as session:
        return experiments.list_page(session, limit=query.limit, after=query.after, name=query.name)


@router.get("/{experiment_id}", summary="Read an experiment", responses=problems(404))
def read_experiment(experiment_id: ExperimentId, service: ServiceDep) -> Experiment:
    """With its resolved spec and its runs' states."""
    return _read(service, experiment_id)


@router.post("/{experiment_id}/cancel", summary="Cancel all runs that have not ended", responses=problems(404, 409))
def cancel_experiment(experiment_id: ExperimentId, service: ServiceDep) -> Experiment:
    """Each keeps a final checkpoint."""
    return _act(service, experiment_id, "cancel")


@router.post("/{experiment_id}/pause", summary="Pause all runs that are under way", responses=problems(404, 409))
def pause_experiment(experiment_id: ExperimentId, service: ServiceDep) -> Experiment:
    """Each saves its state and gives its worker back."""
    return _act(service, experiment_id, "pause")


@router.post("/{experiment_id}/resume", summary="Resume all paused runs", responses=problems(404, 409))
def resume_experiment(experiment_id: ExperimentId, service: ServiceDep) -> Experiment:
    """They go on from where they were; runs that were paused together go on together."""
    return _act(service, experiment_id, "resume")


def _act(service: Service, experiment_id: str, action: Action) -> Experiment:
    with service.database.writing() as session:
        outcome = experiments.act(session, experiment_id, action)
    service.ring(outcome.queues)
    return outcome.experiment
