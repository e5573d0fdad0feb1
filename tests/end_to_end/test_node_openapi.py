"""Goal: two nodes as they are run keep to the description they serve, whatever is sent to them; and
are as good as new afterwards.

Method: schemathesis makes requests from the description; what is accepted starts real copies,
verifications and repairs between the two processes. Afterwards a plain migration goes right.
"""

import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from holdfast.files.http.openapi import describe
from tests.contract.test_node_openapi import MAY_REFUSE
from tests.support.node_process import VERIFICATIONS, NodePair, running_pair
from tests.support.trees import read_tree

SCHEMA = schemathesis.openapi.from_dict(describe("test"))
EXAMPLES = int(os.environ.get("HOLDFAST_SCHEMA_EXAMPLES", "8"))
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodePair]:
    more = "[limits]\nfile_requests_max = 64\n"
    with running_pair(tmp_path_factory.mktemp("pair"), more=more) as pair:
        for number in range(5):
            (pair.source.data / f"f {number} %?#").write_bytes(b"%d" % number * 1000)
        yield pair


@pytest.fixture(scope="module")
def task_ids(pair: NodePair) -> dict[str, str]:
    """An ended task of each kind."""
    copy_id = pair.target.start_copy()
    pair.target.wait_until_ended(copy_id)
    request = {"maxConcurrency": 1, "digestAlgorithm": "MD5"}
    verification_id = str(pair.target.ask("POST", VERIFICATIONS, request).json["taskId"])
    pair.target.wait_until_ended(verification_id)
    return {"copy": copy_id, "verification": verification_id}


@pytest.mark.slow
@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
def test_nodes_answer_as_described(case: Any, pair: NodePair, task_ids: dict[str, str]) -> None:
    operation = case.operation.definition.raw["operationId"]
    if operation == "mark_complete":
        return  # It would end everything; its own tests see to it.
    node = pair.source if "/files/" in case.path else pair.target
    case.headers = {**(case.headers or {}), "Host": f"{node.name}:{node.port}"}
    if "taskId" in (case.path_parameters or {}) and next(NUMBERS) % 2:
        kind = "verification" if "verification" in case.path else "copy"
        case.path_parameters["taskId"] = task_ids[kind]
    response = case.call(base_url=node.url, timeout=60)
    assert response.status_code != 500, node.log[-5:]
    excluded = []
    if operation in MAY_REFUSE or response.status_code == 409:
        excluded.append(schemathesis.checks.CHECKS.get_one("positive_data_acceptance"))
    case.validate_response(response, excluded_checks=excluded)


@pytest.mark.slow
def test_afterwards_a_migration_goes_right(pair: NodePair) -> None:
    target = pair.target
    for task in target.ask("GET", "/api/v1/tasks?state=running").json["tasks"]:
        target.ask("PATCH", f"/api/v1/tasks/{task['id']}", {"cancel": True})
    assert target.wait_until_ended(target.start_copy())["state"] == "completed"
    assert read_tree(target.data) == read_tree(pair.source.data)
    for node in (pair.source, target):
        assert [line for line in node.log if line["level"] == "error"] == []
