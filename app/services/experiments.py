"""Experiments: created from a spec, in packs of runs that share a job; acted on through their runs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.repositories import experiments, jobs
from app.db.repositories import runs as run_rows
from app.db.repositories.runs import Brief
from app.errors import Conflict, Invalid
from app.schemas import responses
from app.schemas.base import FieldError, SpecError
from app.schemas.experiment import ExperimentSpec, resolve, spec_hash
from app.schemas.packing import pack_size
from app.services import idempotency, runs, views
from app.services.idempotency import Keyed
from app.services.lookup import by_id


@dataclass(frozen=True, slots=True)
class Outcome:
    """An experiment, and the queue of every job that was made: each is to be rung for after the commit."""

    experiment: responses.Experiment
    queues: tuple[str, ...] = ()
    replayed: bool = False


def resolved(spec: ExperimentSpec) -> ExperimentSpec:
    """The spec with every default filled in.

    Raises:
        Invalid: it cannot be trained or stored; all reasons found are listed.
    """
    errors = list(_unstorable(spec.model_dump(), ""))
    if not errors:
        try:
            return resolve(spec)
        except SpecError as error:
            errors = error.errors
    raise Invalid.fields(errors)


def create(session: Session, spec: ExperimentSpec, keyed: Keyed | None = None) -> Outcome:
    """Store a resolved spec with its runs and jobs; a keyed request is answered as it was the first time.

    Raises:
        KeyReused, AnsweredMeanwhile
    """
    if keyed and (before := idempotency.answered(session, keyed)):
        return Outcome(responses.Experiment.model_validate(before.body), replayed=True)
    row = experiments.create(
        session,
        experiment_id=new_id("exp"),
        name=spec.name or "",
        spec=spec.model_dump(mode="json"),
        spec_hash=spec_hash(spec),
        tags=spec.tags,
    )
    size = pack_size(spec)
    new: list[run_rows.NewRun] = []
    for first in range(0, len(spec.seeds), size):
        job = jobs.create(
            session,
            job_id=new_id("job"),
            experiment_id=row.id,
            queue=spec.resources.queue,
            device=spec.resources.device,
            priority=spec.resources.priority,
        )
        pack = enumerate(spec.seeds[first : first + size], first)
        new += [run_rows.NewRun(new_id("run"), job.id, position, seed) for position, seed in pack]
    run_rows.create(session, experiment_id=row.id, total_env_steps=spec.training.total_env_steps, runs=new)
    session.refresh(row)
    experiment = views.experiment(row, run_rows.briefs(session, [row.id]))
    if keyed:
        body = experiment.model_dump(mode="json")
        idempotency.keep(session, keyed, status=201, location=location(row.id), body=body)
    return Outcome(experiment, queues=(spec.resources.queue,) * math.ceil(len(spec.seeds) / size))


def location(experiment_id: str) -> str:
    """Path of an experiment."""
    return f"/v1/experiments/{experiment_id}"


def get(session: Session, experiment_id: str) -> responses.Experiment:
    """One experiment.

    Raises:
        NotFound
    """
    row = by_id(lambda wanted: experiments.get(session, wanted), "experiment", experiment_id)
    return views.experiment(row, run_rows.briefs(session, [row.id]))


def list_page(
    session: Session, *, limit: int, after: str | None = None, name: str | None = None
) -> responses.Page[responses.Experiment]:
    """Newest first."""
    page = experiments.list_page(session, limit=limit, after=after, name=name)
    runs_of: dict[str, list[Brief]] = {row.id: [] for row in page.data}
    for run in run_rows.briefs(session, list(runs_of)):
        runs_of[run.experiment_id].append(run)
    data = [views.experiment(row, runs_of[row.id]) for row in page.data]
    return responses.Page[responses.Experiment](data=data, has_more=page.has_more)


def act(session: Session, experiment_id: str, action: runs.Action) -> Outcome:
    """Do ``action`` to every run whose state allows it.

    Raises:
        NotFound
        Conflict: no run's state allows it.
    """
    by_id(lambda wanted: experiments.get(session, wanted), "experiment", experiment_id)
    members = run_rows.of_experiments(session, [experiment_id])
    queues = runs.act_on_all(session, members, action)
    if queues is None:
        found = ", ".join(sorted({run.status for run in members}))
        allowed = sorted({able for run in members for able in runs.ALLOWED[run.status]} - {"kill"})  # runs alone are
        raise Conflict(
            f"no run of experiment {experiment_id} can {action}: they are {found}",
            errors=[FieldError("/status", f"runs are {found}", allowed=tuple(allowed))],
        )
    session.expire_all()
    return Outcome(get(session, experiment_id), queues)


def _unstorable(value: object, pointer: str) -> Iterator[FieldError]:
    """What no database and no other JSON parser would take: NUL, lone surrogates, NaN, integers beyond 64 bits."""
    match value:
        case dict():
            for key, item in value.items():
                place = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
                yield from _unstorable(key, place)
                yield from _unstorable(item, place)
        case list() | tuple():
            for index, item in enumerate(value):
                yield from _unstorable(item, f"{pointer}/{index}")
        case str() if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            yield FieldError(pointer, "may contain neither NUL nor unpaired surrogates")
        case float() if not math.isfinite(value):
            yield FieldError(pointer, "must be a finite number")
        case int() if abs(value) >= 2**63:
            yield FieldError(pointer, "must fit 64 bits")
