"""What the supervisors of one worker process share: database, slots, spares; its heartbeats and its sweeper."""

import logging
import os
import platform
import threading

from sqlalchemy.exc import SQLAlchemyError

from app.db.engine import Database
from app.db.ids import new_id
from app.db.repositories import jobs, workers
from app.db.repositories.jobs import Claim
from app.queue import Doorbell
from app.services.sweep import Sweeper
from app.settings import Settings
from worker.jobs import slots as places
from worker.jobs.spares import Spares

log = logging.getLogger(__name__)


class Host:
    """One per worker process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.id = new_id("wrk")
        self.slots = places.Slots(places.devices(settings.devices, settings.slots))
        self.database = Database(settings.database_url, pool_size=len(self.slots.all) + 2)
        self.doorbell = Doorbell(settings.broker_url)
        self.spares = Spares(
            settings.spares,
            database_url=settings.database_url,
            threads=max(1, places.cores() // len(self.slots.all)),
        )
        self.stopping = False
        """Set by a signal handler, read by the supervisors."""
        self.training: set[str] = set()
        """Jobs whose trainers run here: not to be claimed again, should their leases be lost."""
        self._stopped = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._sweeper = Sweeper(
            self.database,
            interval=settings.sweep_seconds,
            ring=self.doorbell.ring,
            queue_length=self.doorbell.length,
            artifacts_dir=settings.artifacts_dir,
        )

    def start(self) -> None:
        """Start spares, heartbeats and sweeper."""
        self.spares.start()
        self._beating.start()
        self._sweeper.start()

    def stop(self) -> None:
        """End them; supervisors have ended before."""
        self._stopped.set()
        self.spares.stop()
        self._sweeper.stop()
        self._beating.join()
        self.database.dispose()
        self.doorbell.close()

    def claim(self, device: str) -> Claim | None:
        """The best queued job that a slot of this device takes, now leased to this worker."""
        with self.database.writing() as session:
            return jobs.claim(
                session,
                worker_id=self.id,
                queues=self.settings.queues,
                devices=workers.takes(device),
                lease_seconds=self.settings.lease_seconds,
                excluding=tuple(self.training),
            )

    def _beat(self) -> None:
        """Tell the database every third of a lease that this worker lives."""
        me = workers.WorkerInfo(
            id=self.id,
            name=f"{platform.node()}:{os.getpid()}",
            queues=tuple(self.settings.queues),
            devices=tuple(slot.device for slot in self.slots.all),
        )
        while not self._stopped.is_set():
            try:
                with self.database.writing() as session:
                    if not workers.heartbeat(session, self.id, self.slots.busy):
                        workers.register(session, me)
            except SQLAlchemyError as error:  # whatever it is: a worker that claims jobs must be known
                log.warning("heartbeat failed, tries again: %s", error)
            self._stopped.wait(self.settings.lease_seconds / 3)
        try:
            with self.database.writing() as session:
                workers.stop(session, self.id)
        except SQLAlchemyError as error:
            log.warning("the last heartbeat tells when this worker ended: %s", error)
