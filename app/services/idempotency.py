"""``Idempotency-Key``: the same key and body give the same answer, however often and however concurrently sent."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.db.models import IdempotencyKey
from app.db.repositories import idempotency
from app.errors import KeyReused
from app.schemas.base import FieldError


@dataclass(frozen=True, slots=True)
class Keyed:
    """A request that carries a key."""

    principal: str
    route: str
    key: str
    body_hash: str


class AnsweredMeanwhile(Exception):
    """A concurrent request with the same key committed first: roll back, and look again."""


def digest(body: Any) -> str:
    """Hash of a JSON value, whatever its spelling."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def answered(session: Session, keyed: Keyed) -> IdempotencyKey | None:
    """The answer given before, if any.

    Raises:
        KeyReused: it was the answer to another body.
    """
    before = idempotency.find(session, principal=keyed.principal, route=keyed.route, key=keyed.key)
    if before is not None and before.body_hash != keyed.body_hash:
        message = "this Idempotency-Key came with another body before; use a new key for a new request"
        raise KeyReused(message, errors=[FieldError("/Idempotency-Key", message)])
    return before


def keep(session: Session, keyed: Keyed, *, status: int, location: str, body: dict[str, Any]) -> None:
    """Store an answer in the transaction that creates what it speaks of.

    Raises:
        AnsweredMeanwhile
    """
    kept = idempotency.store(
        session,
        principal=keyed.principal,
        route=keyed.route,
        key=keyed.key,
        body_hash=keyed.body_hash,
        status=status,
        location=location,
        body=body,
    )
    if not kept:
        raise AnsweredMeanwhile
