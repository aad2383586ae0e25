"""Checkpoints and their files."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from app.db.repositories import checkpoints
from app.errors import NotFound
from app.schemas import responses
from app.services import runs, views
from app.services.lookup import by_id


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
        NotFound: no such checkpoint, no such file in it, or the file has been removed meanwhile.
    """
    row = by_id(lambda wanted: checkpoints.get(session, wanted), "checkpoint", checkpoint_id)
    for entry in row.files:
        if entry["name"] == name:
            path = (artifacts / row.path / entry["name"]).resolve()
            if not path.is_relative_to(artifacts) or not path.is_file():
                break
            return StoredFile(path, path.stat().st_size, entry["sha256"])
    raise NotFound(f"checkpoint {checkpoint_id} has no file {name[:80]!r}")
