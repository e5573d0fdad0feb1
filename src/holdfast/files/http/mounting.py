"""Routes of other facets beside a node's own: who may call them, and how they are described.

They are let through, counted and logged as the node's own are; they read their bodies themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request
from starlette.routing import Match, Route

from holdfast.files.http.problems import PROBLEM_MEDIA_TYPE
from holdfast.model.access import Permission

Json = Mapping[str, object]

_REFUSALS: Final = {
    "401": "Who asks is not known.",
    "403": "Who asks may not.",
    "405": "The path has no such method.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedRoute:
    """One method of one path of another facet."""

    route: Route
    permissions: frozenset[Permission]
    """Any of these is enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """What is mounted."""

    routes: tuple[MountedRoute, ...] = ()
    descriptions: tuple[Json, ...] = field(default=())
    """OpenAPI of the routes, one document a facet."""

    def find(self, request: Request) -> tuple[MountedRoute | None, Sequence[str]]:
        """Return the route of a request, its path parameters set; or the methods its path has."""
        methods: set[str] = set()
        for mounted in self.routes:
            match, found = mounted.route.matches(request.scope)
            if match is Match.FULL:
                request.scope.update(found)
                return mounted, ()
            if match is Match.PARTIAL:
                methods |= mounted.route.methods or set()
        return None, sorted(methods)

    def describe(self, own: Json) -> dict[str, object]:
        """Return the description of a node's own routes with these added."""
        paths, schemas = _member(own, "paths"), _member(_member(own, "components"), "schemas")
        for each in self.descriptions:
            paths |= {path: _guarded(place) for path, place in _member(each, "paths").items()}
            schemas |= _member(_member(each, "components"), "schemas")
        components = _member(own, "components") | {"schemas": schemas}
        return dict(own) | {"paths": paths, "components": components}


def _guarded(place: object) -> dict[str, object]:
    """Return a path with what all mounted operations have in common."""
    assert isinstance(place, Mapping)
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    refusals = {
        status: {"description": meaning, "content": {PROBLEM_MEDIA_TYPE: schema}}
        for status, meaning in _REFUSALS.items()
    }
    guarded = dict(place)
    for method, operation in place.items():
        if method != "parameters":
            security: list[dict[str, list[str]]] = [{}, {"token": []}]
            responses = _member(operation, "responses") | refusals
            guarded[method] = dict(operation) | {"responses": responses, "security": security}
    return guarded


def _member(document: Json, name: str) -> dict[str, object]:
    found = document[name]
    assert isinstance(found, Mapping)
    return dict(found)
