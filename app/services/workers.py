"""The workers, and which of them are alive."""

from sqlalchemy.orm import Session

from app.db.repositories import workers
from app.schemas import responses
from app.services import views
from app.services.sweep import GONE_SECONDS


def list_page(session: Session, *, limit: int, after: str | None = None) -> responses.Page[responses.Worker]:
    """Every worker heard of, newest first."""
    live = {row.id for row in workers.live(session, GONE_SECONDS)}
    page = workers.list_page(session, limit=limit, after=after)
    data = [views.worker(row, live=row.id in live) for row in page.data]
    return responses.Page[responses.Worker](data=data, has_more=page.has_more)
