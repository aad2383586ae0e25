"""Workers, liveness, readiness."""

from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter
from sqlalchemy.exc import SQLAlchemyError

from app.api.deps import PageDep, ServiceDep
from app.api.problems import problems
from app.db import migrate
from app.errors import Unavailable
from app.schemas.base import FieldError
from app.schemas.responses import Health, Page, Readiness, Worker
from app.services import workers

router = APIRouter(tags=["operations"])

try:
    VERSION = version("trainyard")
except PackageNotFoundError:  # run from a source tree
    VERSION = "0+unknown"


@router.get("/healthz", summary="Liveness: the process answers")
async def healthz() -> Health:
    """Asks nobody else."""
    return Health(version=VERSION)


@router.get("/readyz", summary="Readiness: database, migrations and broker", responses=problems(503))
def readyz(service: ServiceDep) -> Readiness:
    """503 names the parts that are not ready."""
    unready = []
    try:
        migrate.check(service.settings.database_url)
    except migrate.SchemaError as error:
        unready.append(FieldError("/migrations", str(error)))
    except SQLAlchemyError:
        unready.append(FieldError("/database", "unreachable"))
    if service.settings.broker_url and not service.doorbell.ping():
        unready.append(FieldError("/broker", "unreachable"))
    if unready:
        detail = "; ".join(f"{error.pointer[1:]}: {error.message}" for error in unready)
        raise Unavailable(f"not ready: {detail}", errors=unready)
    return Readiness(broker="ok" if service.settings.broker_url else "none")


@router.get("/v1/workers", summary="List the workers, newest first", responses=problems(422))
def list_workers(query: PageDep, service: ServiceDep) -> Page[Worker]:
    """Also those that were lost or stopped."""
    with service.database.reading() as session:
        return workers.list_page(session, limit=query.limit, after=query.after)
