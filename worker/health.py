"""``python -m worker.health``: exits 0 if a worker of this machine has told the database lately that it lives."""

import platform
import sys

from sqlalchemy.exc import SQLAlchemyError

from app.db.engine import Database
from app.db.repositories import workers
from app.settings import Settings, get_settings


def alive(settings: Settings) -> bool:
    """Whether a worker on this host beat within three leases. Containers have host names of their own."""
    database = Database(settings.database_url, pool_size=2)
    try:
        with database.reading() as session:
            beating = workers.live(session, 3 * settings.lease_seconds)
            return any(worker.name.startswith(f"{platform.node()}:") for worker in beating)
    except SQLAlchemyError:
        return False
    finally:
        database.dispose()


if __name__ == "__main__":
    sys.exit(0 if alive(get_settings()) else 1)
