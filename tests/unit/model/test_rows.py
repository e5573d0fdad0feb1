"""Goal: rows come out of a pickle as they went in. Method: rows that differ in what they hold."""

import pickle
from typing import NamedTuple

import pytest

from holdfast.model.rows import Rows


class Inner(NamedTuple):
    """A named tuple within one."""

    number: int
    name: bytes


class Outer(NamedTuple):
    """A row."""

    number: int
    inner: Inner | None
    words: tuple[str, ...]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [Outer(1, Inner(2, b"x"), ())],
        [Outer(1, Inner(2, b"x"), ("a",)), Outer(3, Inner(4, b""), ())],
        [Outer(1, None, ()), Outer(2, Inner(2, b"x"), ("a", "b")), Outer(3, None, ())],
    ],
)
def test_rows_cross_whole(rows: list[Outer]) -> None:
    found = pickle.loads(pickle.dumps(Rows(rows)))
    assert found == rows
    assert [type(each) for each in found] == [Outer] * len(rows)
    assert [type(each.inner) for each in found] == [type(each.inner) for each in rows]
