"""Workers, liveness, readiness."""

from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter

from app.api.deps import PageDep, ServiceDep
from app.api.problems import problems
from app.schemas.responses import Health, Page, Readiness, Worker
from app.services import readiness, workers

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
    return readiness.check(service.settings, service.doorbell)


@router.get("/v1/workers", summary="List the workers, newest first", responses=problems(422))
def list_workers(query: PageDep, service: ServiceDep) -> Page[Worker]:
    """Also those that were lost or stopped."""
    with service.database.reading() as session:
        return workers.list_page(session, limit=query.limit, after=query.after)
