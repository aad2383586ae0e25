"""The one task: a doorbell. What to do is in the database."""

from celery import Celery

from app.queue import TASK
from worker.jobs import dispatch
from worker.jobs.host import Host


def register(celery: Celery, host: Host) -> None:
    """Let ``host`` answer the doorbell."""

    @celery.task(name=TASK)  # type: ignore[untyped-decorator]
    def work(queue: str) -> None:
        dispatch.work(host)
