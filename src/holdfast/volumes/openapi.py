"""The OpenAPI description of the routes of volumes.

Schemas of what is sent and told are made from the types themselves.
"""

from typing import Final

import msgspec

from holdfast import __version__
from holdfast.volumes.control import ScrubProgress, VolumeStatus
from holdfast.volumes.health import HealthWord
from holdfast.volumes.http import CreateVolume, GrowVolume

Json = dict[str, object]

_REFERENCES: Final = "#/components/schemas/{name}"
_ANSWERS: Final = {
    "400": "The name, the size, the preset or the body is wrong.",
    "404": "There is no such volume.",
    "409": "There is one already, it is in use, or it is not served.",
    "500": "What is stored is not what was stored, or the medium failed.",
    "503": "Nothing happened; try again.",
    "507": "The disk is full, or there are too many volumes.",
}


def volumes_description() -> Json:
    """Return the description as OpenAPI 3.1."""
    kinds = (CreateVolume, GrowVolume, ScrubProgress, VolumeStatus)
    _, schemas = msgspec.json.schema_components(kinds, ref_template=_REFERENCES)
    return {
        "openapi": "3.1.0",
        "info": {"title": "holdfast volumes", "version": __version__},
        "paths": {
            "/api/v1/volumes": {
                "get": _operation("200", "All volumes.", {"type": "object"}),
                "post": _operation("201", "Made.", _ref("Volume")) | _body("CreateVolume"),
            },
            "/api/v1/volumes/{name}": _one(
                get=_operation("200", "The volume.", _ref("Volume")),
                delete=_operation("204", "Removed."),
            ),
            "/api/v1/volumes/{name}/grow": _one(
                post=_operation("200", "Grown, durably.", _ref("Volume")) | _body("GrowVolume")
            ),
            "/api/v1/volumes/{name}/serving": _one(
                put=_operation("200", "Served from now on.", {"type": "object"}),
                delete=_operation("204", "Not served any more."),
            ),
            "/api/v1/volumes/{name}/scrub": _one(
                post=_operation("202", "Begun.", _ref("ScrubProgress")),
                get=_operation("200", "How far it is.", _ref("ScrubProgress")),
                delete=_operation("200", "Stopped.", _ref("ScrubProgress")),
            ),
        },
        "components": {"schemas": {"Volume": _volume(), **schemas}},
    }


def _volume() -> Json:
    whole: Json = {"type": "integer"}
    text: Json = {"type": "string"}
    return {
        "type": "object",
        "properties": {
            "name": text,
            "preset": text,
            "created_ns": whole,
            "size_bytes": whole,
            "used_bytes": whole,
            "health": {"enum": [word.value for word in HealthWord]},
            "lost_bytes": whole,
            "reason": text,
            "serving": {"anyOf": [{"type": "null"}, _ref("VolumeStatus")]},
        },
    }


def _one(**operations: Json) -> Json:
    name = {"in": "path", "name": "name", "required": True, "schema": {"type": "string"}}
    return {"parameters": [name], **operations}


def _operation(status: str, done: str, schema: Json | None = None) -> Json:
    answer: Json = {"description": done}
    if schema is not None:
        answer["content"] = {"application/json": {"schema": schema}}
    problem = {"application/problem+json": {"schema": {"type": "object"}}}
    others = {code: {"description": text, "content": problem} for code, text in _ANSWERS.items()}
    return {"responses": {status: answer, **others}}


def _body(name: str) -> Json:
    content = {"application/json": {"schema": _ref(name)}}
    return {"requestBody": {"required": True, "content": content}}


def _ref(name: str) -> Json:
    return {"$ref": _REFERENCES.format(name=name)}
