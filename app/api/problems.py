"""Every failure as problem+json: handlers for FastAPI, and the answers routes declare in OpenAPI."""

import logging
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from app import errors
from app.errors import PROBLEM_TYPE, AppError, problem_bytes
from app.schemas.base import FieldError, closest

logger = logging.getLogger(__name__)

_BY_STATUS: dict[int, type[AppError]] = {
    400: errors.BadRequest,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.TooLarge,
    415: errors.UnsupportedMediaType,
}
_TITLES: dict[int, type[AppError]] = {
    **_BY_STATUS,
    401: errors.Unauthorized,
    409: errors.Conflict,
    410: errors.Gone,
    416: errors.RangeNotSatisfiable,
    422: errors.Invalid,
    429: errors.TooManyRequests,
    500: errors.Internal,
    503: errors.Unavailable,
}
_JSON_KINDS = {type(None): "null", bool: "a boolean", list: "an array", dict: "an object"}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI answers for these statuses."""
    answers: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        error = _TITLES[status]
        example = {
            "type": f"urn:trainyard:problem:{error.code}",
            "title": error.title,
            "status": status,
            "detail": "what is wrong with this request, in words",
            "errors": [],
        }
        schema = {"$ref": "#/components/schemas/Problem"}
        content = {PROBLEM_TYPE: {"schema": schema, "example": example}}
        answers[status] = {"description": error.title, "content": content}
    return answers


def respond(error: AppError) -> Response:
    """``error`` as an answer."""
    return Response(problem_bytes(error), error.status, headers=error.headers, media_type=PROBLEM_TYPE)


def install(app: FastAPI) -> None:
    """Make every failure inside ``app`` a problem."""
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(SQLAlchemyError, _database_error)
    app.add_exception_handler(Exception, _unexpected)


async def _app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    return respond(error)


async def _database_error(request: Request, error: Exception) -> Response:
    logger.error("%s %r: the database failed", request.method, request.url.path, exc_info=error)
    if _has_no_room(error):
        return respond(errors.Unavailable("the disk of the database is full", retry_after=30))
    return respond(errors.Unavailable("the database does not answer as it should; try again", retry_after=2))


def _has_no_room(error: Exception) -> bool:
    driver = getattr(error, "orig", None)
    return getattr(driver, "sqlite_errorname", None) == "SQLITE_FULL" or getattr(driver, "sqlstate", None) == "53100"


async def _unexpected(request: Request, error: Exception) -> Response:
    return respond(errors.Internal("an unexpected error; the service's log has the details"))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _BY_STATUS.get(error.status_code, errors.BadRequest if error.status_code < 500 else errors.Internal)
    if kind is errors.NotFound:
        detail = f"there is nothing at {request.url.path}"
    elif kind is errors.MethodNotAllowed:
        detail = f"{request.url.path} does not take {request.method}"
    else:
        detail = str(error.detail)
    return respond(kind(detail, headers=dict(error.headers or {})))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    rows = [row for row in error.errors() if row["type"] != "default_factory_not_called"]  # other errors' shadows
    if isinstance(error.body, bytes) and error.body:
        return respond(errors.UnsupportedMediaType("send the body as Content-Type: application/json"))
    model, parameters = _body_model(request), _query_names(request)
    rows = [row for row in rows if row["type"] != "too_short" or not _has_bad_items(row, rows)]
    items: dict[str, list[FieldError]] = {}
    for row in rows[:100]:
        item = _field_error(row, error.body, model, parameters)
        items.setdefault(item.pointer, []).append(item)
    return respond(errors.Invalid.fields([_one_of(found) for found in items.values()]))


def _one_of(found: Sequence[FieldError]) -> FieldError:
    """What is wrong with one field, of which pydantic says why it is none of the types that it may have."""
    first, *others = dict.fromkeys(found)
    if not others:
        return first
    message = " or ".join([first.message, *(other.message.removeprefix("input should be ") for other in others)])
    return FieldError(first.pointer, message, suggestion=first.suggestion)


def _has_bad_items(row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a list is called too short only because pydantic does not count the items it refuses."""
    depth = len(row["loc"])
    return any(len(other["loc"]) > depth and other["loc"][:depth] == row["loc"] for other in rows)


def _body_model(request: Request) -> type[BaseModel] | None:
    field = getattr(request.scope.get("route"), "body_field", None)
    candidates = _models(field.field_info.annotation) if field is not None else []
    return candidates[0] if candidates else None


