"""Folders of artifacts: those that rows name stay."""

from collections.abc import Sequence

from sqlalchemy import select, union
from sqlalchemy.orm import Session

from app.db.models import Checkpoint, ResumeState

_BATCH = 500
"""Paths asked for in one statement."""


def unnamed(session: Session, paths: Sequence[str]) -> list[str]:
    """Those of ``paths`` that are the folder of no checkpoint and of no resume state."""
    named: set[str] = set()
    for start in range(0, len(paths), _BATCH):
        batch = paths[start : start + _BATCH]
        query = union(*(select(table.path).where(table.path.in_(batch)) for table in (Checkpoint, ResumeState)))
        named.update(session.scalars(query))
    return [path for path in paths if path not in named]
