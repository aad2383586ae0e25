"""Checkpoints and their files."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from app.db.repositories import checkpoints
from app.errors import Damaged, Gone, NotFound
from app.schemas import responses
from app.services import runs, views
from app.services.lookup import by_id

VERIFIED_BYTES = 16 * 2**20
"""Files up to this size are compared with their digests before they are sent: some 10 ms at most."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A checkpoint's file on disk."""

    path: Path
    size: int
    sha256: str


def list_page(
    session: Session, run_id: str, *, limit: int, after: str | None = None, kind: str | None = None
) -> responses.Page[responses.Checkpoint]:
    """Checkpoints of a run, newest first.

    Raises:
        NotFound
    """
    runs.find(session, run_id)
    page = checkpoints.list_page(session, run_id, limit=limit, after=after, kind=kind)
    return responses.Page[responses.Checkpoint](
        data=[views.checkpoint(row) for row in page.data], has_more=page.has_more
    )


def get(session: Session, checkpoint_id: str) -> responses.Checkpoint:
    """One checkpoint.

    Raises:
        NotFound
    """
    return views.checkpoint(by_id(lambda wanted: checkpoints.get(session, wanted), "checkpoint", checkpoint_id))


def file(session: Session, artifacts: Path, checkpoint_id: str, name: str) -> StoredFile:
    """A file by its name in the checkpoint's manifest: names from a request are compared, never joined to a path.

    Raises:
        NotFound: no such checkpoint, or no such file in it.
        Gone: it is not on disk any more: lost, or its checkpoint was superseded just now.
        Damaged: it has another size or, unless it is large, another digest than when it was written.
    """
    row = by_id(lambda wanted: checkpoints.get(session, wanted), "checkpoint", checkpoint_id)
    for entry in row.files:
        if entry["name"] == name:
            path = (artifacts / row.path / entry["name"]).resolve()
            if not path.is_relative_to(artifacts):
                break
            if not path.is_file():
                logger.error("%s is gone", path)
                raise Gone(f"the bytes of {path.name} of checkpoint {checkpoint_id} are gone from the artifact folder")
            _verify(path, entry["bytes"], entry["sha256"])
            return StoredFile(path, entry["bytes"], entry["sha256"])
    raise NotFound(f"checkpoint {checkpoint_id} has no file {name[:80]!r}")


def _verify(path: Path, size: int, sha256: str) -> None:
    found = path.stat().st_size
    if found != size:
        damage = f"has {found} bytes instead of {size}"
    elif size <= VERIFIED_BYTES and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        damage = "differs from its SHA-256"
    else:
        return
    logger.error("%s %s", path, damage)
    raise Damaged(f"{path.name} is damaged: on disk it {damage}")
