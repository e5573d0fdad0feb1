"""What a plug-in for a type of resource provides, and how plug-ins are found.

A plug-in is a class named under the entry-point group `holdfast.checkpoints`; its instance says for
each operation what it does at which moment. All is optional: without a hook nothing is done then,
without an operation the bank's own work is all there is: what was written is verified, restored,
deleted and copied chunk by chunk without asking a plug-in.

Order (rules.plan_walk): begin of a parent before begin of what it depends on, finish after, then
main, where the heavy work belongs, then complete. A hook that raises fails its resource, the later
hooks of which are left out; those of other resources go on.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from holdfast.checkpoints.model import Resource
from holdfast.checkpoints.rules import Hook
from holdfast.errors import HoldfastError, UnsupportedError

if TYPE_CHECKING:
    from holdfast.checkpoints.reading import ResourceReader
    from holdfast.checkpoints.writing import ResourceWriter

GROUP: Final = "holdfast.checkpoints"


class OperationKind(StrEnum):
    """What is done with a resource."""

    PROTECT = "protect"
    RESTORE = "restore"
    VERIFY = "verify"
    DELETE = "delete"
    COPY = "copy"


@dataclass(slots=True, kw_only=True)
class HookContext:
    """What a hook is given; the same one for all hooks of a resource in one operation."""

    resource: Resource
    parameters: Mapping[str, Any]
    """Of the request: those of the type, those of this resource over them."""
    info: dict[str, Any] = field(default_factory=dict)
    """Kept with the resource in the manifest; JSON. Filled while protecting, read afterwards."""
    writer: "ResourceWriter | None" = None
    """While protecting: takes what is to be kept."""
    reader: "ResourceReader | None" = None
    """Afterwards: gives it back."""
    report: dict[str, Any] = field(default_factory=dict)
    """Told with the result of the operation; JSON."""
    on_progress: Callable[[int, int, int | None], None] = lambda _entries, _bytes, _total: None
    """Tell entries done, bytes done and bytes in all; raises CancelledError to have it stop."""
    is_begun: bool = False
    """While restoring: whether an earlier attempt of the same task had begun with the resource."""
    on_begin: Callable[[], None] = lambda: None
    """While restoring: tell, durably, that from now on the target is changed."""
    new_ids: dict[str, str] = field(default_factory=dict)
    """While restoring: the key of each resource restored so far, and the id it has now."""


HookFunction = Callable[[HookContext], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What is done at each moment; None: nothing."""

    begin: HookFunction | None = None
    finish: HookFunction | None = None
    main: HookFunction | None = None
    complete: HookFunction | None = None

    def hook(self, hook: Hook) -> HookFunction | None:
        """Return what is done at a moment."""
        hooks: dict[Hook, HookFunction | None] = {
            Hook.BEGIN: self.begin,
            Hook.FINISH: self.finish,
            Hook.MAIN: self.main,
            Hook.COMPLETE: self.complete,
        }
        return hooks[hook]


class ProtectionPlugin(Protocol):
    """Protects resources of one type."""

    resource_type: str
    """Such as `OS::Cinder::Volume`."""

    def check(self, resource: Resource) -> Resource:
        """Return a resource as it is to be kept in a plan, or raise InvalidRequestError."""
        ...

    def operation(self, kind: OperationKind) -> Operation | None:
        """Return what an operation does; None where there is nothing to do but the bank's part."""
        ...


class Plugins:
    """The plug-ins at hand, by type of resource."""

    def __init__(self, plugins: Iterable[ProtectionPlugin]) -> None:
        self._plugins = {plugin.resource_type: plugin for plugin in plugins}

    def types(self) -> list[str]:
        """Return every type that can be protected."""
        return sorted(self._plugins)

    def of(self, resource: Resource) -> ProtectionPlugin:
        """Return the plug-in of a resource; UnsupportedError (`no-plugin`)."""
        plugin = self._plugins.get(resource.type)
        if plugin is None:
            raise UnsupportedError(
                f"no plug-in protects resources of type {resource.type}",
                code="no-plugin",
                advice=f"install one for the entry-point group {GROUP}; "
                f"there is: {', '.join(self.types())}",
            )
        return plugin

    def hook(self, resource: Resource, kind: OperationKind, hook: Hook) -> HookFunction | None:
        """Return what the plug-in of a resource does at a moment of an operation."""
        operation = self.of(resource).operation(kind)
        return None if operation is None else operation.hook(hook)


def find_plugins() -> Iterator[ProtectionPlugin]:
    """Yield an instance of every plug-in that is installed.

    Raises:
        UnsupportedError: `bad-plugin`: one cannot be loaded.
    """
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP):
        try:
            yield point.load()()
        except HoldfastError:
            raise
        except Exception as error:
            raise UnsupportedError(
                f"the plug-in {point.name} cannot be loaded: {type(error).__name__}: {error}",
                code="bad-plugin",
                advice="mend it or uninstall it",
            ) from error
