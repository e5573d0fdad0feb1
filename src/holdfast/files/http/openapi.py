"""The routes as OpenAPI 3.1, from the table of operations and the shapes. Pure."""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from holdfast.files.http.operations import OPERATIONS, Face, Guard, Operation, Parameter
from holdfast.files.http.problems import PROBLEM_MEDIA_TYPE

Json = dict[str, object]

_MEANINGS: Final = {
    200: "Done.",
    202: "A task was started.",
    204: "There is no more.",
    206: "The part asked for.",
    400: "The request is wrong, or the migration is marked complete (or not yet).",
    401: "Who asks is not known.",
    403: "Who asks may not, or the host is still in the migration map.",
    404: "No such thing, or the host has another part in the migration map.",
    405: "The path has no such method.",
    408: "The body did not come in time.",
    409: "Another task is at work on the instance, or it is not in a state for this.",
    413: "The body is too long.",
    416: "No byte of the file is in the range.",
    503: "Busy or not able; nothing happened; come again after Retry-After seconds.",
}
_GUARD_REFUSALS: Final = {
    Guard.SOURCE: {404, 503},
    Guard.DESTINATION: {404, 503},
    Guard.EITHER: {404, 503},
    Guard.NEITHER: {403, 503},
    Guard.NOT_COMPLETE: {400, 503},
}
_SIDECAR_ERROR: Final[Json] = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"type": "string", "description": "The reason phrase."},
        "code": {"type": "integer", "description": "The status; not where a guard refuses."},
        "message": {"type": "string"},
    },
}
_PROBLEM: Final[Json] = {
    "type": "object",
    "required": ["title", "status", "detail", "kind", "code", "message", "advice", "context"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "kind": {"type": "string", "description": "What to do next; docs/reference/errors.md."},
        "code": {"type": "string"},
        "message": {"type": "string"},
        "advice": {"type": "string"},
        "context": {"type": "object"},
    },
}


def describe(version: str) -> Json:
    """Return the description of all routes of a node."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        place = paths.setdefault(operation.path, _path_parameters(operation.path))
        place[operation.method.lower()] = _operation(operation)
    types = [shape for operation in OPERATIONS for shape in _types(operation)]
    _, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    schemas: Json = dict(components)
    schemas |= {"SidecarError": _SIDECAR_ERROR, "Problem": _PROBLEM}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "holdfast node",
            "version": version,
            "description": "Live migration of data directories: the routes of Apache Cassandra"
            " Sidecar as they are, and more beside them. The instance is chosen by the host name"
            f" in the Host header. With Accept: {PROBLEM_MEDIA_TYPE} every error has the shape"
            " Problem.",
        },
        "paths": dict(paths),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


_REFERENCE: Final = "#/components/schemas/{name}"


def _operation(operation: Operation) -> Json:
    described: Json = {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": _responses(operation),
    }
    notes = []
    if operation.permissions:
        wanted = " or ".join(sorted(operation.permissions))
        notes.append(f"Needs the permission {wanted}, where callers have permissions.")
        described["security"] = [{}, {"token": []}]
    if operation.guards:
        notes.append(f"Guards, in order: {', '.join(operation.guards)}.")
    if notes:
        described["description"] = " ".join(notes)
    if operation.body is not None:
        described["requestBody"] = {
            "required": not operation.is_body_optional,
            "content": {"application/json": {"schema": _schema(operation.body)}},
        }
    return described


def _responses(operation: Operation) -> Json:
    responses: Json = {}
    for status, answer in operation.answers.items():
        content: Json = {}
        if answer is not None:
            content |= _content(answer)
        for media_type in operation.others.get(status, ()):
            content[media_type] = {}
        responses[str(status)] = {"description": _MEANINGS[status]} | (
            {"content": content} if content else {}
        )
    for status in sorted(refusals_of(operation)):
        responses[str(status)] = {"description": _MEANINGS[status], "content": _error(operation)}
    return responses


def refusals_of(operation: Operation) -> set[int]:
    """Return every status of an error that an operation may answer, defects left out."""
    refusals = set(operation.refusals)
    for guard in operation.guards:
        refusals |= _GUARD_REFUSALS[guard]
    if operation.permissions:
        refusals |= {401, 403}
    if "{taskId}" in operation.path:
        refusals.add(404)
    return refusals


def _content(answer: object) -> Json:
    if isinstance(answer, str):
        return {answer: {"schema": {"type": "string"}} if answer.startswith("text/") else {}}
    return {"application/json": {"schema": _schema(answer)}}


def _schema(shape: object) -> object:
    (schema,), _ = msgspec.json.schema_components([shape], ref_template=_REFERENCE)
    return schema


def _types(operation: Operation) -> list[object]:
    answers = [answer for answer in operation.answers.values() if not isinstance(answer, str)]
    return [shape for shape in (*answers, operation.body) if shape is not None]


def _error(operation: Operation) -> Json:
    content: Json = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(name="Problem")}}}
    if operation.face is Face.SIDECAR:
        reference = _REFERENCE.format(name="SidecarError")
        content["application/json"] = {"schema": {"$ref": reference}}
    return content


def _parameters(operation: Operation) -> list[Json]:
    return [*_named("query", operation.query), *_named("header", operation.headers)]


def _named(place: str, parameters: Mapping[str, Parameter]) -> list[Json]:
    return [
        {
            "in": place,
            "name": name,
            "description": parameter.meaning,
            "required": False,
            "schema": dict(parameter.schema),
        }
        for name, parameter in parameters.items()
    ]


def _path_parameters(path: str) -> Json:
    names = re.findall(r"{(\w+)}", path)
    if not names:
        return {}
    return {
        "parameters": [
            {"in": "path", "name": name, "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    }
