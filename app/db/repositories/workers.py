"""Workers and their heartbeats."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.db.clock import now
from app.db.models import Worker
from app.db.page import Page, newest_first


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says of itself: one entry of ``devices`` per slot, ``cpu`` or ``cuda:N``."""

    id: str
    name: str
    queues: tuple[str, ...]
    devices: tuple[str, ...]


def takes(slot_device: str) -> tuple[str, ...]:
    """The devices a job may ask for to fit a slot."""
    return ("auto", "cpu") if slot_device == "cpu" else ("auto", "cuda", slot_device)


def register(session: Session, worker: WorkerInfo) -> None:
    """Make a worker known."""
    session.add(
        Worker(
            id=worker.id,
            name=worker.name,
            queues=list(worker.queues),
            devices=list(worker.devices),
            busy=0,
            started_at=now(),
            heartbeat_at=now(),
        )
    )
    session.flush()


def heartbeat(session: Session, worker_id: str, busy: int) -> bool:
    """Note that a worker is alive with ``busy`` slots taken. False: nobody registered it."""
    alive = update(Worker).where(Worker.id == worker_id).values(heartbeat_at=now(), busy=busy)
    returning = alive.returning(Worker.id)
    return session.scalar(returning, execution_options={"synchronize_session": False}) is not None


def stop(session: Session, worker_id: str) -> None:
    """Note that a worker shut down."""
    session.execute(
        update(Worker).where(Worker.id == worker_id).values(stopped_at=now(), busy=0),
        execution_options={"synchronize_session": False},
    )


def live(session: Session, max_age: float) -> Sequence[Worker]:
    """The workers heard of within ``max_age`` seconds, oldest first."""
    query = select(Worker).where(Worker.stopped_at.is_(None), Worker.heartbeat_at > now() - max_age)
    return session.scalars(query.order_by(Worker.started_at, Worker.id)).all()


def list_page(session: Session, *, limit: int, after: str | None = None) -> Page[Worker]:
    """Every worker ever registered, newest first."""
    return newest_first(session, select(Worker), Worker.id, limit=limit, after=after)


def purge(session: Session, max_age: float) -> None:
    """Forget the workers not heard of for ``max_age`` seconds."""
    session.execute(
        delete(Worker).where(Worker.heartbeat_at < now() - max_age), execution_options={"synchronize_session": False}
    )
