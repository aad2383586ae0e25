"""What can go wrong, and how the service says so: RFC 9457 problem details.

AppError
├── BadRequest             400
├── Unauthorized           401
├── NotFound               404
├── MethodNotAllowed       405
├── Conflict               409
│   └── IllegalTransition
├── Gone                   410
├── TooLarge               413
├── UnsupportedMediaType   415
├── RangeNotSatisfiable    416
├── Misdirected            421
├── Invalid                422
│   └── KeyReused
├── TooManyRequests        429
├── Internal               500
│   └── Damaged
└── Unavailable            503

Services raise these; nothing here knows of a web framework. ``problem_bytes`` is the body of the answer.
"""

import json
from collections.abc import Iterable, Sequence
from typing import ClassVar

from app.schemas.base import FieldError

PROBLEM_TYPE = "application/problem+json"


class AppError(Exception):
    """An error with a status and words for the user. ``headers`` go into the answer."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, detail: str, *, errors: Iterable[FieldError] = (), headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = headers or {}


class BadRequest(AppError):
    """The request is not well formed."""

    status, code, title = 400, "bad-request", "Bad request"


class Unauthorized(AppError):
    """No key, or not a known one."""

    status, code, title = 401, "unauthorized", "Authentication required"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="trainyard"'})


class NotFound(AppError):
    """There is no such thing."""

    status, code, title = 404, "not-found", "Not found"


class MethodNotAllowed(AppError):
    """The path exists, the method doesn't."""

    status, code, title = 405, "method-not-allowed", "Method not allowed"


class Conflict(AppError):
    """The request contradicts the state of what it acts on."""

    status, code, title = 409, "conflict", "Conflict"


class IllegalTransition(Conflict):
    """The run's state does not allow what was asked for."""

    code, title = "illegal-transition", "The run's state does not allow this"

    def __init__(self, run_id: str, action: str, state: str, allowed: Iterable[str]) -> None:
        allowed = tuple(sorted(allowed))
        choices = f"it allows: {', '.join(allowed)}" if allowed else "it is final"
        super().__init__(
            f"run {run_id} is {state} and cannot {action}; {choices}",
            errors=[FieldError("/status", f"is {state}", allowed=allowed)],
        )


class Gone(AppError):
    """It was there, and no later request will find it."""

    status, code, title = 410, "gone", "Gone"


class TooLarge(AppError):
    """The request's body exceeds the limit."""

    status, code, title = 413, "too-large", "Request body too large"


class UnsupportedMediaType(AppError):
    """The body is not JSON."""

    status, code, title = 415, "unsupported-media-type", "Unsupported media type"


class RangeNotSatisfiable(AppError):
    """The range asked for lies outside the file."""

    status, code, title = 416, "range-not-satisfiable", "Range not satisfiable"


class Misdirected(AppError):
    """The Host header names another host."""

    status, code, title = 421, "misdirected-request", "Misdirected request"


class Invalid(AppError):
    """Fields of the request are wrong; ``errors`` says which and why."""

    status, code, title = 422, "invalid", "Invalid request"

    @classmethod
    def fields(cls, errors: Sequence[FieldError]) -> "Invalid":
        """The refusal of these fields; its detail names the first of them."""
        named = (f"{error.pointer}: {error.message}" if error.pointer else error.message for error in errors[:3])
        return cls("; ".join(named), errors=errors)


class KeyReused(Invalid):
    """An idempotency key came back with another body."""

    code, title = "idempotency-key-reused", "Idempotency key reused"


class TooManyRequests(AppError):
    """More than the service takes at once."""

    status, code, title = 429, "too-many-requests", "Too many requests"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class Internal(AppError):
    """A defect of the service; the log has the rest."""


class Damaged(Internal):
    """A stored file is not what was written: no later request will find it whole."""

    code, title = "damaged", "A stored file is damaged"


class Unavailable(AppError):
    """Something the service needs is away for the moment."""

    status, code, title = 503, "unavailable", "Temporarily unavailable"

    def __init__(self, detail: str, *, errors: Iterable[FieldError] = (), retry_after: int = 1) -> None:
        super().__init__(detail, errors=errors, headers={"Retry-After": str(retry_after)})


def problem_bytes(error: AppError) -> bytes:
    """The body of the answer, ``application/problem+json``; its status and headers are ``error``'s."""
    problem: dict[str, object] = {
        "type": f"urn:trainyard:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "errors": [_field_error(item) for item in error.errors],
    }
    return json.dumps(problem).encode()  # ASCII, so that even a lone surrogate taken from a request can be sent


def _field_error(error: FieldError) -> dict[str, object]:
    row: dict[str, object] = {"pointer": error.pointer, "message": error.message}
    if error.suggestion is not None:
        row["suggestion"] = error.suggestion
    if error.allowed is not None:
        row["allowed"] = list(error.allowed)
    return row
