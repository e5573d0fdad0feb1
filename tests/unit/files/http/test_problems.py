"""Goal: every error has an answer, in both shapes, with the headers its status needs (invariants
of problems.py); and the table of operations, the answers and the description agree.

Method: all kinds of error there are, found by their base class; the tables compared.
"""

import json
from itertools import pairwise

import pytest

from holdfast import errors
from holdfast.errors import HoldfastError
from holdfast.files.http import problems
from holdfast.files.http.openapi import describe, refusals_of
from holdfast.files.http.operations import OPERATIONS, Face
from holdfast.files.http.problems import (
    guard_response,
    problem_response,
    sidecar_response,
)
from holdfast.model.http_status import STATUS_OF_KIND

KINDS = HoldfastError.__subclasses__()


def test_every_kind_has_a_status() -> None:
    """Invariant 1: fails when a kind is added without one."""
    assert set(STATUS_OF_KIND) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_answers(kind: type[HoldfastError]) -> None:
    error = kind("it went wrong", code="some-code", advice="do this", path=b"\xff")
    status = STATUS_OF_KIND[kind]
    ours = problem_response(error)
    assert ours.status_code == status
    assert ours.headers["content-type"] == "application/problem+json"
    told = json.loads(bytes(ours.body))
    assert (told["status"], told["detail"]) == (status, "it went wrong")
    assert (told["kind"], told["code"], told["advice"]) == (kind.kind, "some-code", "do this")
    theirs = json.loads(bytes(sidecar_response(error).body))
    assert list(theirs) == ["status", "code", "message"]
    assert (theirs["code"], theirs["message"]) == (status, "it went wrong")
    assert list(json.loads(bytes(guard_response(error).body))) == ["status"]


def test_statuses_that_need_a_header_have_it() -> None:
    """Invariant 2."""
    busy = errors.UnavailableError("busy", code="busy", retry_after_s=2.1)
    assert problem_response(busy).headers["retry-after"] == "3"
    assert sidecar_response(errors.UnavailableError("x", code="y")).headers["retry-after"] == "1"
    nobody = errors.DeniedError("who", code="no-credentials")
    assert guard_response(nobody).status_code == 401
    assert guard_response(nobody).headers["www-authenticate"] == "Bearer"
    outside = errors.InvalidRequestError("no", code="range-not-satisfiable", size_bytes=7)
    assert sidecar_response(outside).status_code == 416
    assert sidecar_response(outside).headers["content-range"] == "bytes */7"
    assert json.loads(bytes(sidecar_response(outside).body))["status"] == (
        "Requested Range Not Satisfiable"
    )


def test_no_code_is_mapped_to_a_failure_of_ours() -> None:
    """Invariant 3."""
    assert all(400 <= status < 500 for status in problems._STATUS_OF_CODE.values())


def test_the_table_of_operations_is_sound() -> None:
    ids = [operation.id for operation in OPERATIONS]
    places = [(operation.method, operation.path) for operation in OPERATIONS]
    assert len(set(ids)) == len(ids)
    assert len(set(places)) == len(places)
    assert sum(operation.face is Face.SIDECAR for operation in OPERATIONS) == 13
    for operation in OPERATIONS:
        assert operation.answers
        if operation.method == "POST":
            assert "Idempotency-Key" in operation.headers, operation.id


def test_the_description_has_every_operation_and_answer() -> None:
    paths = describe("1")["paths"]
    assert isinstance(paths, dict)
    for operation in OPERATIONS:
        described = paths[operation.path][operation.method.lower()]
        assert described["operationId"] == operation.id
        told = {int(status) for status in described["responses"]}
        assert told == set(operation.answers) | refusals_of(operation)


def test_routes_differ_in_their_segments() -> None:
    """No two templates match the same path: no order of theirs matters."""
    shapes = sorted(
        {"/".join("{}" if "{" in s else s for s in o.path.split("/")) for o in OPERATIONS}
    )
    assert all(first != second for first, second in pairwise(shapes))
