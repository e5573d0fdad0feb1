"""What the HTTP face answers to errors: one status for each kind, some for a code; two shapes.

Sidecar's clients get Sidecar's bodies: of a guard the reason phrase alone, else with code and
message. Everyone else, and who accepts application/problem+json, gets problem+json.

Invariants:

1. Every kind of error has a status (model/http_status.py).
2. A 503 says when to come again, a 401 how to say who one is, a 416 how long the file is.
3. Nothing a caller sends is answered with a 5xx of ours other than 503.
"""

import math
from http import HTTPStatus
from typing import Final

from starlette.responses import JSONResponse, Response

from holdfast import errors
from holdfast.model.http_status import status_of_kind

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1

_STATUS_OF_CODE: Final = {
    "already-complete": 400,
    "bad-credentials": 401,
    "body-slow": 408,
    "body-too-large": 413,
    "database-running": 400,
    "method-not-allowed": 405,
    "migration-complete": 400,
    "migration-not-complete": 400,
    "no-credentials": 401,
    "range-not-satisfiable": 416,
    "too-large": 413,
    "wrong-media-type": 415,
}
_PHRASES: Final = {413: "Request Entity Too Large", 416: "Requested Range Not Satisfiable"}
"""As Sidecar spells them, whatever the version of Python does."""


def status_of(error: errors.HoldfastError) -> int:
    """Return the HTTP status of an error."""
    if error.code in _STATUS_OF_CODE:
        return _STATUS_OF_CODE[error.code]
    return status_of_kind(error)


def problem_response(error: errors.HoldfastError) -> Response:
    """Return an error as problem+json."""
    status = status_of(error)
    problem = {"title": _phrase(status), "status": status, "detail": error.message}
    return JSONResponse(
        problem | error.as_problem(),
        status,
        _headers(error, status),
        media_type=PROBLEM_MEDIA_TYPE,
    )


def guard_response(error: errors.HoldfastError) -> Response:
    """Return the refusal of a guard as Sidecar does."""
    status = status_of(error)
    return JSONResponse({"status": _phrase(status)}, status, _headers(error, status))


def sidecar_response(error: errors.HoldfastError) -> Response:
    """Return any other error as Sidecar does."""
    status = status_of(error)
    body = {"status": _phrase(status), "code": status, "message": error.message}
    return JSONResponse(body, status, _headers(error, status))


def defect_response() -> Response:
    """Return what a defect of ours is answered with; both shapes at once."""
    body = {"status": _phrase(500), "code": 500, "message": "internal error; see the node's log"}
    return JSONResponse(body, 500)


def _phrase(status: int) -> str:
    return _PHRASES.get(status) or HTTPStatus(status).phrase


def _headers(error: errors.HoldfastError, status: int) -> dict[str, str]:
    match status:
        case 401:
            return {"WWW-Authenticate": "Bearer"}
        case 408 | 413:
            return {"Connection": "close"}  # The rest of the body is not wanted.
        case 405:
            return {"Allow": str(error.context["allow"])}
        case 416:
            return {"Content-Range": f"bytes */{error.context['size_bytes']}"}
        case 503:
            after_s = error.context.get("retry_after_s", RETRY_AFTER_S)
            assert isinstance(after_s, int | float)
            return {"Retry-After": str(max(math.ceil(after_s), 1))}
        case _:
            return {}
