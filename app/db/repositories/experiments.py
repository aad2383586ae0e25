"""Experiments: immutable specs, and tags."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.clock import now
from app.db.models import Experiment
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
