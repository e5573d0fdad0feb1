"""Goal: where values only grow, exactly the greater may follow, and a fork is told with evidence.

Method: the cases of the rule by hand, and its symmetry over random pairs.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidRequestError
from holdfast.heads.advance import checkpoint_components, decide_growth
from holdfast.model.head import (
    ABSENT,
    Advanced,
    Epoch,
    HeadState,
    RefusalReason,
    Refused,
    Revision,
)


def checkpoint(super_block: int, nonce: int, length: int = 0x400) -> bytes:
    return b"%016X %016X %016X %016X" % (1, super_block, length, nonce)


def state_of(value: bytes | None) -> HeadState:
    return HeadState(
        value=value,
        revision=Revision(3),
        epoch=Epoch(1),
        is_tombstone=value is None,
        write_id="w",
    )


def decide(old: bytes | None, new: bytes) -> Advanced | Refused | None:
    return decide_growth(state_of(old), new, checkpoint_components)


@pytest.mark.parametrize("new", [checkpoint(6, 10), checkpoint(5, 11), checkpoint(9, 99, 1)])
def test_greater_follows(new: bytes) -> None:
    assert decide(checkpoint(5, 10), new) is None


def test_equal_is_done_already() -> None:
    old = checkpoint(5, 10)

    assert decide(old, old) == Advanced(state=state_of(old))


@pytest.mark.parametrize("new", [checkpoint(4, 10), checkpoint(5, 9), checkpoint(0, 0)])
def test_smaller_is_behind(new: bytes) -> None:
    old = checkpoint(5, 10)

    assert decide(old, new) == Refused(current=state_of(old), reason=RefusalReason.BEHIND)


@pytest.mark.parametrize(
    "new", [checkpoint(6, 9), checkpoint(4, 11), checkpoint(5, 10, length=0x401)]
)
def test_fork_is_refused_with_both_values(new: bytes) -> None:
    old = checkpoint(5, 10)

    refused = decide(old, new)

    assert refused == Refused(current=state_of(old), reason=RefusalReason.FORK, proposed=new)


def test_anything_follows_nothing() -> None:
    assert decide(None, b"anything") is None
    assert decide_growth(ABSENT, b"anything", checkpoint_components) is None


@given(st.tuples(*[st.integers(0, 3)] * 2), st.tuples(*[st.integers(0, 3)] * 2))
def test_of_two_different_values_at_most_one_follows_the_other(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    there, back = (decide(checkpoint(*a), checkpoint(*b)) for a, b in ((one, other), (other, one)))

    if one != other:
        reasons = {
            decided.reason if isinstance(decided, Refused) else None for decided in (there, back)
        }
        assert reasons in ({None, RefusalReason.BEHIND}, {RefusalReason.FORK})


@pytest.mark.parametrize(
    "value",
    [
        b"",
        checkpoint(1, 1) + b"\n",
        checkpoint(1, 1).replace(b"400", b"4ab"),
        checkpoint(1, 1)[1:],
        b"%016X %016X %016X %016X" % (2, 1, 1, 1),
        checkpoint(1, 1).replace(b" ", b"  "),
    ],
)
def test_what_is_no_checkpoint_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        checkpoint_components(value)
