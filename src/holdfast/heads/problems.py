"""The answers of the HTTP face to errors: one status for each kind, some for a code.

Invariants:

1. Every kind of error has a status (model/http_status.py).
2. What the store said passes through; what nobody may see (a token) is in no error to begin with.
"""

from typing import Final

from starlette.responses import JSONResponse, Response

from holdfast import errors
from holdfast.heads.gate import SAID_NO
from holdfast.model.http_status import status_of_kind

_STATUS_OF_CODE: Final = {
    "body-too-large": 413,
    "head-value-too-large": 413,
    "head-moved": 412,
    "transaction-gone": 410,
    "transactions-full": 503,
    "store-unreachable": 502,
    "store-answered-oddly": 502,
    "store-copy-too-long": 502,
    "store-slow": 504,
}


def status_of(error: errors.HoldfastError) -> int:
    """Return the HTTP status of an error."""
    if error.code == SAID_NO:
        return int(str(error.context["http_status"]))
    if error.code in _STATUS_OF_CODE:
        return _STATUS_OF_CODE[error.code]
    return status_of_kind(error)


def problem_response(error: errors.HoldfastError) -> Response:
    """Return an error as problem+json."""
    status = status_of(error)
    headers = {"X-Transaction-Status": "unknown"} if status == 504 else {}
    revision = error.context.get("revision")
    if revision is not None:
        headers |= {"X-Head-Revision": str(revision)}
    problem = {"title": error.message, "status": status} | error.as_problem()
    return JSONResponse(problem, status, headers, media_type="application/problem+json")
