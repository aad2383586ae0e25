"""Algorithms and environments."""

from typing import Annotated

from fastapi import APIRouter, Path

from app.api.deps import WHOLE
from app.api.problems import problems
from app.schemas.responses import Algorithm, Environment, Page
from app.services import catalogue

router = APIRouter(prefix="/v1", tags=["catalogue"])


@router.get("/algorithms", summary="List the algorithms", dependencies=[WHOLE], responses=problems(422))
async def list_algorithms() -> Page[Algorithm]:
    """With the JSON Schema of their hyper-parameters and the presets there are."""
    return Page[Algorithm](data=list(catalogue.algorithms().values()))


@router.get("/algorithms/{name}", summary="Read an algorithm", responses=problems(404))
async def read_algorithm(name: Annotated[str, Path(description="Its name.", examples=["ppo"])]) -> Algorithm:
    """With the JSON Schema of its hyper-parameters and its presets."""
    return catalogue.algorithm(name)


@router.get("/environments", summary="List the environments", dependencies=[WHOLE], responses=problems(422))
async def list_environments() -> Page[Environment]:
    """With their spaces, arguments and the algorithms that fit."""
    return Page[Environment](data=list(catalogue.environments().values()))


@router.get("/environments/{environment_id:path}", summary="Read an environment", responses=problems(404))
async def read_environment(
    environment_id: Annotated[str, Path(description="Its id.", examples=["CartPole-v1"])],
) -> Environment:
    """With its spaces, its arguments as JSON Schema, and the algorithms that fit."""
    return catalogue.environment(environment_id)
