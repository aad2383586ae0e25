"""A file, or a range of it, as an answer (RFC 9110, sections 13 and 14)."""

import re
from collections.abc import Iterator
from pathlib import Path

from fastapi import Response
from fastapi.responses import StreamingResponse

from app.errors import RangeNotSatisfiable
from app.services.checkpoints import StoredFile

CHUNK_BYTES = 256 * 1024
_MEDIA_TYPES = {".json": "application/json"}
_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE | re.ASCII)


def file_answer(
    file: StoredFile, *, method: str, byte_range: str | None, if_range: str | None, if_none_match: str | None
) -> Response:
    """The file under the conditions of a request. Several ranges at once get the whole file, and HEAD knows no ranges.

    Raises:
        RangeNotSatisfiable
    """
    tag = f'"{file.sha256}"'
    headers = {"ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": "private, max-age=31536000, immutable"}
    if if_none_match is not None and _names(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    part = _part(byte_range, file.size) if method == "GET" and if_range in (None, tag) else None
    first, last = part or (0, file.size - 1)
    headers["Content-Length"] = str(last - first + 1)
    headers["Content-Disposition"] = f'attachment; filename="{file.path.name}"'
    headers["X-Content-Type-Options"] = "nosniff"
    if part:
        headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
    media_type = _MEDIA_TYPES.get(file.path.suffix, "application/octet-stream")
    if method == "HEAD":
        return Response(headers=headers, media_type=media_type)
    return StreamingResponse(
        _read(file.path, first, last - first + 1),
        status_code=206 if part else 200,
        headers=headers,
        media_type=media_type,
    )


def _names(header: str, tag: str) -> bool:
    return header.strip() == "*" or any(part.strip().removeprefix("W/") == tag for part in header.split(","))


def _part(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte asked for; None for the whole file: no range, or one that is not understood."""
    match = _RANGE.fullmatch(header) if header else None
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        first, last = int(match[1]), min(int(match[2] or size), size - 1)
        if match[2] and int(match[2]) < first:
            return None
    else:
        first, last = max(0, size - int(match[2])), size - 1
    if first >= size or first > last:
        raise RangeNotSatisfiable(f"the file has {size} bytes", headers={"Content-Range": f"bytes */{size}"})
    return first, last


def _read(path: Path, offset: int, left: int) -> Iterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(offset)
        while left and (chunk := stream.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk
