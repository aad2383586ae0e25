"""Things by id."""

import re
from collections.abc import Callable
from typing import TypeVar

from app.errors import NotFound

ID_PATTERN = r"^[a-z]{2,8}_[0-9a-z]{1,40}$"

Row = TypeVar("Row")
_ID = re.compile(ID_PATTERN)


def by_id(get: Callable[[str], Row | None], kind: str, wanted: str) -> Row:
    """What ``get`` finds under an id.

    Raises:
        NotFound: there is none; what doesn't look like an id never reaches the database.
    """
    row = get(wanted) if _ID.fullmatch(wanted) else None
    if row is None:
        raise NotFound(f"there is no {kind} {wanted[:60]!r}")
    return row