def _query_names(request: Request) -> list[str]:
    dependant = getattr(request.scope.get("route"), "dependant", None)
    fields = dependant.query_params if dependant is not None else []
    return [name for field in fields for model in _models(field.field_info.annotation) for name in model.model_fields]


def _field_error(
    row: Mapping[str, Any], body: object, model: type[BaseModel] | None, parameters: list[str]
) -> FieldError:
    """One of pydantic's errors as a pointer into the body (or to a parameter), with a suggestion where one is near."""
    where, path = row["loc"][0], list(row["loc"][1:])
    if row["type"] == "json_invalid":
        return FieldError("", f"not valid JSON: {row['ctx']['error']} at character {path[0]}")
    if not path:
        return FieldError("", "the body must be a JSON object")
    kind = row["type"]
    if where != "body":
        if kind == "extra_forbidden":
            return _unknown(_pointer(path), f"unknown {where} parameter", str(path[-1]), parameters)
        return FieldError(_pointer(path), f"{where} parameter: {_sentence(row)}")
    place, options = _locate(path, body, model)
    pointer = _pointer(place)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _tag_error(row, place, options)
    if kind == "extra_forbidden":
        _, owners = _locate(path[:-1], body, model)
        known = list(dict.fromkeys(name for owner in owners for name in owner.model_fields))
        return _unknown(pointer, "unknown field", str(path[-1]), known)
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", row["ctx"]["expected"])
        return FieldError(pointer, _sentence(row), closest(str(row["input"])[:80], allowed), tuple(allowed))
    return FieldError(pointer, _sentence(row))


def _unknown(pointer: str, what: str, name: str, known: list[str]) -> FieldError:
    near = closest(name[:80], known)
    hint = f": did you mean {near!r}?" if near else ""
    return FieldError(pointer, f"{what} {name[:80]!r}{hint}", suggestion=near, allowed=tuple(known))


def _tag_error(row: Mapping[str, Any], place: Sequence[str | int], options: Iterable[type[BaseModel]]) -> FieldError:
    """A union's discriminator that is missing or unknown."""
    name = row["ctx"]["discriminator"].strip("'")
    known = [tag for option in options for tag in _tags(option, name)]
    pointer, subject = _pointer([*place, name]), str(place[-1]) if place else "body"
    if row["type"] == "union_tag_not_found":
        return FieldError(pointer, f"required: which {subject} it is", allowed=tuple(known))
    given = row["input"][name]
    if not isinstance(given, str):
        kind = _JSON_KINDS.get(type(given), "a number")
        message = f"must be the {subject}'s name, not {kind}: one of {', '.join(known)}"
        return FieldError(pointer, message, allowed=tuple(known))
    return _unknown(pointer, f"unknown {subject}", given, known)


def _sentence(row: Mapping[str, Any]) -> str:
    if row["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "must be an object"
    message = str(row["msg"]).removeprefix("Value error, ").replace(" after validation", "")
    message = re.sub(r"^Tuple\b|\btuple$", "list", message)  # JSON knows no tuples
    return "required" if row["type"] == "missing" else message[:1].lower() + message[1:]


def _locate(
    path: Sequence[str | int], body: Any, model: type[BaseModel] | None
) -> tuple[list[str | int], list[type[BaseModel]]]:
    """The part of a validator's location that lies in the body, or would, and the models that may stand there.

    Union tags and type names are in the location and not in the body; a field that was left out is one of a model's.
    """
    place: list[str | int] = []
    options = [model] if model else []
    for step in path:
        tagged = [option for option in options if len(options) > 1 and step in _tags(option, "name")]
        if tagged:
            options = tagged
            continue
        if not _has(body, step) and not any(step in option.model_fields for option in options):
            continue
        body = body[step] if _has(body, step) else None
        place.append(step)
        fields = [option.model_fields[str(step)] for option in options if step in option.model_fields]
        options = [found for field in fields for found in _models(field.annotation)]
    return place, options


def _has(body: object, step: str | int) -> bool:
    if isinstance(body, list):
        return isinstance(step, int) and step < len(body)
    return isinstance(body, Mapping) and step in body


def _pointer(place: Iterable[str | int]) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in place)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models a type annotation admits."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for option in get_args(annotation) for model in _models(option)]
    return _models(get_args(annotation)[0]) if hasattr(annotation, "__metadata__") else []


def _tags(model: type[BaseModel], name: str) -> tuple[str, ...]:
    return get_args(model.model_fields[name].annotation) if name in model.model_fields else ()
