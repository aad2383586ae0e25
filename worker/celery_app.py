"""The Celery application of a worker: threads, one doorbell at a time, acknowledged at once.

A job's lease in the database recovers crashes, not the broker: its visibility timeout would start long jobs twice.
"""

from celery import Celery

from app.queue import broker_settings


def make_celery(broker_url: str) -> Celery:
    """An application whose worker keeps looking for its broker for ever."""
    celery = Celery("trainyard", set_as_current=False)
    celery.conf.update(
        broker_settings(broker_url),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return celery
