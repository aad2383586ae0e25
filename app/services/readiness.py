"""Whether what the service needs is there."""

from sqlalchemy.exc import SQLAlchemyError

from app.db import migrate
from app.errors import Unavailable
from app.queue import Doorbell
from app.schemas.base import FieldError
from app.schemas.responses import Readiness
from app.settings import Settings


def check(settings: Settings, doorbell: Doorbell) -> Readiness:
    """Ask database and broker.

    Raises:
        Unavailable: naming what is not ready.
    """
    unready = []
    try:
        migrate.check(settings.database_url)
    except migrate.SchemaError as error:
        unready.append(FieldError("/migrations", str(error)))
    except SQLAlchemyError:
        unready.append(FieldError("/database", "unreachable"))
    if settings.broker_url and not doorbell.ping():
        unready.append(FieldError("/broker", "unreachable"))
    if unready:
        detail = "; ".join(f"{error.pointer[1:]}: {error.message}" for error in unready)
        raise Unavailable(f"not ready: {detail}", errors=unready)
    return Readiness(broker="ok" if settings.broker_url else "none")
