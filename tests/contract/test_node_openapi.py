"""Goal: the description of the routes is right: what it allows is answered as it says, what it does
not is refused as it says, and nothing sent makes the node fail.

Method: schemathesis makes requests from the description that the node itself serves, and checks
statuses, content types and bodies against it, on a real server with real parts.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from holdfast.files.http.openapi import describe
from tests.support.node import SOURCE, TARGET, ServedNode, running_node

SCHEMA = schemathesis.openapi.from_dict(describe("test"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    with running_node(tmp_path_factory.mktemp("node")) as served:
        (served.root(SOURCE) / "file").write_bytes(b"data")
        yield served


def test_the_node_serves_this_description(node: ServedNode) -> None:
    assert node.ask("GET", "/openapi.json").json == describe("0")


@pytest.mark.slow
@SCHEMA.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_requests_are_answered_as_described(case: Any, node: ServedNode) -> None:
    host = SOURCE if "/files/" in case.path else TARGET
    case.headers = {**(case.headers or {}), "Host": host}
    response = case.call(base_url=node.url)
    case.validate_response(response)
