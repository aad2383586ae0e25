"""Experiments: immutable specs, and tags."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.clock import now
from app.db.models import Experiment, Run
from app.db.page import Page, newest_first


def create(
    session: Session,
    *,
    experiment_id: str,
    name: str,
    spec: Mapping[str, Any],
    spec_hash: str,
    tags: Mapping[str, str],
) -> Experiment:
    """Store a resolved spec."""
    experiment = Experiment(
        id=experiment_id, name=name, spec=dict(spec), spec_hash=spec_hash, tags=dict(tags), created_at=now()
    )
    session.add(experiment)
    session.flush()
    return experiment


def get(session: Session, experiment_id: str) -> Experiment | None:
    return session.get(Experiment, experiment_id)


def list_page(session: Session, *, limit: int, after: str | None = None, name: str | None = None) -> Page[Experiment]:
    """Newest first; ``name`` selects exactly that name."""
    query = select(Experiment)
    if name is not None:
        query = query.where(Experiment.name == name)
    return newest_first(session, query, Experiment.id, limit=limit, after=after)


def status_counts(session: Session, experiment_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """experiment id -> run status -> number of runs; an experiment's own status follows from these."""
    counts: dict[str, dict[str, int]] = {experiment_id: {} for experiment_id in experiment_ids}
    query = (
        select(Run.experiment_id, Run.status, func.count())
        .where(Run.experiment_id.in_(experiment_ids))
        .group_by(Run.experiment_id, Run.status)
    )
    for experiment_id, status, number in session.execute(query):
        counts[experiment_id][status] = number
    return counts


def delete(session: Session, experiment_id: str) -> bool:
    """Delete an experiment and all that belongs to it. False: there was none."""
    return (
        session.execute(sql_delete(Experiment).where(Experiment.id == experiment_id).returning(Experiment.id)).first()
        is not None
    )
