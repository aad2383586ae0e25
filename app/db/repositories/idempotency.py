"""Answers given to requests with an ``Idempotency-Key``."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.clock import now
from app.db.engine import insert_missing
from app.db.models import IdempotencyKey


def find(session: Session, *, principal: str, route: str, key: str) -> IdempotencyKey | None:
    """The answer given before, if any."""
    query = select(IdempotencyKey).where(
        IdempotencyKey.principal == principal, IdempotencyKey.route == route, IdempotencyKey.key == key
    )
    return session.scalar(query.execution_options(populate_existing=True))


def store(
    session: Session,
    *,
    principal: str,
    route: str,
    key: str,
    body_hash: str,
    status: int,
    location: str | None,
    body: Mapping[str, Any],
) -> bool:
    """Keep an answer, in the transaction that creates what it speaks of.

    Waits for a concurrent request with the same key to commit or to roll back.

    Returns:
        False when that request came first: roll back and give its answer.
    """
    statement = insert_missing(session, IdempotencyKey).values(
        principal=principal,
        route=route,
        key=key,
        body_hash=body_hash,
        status=status,
        location=location,
        body=dict(body),
        created_at=now(),
    )
    return session.scalar(statement.returning(IdempotencyKey.key)) is not None


def purge(session: Session, max_age: float) -> int:
    """Forget the answers older than ``max_age`` seconds."""
    old = delete(IdempotencyKey).where(IdempotencyKey.created_at < now() - max_age).returning(IdempotencyKey.key)
    return len(session.scalars(old).all())
