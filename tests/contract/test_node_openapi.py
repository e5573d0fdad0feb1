"""Goal: the description of the routes is right: what it allows is answered as it says, what it does
not is refused as it says, and nothing sent makes the node fail.

Method: schemathesis makes requests from the description that the node itself serves, and checks
statuses, content types and bodies against it, on a real server with real parts; every other id of
a task is one that there is.
"""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from holdfast.files.http.openapi import describe
from holdfast.files.http.operations import OPERATIONS
from holdfast.files.migration.latch import Latch
from tests.contract.test_node_migrations import (
    COPIES,
    COPY,
    VERIFICATION,
    VERIFICATIONS,
    start,
    wait_until,
)
from tests.support.node import SOURCE, TARGET, ServedNode, running_node

SCHEMA = schemathesis.openapi.from_dict(describe("test"))
MAY_REFUSE = {o.id for o in OPERATIONS if "cursor" in o.query} | {
    "get_file",
    "start_verification",
    "change_task",
}
"""What a schema allows and is refused all the same: a cursor of nothing, a file that is not there,
a sample without a size, a change of nothing."""


class World(NamedTuple):
    """A node with one ended task of each kind."""

    node: ServedNode
    copy_id: str
    verification_id: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_node(tmp_path_factory.mktemp("node"), file_requests_max=64) as node:
        (node.root(SOURCE) / "file").write_bytes(b"data")
        ids = []
        for path, body in ((COPIES, COPY), (VERIFICATIONS, VERIFICATION)):
            ids.append(start(node, path, body))
            node.finish_tasks({"state": "COMPLETED", "iterations": []})
            wait_until(node, ids[-1], "completed")
        yield World(node, *ids)


def test_the_node_serves_this_description(world: World) -> None:
    assert world.node.ask("GET", "/openapi.json").json == describe("0")


@pytest.mark.slow
@SCHEMA.parametrize()
@settings(
    max_examples=int(os.environ.get("HOLDFAST_SCHEMA_EXAMPLES", "40")),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_requests_are_answered_as_described(case: Any, world: World) -> None:
    node = world.node
    host = SOURCE if "/files/" in case.path else TARGET
    case.headers = {**(case.headers or {}), "Host": host}
    if case.method == "POST" and case.headers.get("Idempotency-Key", "").isprintable():
        # A start with a key waits a second for the lock; it has tests of its own.
        case.headers.pop("Idempotency-Key", None)
    if len(str((case.path_parameters or {}).get("taskId", "x"))) % 2 == 0:
        is_verification = "verification" in case.path
        real_id = world.verification_id if is_verification else world.copy_id
        case.path_parameters["taskId"] = real_id
    for instance in node.instances.values():
        # What is complete refuses everything, which the latch's own tests see.
        Latch(instance.staging, [directory.path for directory in instance.directories]).clear()
    response = case.call(base_url=node.url)
    assert response.status_code != 500
    is_strict = case.operation.definition.raw["operationId"] not in MAY_REFUSE
    excluded = (
        [schemathesis.checks.CHECKS.get_one("positive_data_acceptance")] if not is_strict else []
    )
    case.validate_response(response, excluded_checks=excluded)
