"""From a doorbell to supervised jobs."""

import logging

from worker.jobs.away import DATABASE_AWAY
from worker.jobs.host import Host
from worker.jobs.supervisor import Supervisor

log = logging.getLogger(__name__)


def work(host: Host) -> None:
    """Claim the best job and train it, until none is left that a free slot takes."""
    try:
        while not host.stopping and any(_work_once(host, device) for device in host.slots.free_devices()):
            pass
    except DATABASE_AWAY as error:
        log.warning("the database is away, the sweeper will ring again: %s", error)


def _work_once(host: Host, device: str) -> bool:
    """Train one job on a slot of this device; False when there is none."""
    with host.slots.take(device) as slot:
        if slot is None or (claim := host.claim(device)) is None:
            return False
        host.training.add(claim.job_id)
        try:
            Supervisor(host, claim, slot).run()
        finally:
            host.training.discard(claim.job_id)
        return True
