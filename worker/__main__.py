"""``python -m worker``: a Celery worker on a pool of threads, one per slot."""

import logging
import sys
import time
import warnings

from celery.platforms import SecurityWarning
from celery.signals import worker_shutting_down

from app.db import migrate
from app.settings import get_settings
from worker import tasks
from worker.celery_app import make_celery
from worker.jobs import gpus
from worker.jobs.away import DATABASE_AWAY
from worker.jobs.host import Host

log = logging.getLogger("worker")

RETRY_SECONDS = 2.0


def main() -> int:
    """Run until SIGTERM: trainers then checkpoint and their jobs go back to the queue. Returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("alembic", "celery", "kombu"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    warnings.simplefilter("ignore", SecurityWarning)  # it warns root of messages that run code; these are JSON
    settings = get_settings()
    if settings.broker_url is None:
        sys.exit("trainyard worker: TRAINYARD_BROKER_URL is not set")
    try:
        gpus.check(settings.devices)
        _check_schema(settings.database_url)
    except gpus.DeviceMissing as error:
        sys.exit(f"trainyard worker: TRAINYARD_DEVICES: {error}")
    except migrate.SchemaError as error:
        sys.exit(f"trainyard worker: {error}")
    host = Host(settings)
    host.start()

    def shut_down(**_: object) -> None:
        host.stopping = True  # in a signal handler: nothing else

    worker_shutting_down.connect(shut_down)
    celery = make_celery(settings.broker_url)
    tasks.register(celery, host)
    worker = celery.Worker(
        hostname=host.id,
        pool="threads",
        concurrency=len(host.slots.all),
        queues=list(settings.queues),
        loglevel="WARNING",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    host.stop()
    return int(worker.exitcode or 0)


def _check_schema(database_url: str) -> None:
    """Wait for the database, and return if its schema is the one this code knows.

    Raises:
        SchemaError: it is another one.
    """
    while True:
        try:
            return migrate.check(database_url)
        except DATABASE_AWAY as error:
            log.warning("the database is away: %s", error)
            time.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
