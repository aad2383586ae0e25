"""Cursor pages. Ids sort by time, so the id of the last row seen is the cursor."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Rows, newest first, and whether there are older ones."""

    data: list[Row]
    has_more: bool


def newest_first(
    session: Session, query: Select[Row], id_column: InstrumentedAttribute[str], *, limit: int, after: str | None
) -> Page[Row]:
    """The ``limit`` newest rows of ``query`` that are older than the row with id ``after``."""
    conditions: list[Any] = [] if after is None else [id_column < after]
    rows = session.scalars(query.where(*conditions).order_by(id_column.desc()).limit(limit + 1)).all()
    return Page(list(rows[:limit]), len(rows) > limit)
