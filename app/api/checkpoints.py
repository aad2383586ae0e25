"""Checkpoints and the download of their files."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Request, Response

from app.api.deps import ServiceDep
from app.api.files import file_answer
from app.api.problems import problems
from app.schemas import examples
from app.schemas.responses import Checkpoint
from app.services import checkpoints

router = APIRouter(prefix="/v1/checkpoints", tags=["checkpoints"])

CheckpointId = Annotated[str, Path(description="Id of a checkpoint.", examples=[examples.CHECKPOINT["id"]])]


@router.get("/{checkpoint_id}", summary="Read a checkpoint", responses=problems(404))
def read_checkpoint(checkpoint_id: CheckpointId, service: ServiceDep) -> Checkpoint:
    """With its files, their sizes and digests."""
    with service.database.reading() as session:
        return checkpoints.get(session, checkpoint_id)


@router.get(
    "/{checkpoint_id}/files/{name}",
    summary="Download a file of a checkpoint",
    response_class=Response,
    responses={
        200: {
            "description": "The file; its ETag is its SHA-256.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
        206: {"description": "The range asked for."},
        304: {"description": "Not modified: `If-None-Match` names this file."},
        **problems(404, 410, 416, 500),
    },
)
@router.head("/{checkpoint_id}/files/{name}", include_in_schema=False)
def download_file(
    request: Request,
    checkpoint_id: CheckpointId,
    name: Annotated[str, Path(description="A name from the checkpoint's `files`.", examples=["policy.onnx"])],
    service: ServiceDep,
    byte_range: Annotated[str | None, Header(alias="Range", description="One range: `bytes=0-99`.")] = None,
    if_range: Annotated[str | None, Header(alias="If-Range", description="Range only if the file is this one.")] = None,
    if_none_match: Annotated[str | None, Header(alias="If-None-Match", description="304 if it is this one.")] = None,
) -> Response:
    """Whole or in part. A file whose bytes are gone is a 410; one that is not what was written, a 500 that says so."""
    with service.database.reading() as session:
        file = checkpoints.file(session, service.settings.artifacts_dir, checkpoint_id, name)
    return file_answer(
        file, method=request.method, byte_range=byte_range, if_range=if_range, if_none_match=if_none_match
    )
