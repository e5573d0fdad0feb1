"""Lets a request through or not: who asks, which part its host plays, whether all is over.

Invariants:

1. Guards are asked in the order of the table, and the first refusal is the answer.
2. A guard that cannot tell refuses: with 503, never by letting through.
"""

import asyncio
from typing import assert_never

from starlette.requests import HTTPConnection

from holdfast.errors import (
    DeniedError,
    HoldfastError,
    NotFoundError,
    StateError,
    UnavailableError,
)
from holdfast.files.http.operations import Guard, Operation
from holdfast.files.http.services import NodeServices
from holdfast.files.migration.latch import Latch
from holdfast.files.migration.model import Instance, LatchState
from holdfast.model.access import Permission


def parse_host(header: str) -> str:
    """Return the host part of a Host header, in lower case and without brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def check_caller(
    wanted: frozenset[Permission], services: NodeServices, connection: HTTPConnection
) -> frozenset[Permission]:
    """Return what the caller may do; DeniedError without any of the permissions wanted."""
    if not wanted:
        return frozenset()
    held = services.permissions_of(connection)
    if held & wanted:
        return held
    raise DeniedError(
        f"the caller has not the permission {' or '.join(sorted(wanted))}",
        code="no-permission",
        advice="ask the operator of the node for it, or use another token or certificate",
    )


async def check_guards(operation: Operation, services: NodeServices, host: str) -> None:
    """Return if all guards let a request to `host` through, else raise the refusal."""
    for guard in operation.guards:
        try:
            await _check(guard, services, host)
        except (NotFoundError, DeniedError, StateError, UnavailableError):
            raise
        except HoldfastError as error:
            raise UnavailableError(
                f"it cannot be told whether this is allowed: {error.message}",
                code="guard-failed",
                advice=error.advice,
            ) from error


def instance_of(services: NodeServices, host: str) -> Instance:
    """Return the instance a host name stands for; NotFoundError (`no-instance`)."""
    instance = services.instances.get(host)
    if instance is not None:
        return instance
    raise NotFoundError(
        f"no instance of this node is called {host!r}",
        code="no-instance",
        advice="address the node by the host name its settings give the instance",
        host=host,
    )


def latch_of(services: NodeServices, host: str) -> Latch:
    """Return the completion latch of the instance of a host, with the marks in its directories."""
    instance = instance_of(services, host)
    return Latch(instance.staging, [directory.path for directory in instance.directories])


def latch_to_close(services: NodeServices, host: str) -> Latch:
    """Return the latch to mark complete: nothing is written into the directories of a source."""
    if host in services.migration_map.values():
        return latch_of(services, host)
    return Latch(instance_of(services, host).staging)


async def _check(guard: Guard, services: NodeServices, host: str) -> None:
    is_source = host in services.migration_map
    is_target = host in services.migration_map.values()
    match guard:
        case Guard.SOURCE:
            _need(is_source, host, "a source")
        case Guard.DESTINATION:
            _need(is_target, host, "a destination")
        case Guard.EITHER:
            _need(is_source or is_target, host, "a source or destination")
        case Guard.NEITHER:
            if is_source or is_target:
                raise DeniedError(
                    f"{host} is still in the migration map",
                    code="still-in-map",
                    advice="take it out of the settings of both hosts first",
                )
        case Guard.NOT_COMPLETE:
            await _check_not_complete(services, host)
        case _:
            assert_never(guard)


def _need(holds: bool, host: str, part: str) -> None:
    if not holds:
        raise NotFoundError(
            f"{host!r} is not {part} in the migration map",
            code="wrong-role",
            advice="ask the host that is, by the name it has in the settings of both hosts",
            host=host,
        )


async def _check_not_complete(services: NodeServices, host: str) -> None:
    try:
        latch = latch_of(services, host)
    except NotFoundError as error:
        raise UnavailableError(error.message, code="no-instance", advice=error.advice) from error
    status = await asyncio.to_thread(latch.read)
    if status.state is LatchState.COMPLETED:
        raise StateError(
            f"the migration of {host} is marked complete",
            code="migration-complete",
            advice="take the host out of the migration map and clear its status, if it is to be"
            " migrated again",
        )
