"""The OpenAPI description of the routes of checkpoints."""

from typing import Final

from holdfast import __version__
from holdfast.checkpoints.http import PAGE_MAX, PREFIX
from holdfast.checkpoints.model import CheckpointState, Depth, Verdict

Json = dict[str, object]

_TEXT: Final[Json] = {"type": "string"}
_OBJECT: Final[Json] = {"type": "object"}
_REFUSALS: Final = {
    "400": "The parameters or the body are wrong.",
    "404": "There is no such plan or checkpoint.",
    "408": "The body did not come in time.",
    "409": "Another task is at work on it, or it is not in a state for this.",
    "413": "The body is too long.",
    "500": "What is stored is not what was stored, or the medium failed.",
    "503": "Busy or not able; nothing happened; try again.",
    "507": "The disk is full.",
}


def checkpoints_description() -> Json:
    """Return the description as OpenAPI 3.1."""
    one = f"{PREFIX}/checkpoints/{{id}}"
    parameters: Json = {
        "type": "object",
        "description": "Parameters of plug-ins: objects by type or Type#id of a resource.",
        "additionalProperties": _OBJECT,
    }
    verification: Json = {
        "depth": {"enum": [depth.value for depth in Depth]},
        "percent": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
        "resource": _TEXT,
    }
    restoration: Json = {
        "parameters": parameters,
        "resource": _TEXT,
        "force": {"type": "boolean"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "holdfast checkpoints", "version": __version__},
        "paths": {
            f"{PREFIX}/plans": {"get": _told("Every plan.")},
            f"{PREFIX}/plans/{{plan}}/protect": _at(
                "plan", post=_started("Protect it.", {"parameters": parameters})
            ),
            f"{PREFIX}/schedules": {"get": _told("Every schedule.")},
            f"{PREFIX}/checkpoints": {"get": _told("A page, newest first.") | _page()},
            one: _at(
                "id",
                get=_told("The checkpoint with what its manifest says."),
                delete=_started("Delete it."),
            ),
            f"{one}/verify": _at("id", post=_started("Verify it.", verification)),
            f"{one}/restore": _at("id", post=_started("Restore it.", restoration)),
        },
        "components": {"schemas": {"StartedCheckpointTask": _started_task()}},
    }


def _started_task() -> Json:
    return {
        "type": "object",
        "required": ["taskId", "statusUrl"],
        "properties": {"taskId": _TEXT, "statusUrl": _TEXT},
    }


def _at(name: str, **operations: Json) -> Json:
    given = {"in": "path", "name": name, "required": True, "schema": _TEXT}
    return {"parameters": [given], **operations}


def _page() -> Json:
    schemas: dict[str, Json] = {
        "plan": _TEXT,
        "state": {"enum": [state.value for state in CheckpointState]},
        "verdict": {"enum": [verdict.value for verdict in Verdict]},
        "limit": {"type": "integer", "minimum": 1, "maximum": PAGE_MAX},
        "cursor": _TEXT,
    }
    return {
        "parameters": [
            {"in": "query", "name": name, "schema": schema} for name, schema in schemas.items()
        ]
    }


def _told(what: str) -> Json:
    return _operation(what, "200", _OBJECT)


def _started(what: str, body: Json | None = None) -> Json:
    operation = _operation(what, "202", {"$ref": "#/components/schemas/StartedCheckpointTask"})
    if body is not None:
        schema: Json = {"type": "object", "properties": body}
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return operation


def _operation(summary: str, status: str, schema: Json) -> Json:
    problem: Json = {"application/problem+json": {"schema": _OBJECT}}
    refusals = {code: {"description": text, "content": problem} for code, text in _REFUSALS.items()}
    done = {"description": summary, "content": {"application/json": {"schema": schema}}}
    return {"summary": summary, "responses": {status: done, **refusals}}
