"""Goal: a script can tell from the exit code alone what to do next, whatever went wrong.

Method: the table is walked against the classes that exist, and single cases are spelled out.
Totality over all kinds of error is tested in tests/architecture/test_errors.py.
"""

import pytest

from holdfast import errors
from holdfast.cli.exits import SEVERITY, Exit, exit_code, worst


def test_codes_are_those_published() -> None:
    published = {
        "done": 0,
        "bug": 1,
        "invalid_request": 2,
        "damaged": 3,
        "not_found": 10,
        "conflict": 11,
        "fenced": 12,
        "state": 13,
        "unavailable": 14,
        "outcome_unknown": 15,
        "capacity": 16,
        "denied": 17,
        "unsupported": 18,
        "integrity": 20,
        "storage_failed": 21,
        "interrupted": 130,
    }

    assert {member.name.lower(): int(member) for member in Exit} == published


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.CapacityError("disk is full", code="disk-full"), 16),
        (errors.CancelledError("cancelled", code="cancelled"), 130),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError(), 1),
        (errors.HoldfastError("raised itself, which is a defect", code="none"), 1),
    ],
)
def test_error_has_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_subclass_has_code_of_its_kind() -> None:
    class FullError(errors.CapacityError):
        pass

    assert exit_code(FullError("full", code="disk-full")) == Exit.CAPACITY


def test_severity_orders_every_code_once() -> None:
    assert sorted(SEVERITY) == sorted(Exit)


def test_worst_of_several_is_what_cost_data() -> None:
    assert worst([Exit.DONE, Exit.CONFLICT, Exit.DAMAGED, Exit.INTERRUPTED]) == Exit.DAMAGED
    assert worst([Exit.DONE, Exit.INTERRUPTED]) == Exit.INTERRUPTED
    assert worst([]) == Exit.DONE
