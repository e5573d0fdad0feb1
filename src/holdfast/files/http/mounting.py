"""Routes of other facets beside a node's own: who may call them, and how they are described.

They are let through, counted and logged as the node's own are; they read their bodies themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.routing import Match, Route

from holdfast.model.access import Permission

Json = Mapping[str, object]


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
            paths |= _member(each, "paths")
            schemas |= _member(_member(each, "components"), "schemas")
        components = _member(own, "components") | {"schemas": schemas}
        return dict(own) | {"paths": paths, "components": components}


def _member(document: Json, name: str) -> dict[str, object]:
    found = document[name]
    assert isinstance(found, Mapping)
    return dict(found)
