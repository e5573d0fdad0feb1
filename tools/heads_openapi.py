"""The OpenAPI description of the heads service, for generate_reference.py."""

from holdfast import __version__
from holdfast.model.limits import HEAD_HISTORY_MAX, HEAD_VALUE_BYTES_MAX

Json = dict[str, object]

_ANSWERS = {
    "400": "A header or the body is wrong.",
    "401": "The store does not know the token.",
    "403": "The store says no, or it is not one this service may talk to.",
    "404": "No such object, or the head was deleted.",
    "409": "Values only grow and this one does not; both are in the body.",
    "410": "Nothing to commit under this id; the reason is in the body.",
    "412": "The head has moved from If-Match.",
    "413": "The body is too long.",
    "502": "The store cannot be reached, or answered neither yes nor no.",
    "503": "Busy, or the store or the register is not available; nothing happened.",
    "504": "The store was slow, or (X-Transaction-Status: unknown) the outcome is not known.",
}
_COMMON = ("400", "401", "403", "404", "502", "503", "504")
_REVISION: Json = {
    "X-Head-Revision": {"schema": {"type": "integer"}},
    "ETag": {"schema": {"type": "string"}},
}


def description() -> Json:
    """Return the description as OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "holdfast heads (ickpt)", "version": __version__},
        "paths": {
            "/{transaction-id}": {
                "parameters": [
                    _parameter("path", "transaction-id", "Links PUT or DELETE to its POST."),
                    _parameter("header", "X-Storage-Url", "URL of the object in the store."),
                    _parameter("header", "X-Auth-Token", "The caller's token at the store."),
                ],
                "head": {"responses": {"204": {"description": "The process runs."}}},
                "get": _get(),
                "put": _operation("204", "Prepared.", "412", "413") | {"requestBody": _body()},
                "delete": _operation("204", "Prepared.", "412"),
                "post": _operation("200", "Committed, durable.", "409", "410", "412"),
            }
        },
    }


def _get() -> Json:
    told = "The value; or, asked by header, the transaction's fate or the head's history."
    asked = [
        _parameter("header", "X-Transaction-Id", "Ask what became of this transaction."),
        _parameter("header", "X-Head-History", f"Ask for 1 to {HEAD_HISTORY_MAX} past states."),
    ]
    return _operation("200", told) | {"parameters": asked}


def _operation(status: str, done: str, *others: str) -> Json:
    answers: Json = {status: {"description": done, "headers": _REVISION}}
    problem = {"application/problem+json": {"schema": {"type": "object"}}}
    for other in sorted({*_COMMON, *others}):
        answers[other] = {"description": _ANSWERS[other], "content": problem}
    return {"responses": answers}


def _parameter(place: str, name: str, meaning: str) -> Json:
    return {
        "in": place,
        "name": name,
        "description": meaning,
        "required": place == "path" or name == "X-Storage-Url",
        "schema": {"type": "string"},
    }


def _body() -> Json:
    schema = {"type": "string", "format": "binary", "maxLength": HEAD_VALUE_BYTES_MAX}
    return {"required": True, "content": {"application/octet-stream": {"schema": schema}}}
