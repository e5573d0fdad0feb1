"""Goal: every kind of error has an HTTP status, and what the store said passes through.

Method: walk the kinds that exist; a table with a hole must be noticed.
"""

import pytest

from holdfast import errors
from holdfast.errors import DeniedError, HoldfastError, NotFoundError, OutcomeUnknownError
from holdfast.heads.gate import SAID_NO
from holdfast.heads.problems import problem_response, status_of
from holdfast.model.http_status import STATUS_OF_KIND

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, HoldfastError) and kind is not HoldfastError
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_status(kind: type[HoldfastError]) -> None:
    assert kind in STATUS_OF_KIND
    assert 400 <= status_of(kind("m", code="c")) < 600


def test_the_store_is_quoted() -> None:
    assert status_of(DeniedError("m", code=SAID_NO, http_status=401)) == 401


def test_unknown_outcome_is_marked() -> None:
    response = problem_response(OutcomeUnknownError("m", code="commit-in-doubt"))

    assert (response.status_code, response.headers["x-transaction-status"]) == (504, "unknown")


def test_revision_is_told_where_it_is_known() -> None:
    response = problem_response(NotFoundError("m", code="head-deleted", revision=3))

    assert response.headers["x-head-revision"] == "3"
