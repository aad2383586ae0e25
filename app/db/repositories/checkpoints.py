"""Checkpoints as their readers see them; trainers write them through ``training``."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Checkpoint
from app.db.page import Page, newest_first


def get(session: Session, checkpoint_id: str) -> Checkpoint | None:
    return session.get(Checkpoint, checkpoint_id)


def list_page(
    session: Session, run_id: str, *, limit: int, after: str | None = None, kind: str | None = None
) -> Page[Checkpoint]:
    """Newest first."""
    query = select(Checkpoint).where(Checkpoint.run_id == run_id)
    if kind is not None:
        query = query.where(Checkpoint.kind == kind)
    return newest_first(session, query, Checkpoint.id, limit=limit, after=after)


def find(session: Session, run_id: str, reference: str) -> Checkpoint | None:
    """A run's checkpoint by reference: ``best`` (the latest one when none was evaluated yet), ``final``, ``latest``, or
    an id."""
    query = (
        select(Checkpoint)
        .where(Checkpoint.run_id == run_id)
        .order_by(Checkpoint.env_steps.desc(), Checkpoint.id.desc())
    )
    if reference == "best":
        best = session.scalar(query.where(Checkpoint.kind == "best").limit(1))
        return best or find(session, run_id, "latest")
    if reference == "final":
        return session.scalar(query.where(Checkpoint.kind == "final").limit(1))
    if reference == "latest":
        return session.scalar(query.limit(1))
    return session.scalar(query.where(Checkpoint.id == reference))
