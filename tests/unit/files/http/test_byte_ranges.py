"""Goal: the Range header is understood as Sidecar does, and nothing outside a file is ever asked
for (invariants of byte_ranges.py).

Method: the cases of the grammar as a table, and hypothesis against a plain restatement of it.
"""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidRequestError
from holdfast.files.http.byte_ranges import ByteRange, content_range, parse_range


@pytest.mark.parametrize(
    ("header", "size_bytes", "expected"),
    [
        (None, 10, (0, 10)),
        (None, 0, (0, 0)),
        ("bytes=0-9", 10, (0, 10)),
        ("bytes=0-99", 10, (0, 10)),
        ("bytes=3-", 10, (3, 10)),
        ("bytes=3-3", 10, (3, 4)),
        ("bytes=-4", 10, (6, 10)),
        ("bytes=-40", 10, (0, 10)),
        (" bytes=1-2 ", 10, (1, 3)),
    ],
)
def test_one_range_is_taken_and_clamped(
    header: str | None, size_bytes: int, expected: tuple[int, int]
) -> None:
    assert parse_range(header, size_bytes) == expected


@pytest.mark.parametrize(
    "header",
    [
        "bytes=-",
        "bytes=-0",
        "bytes=5-4",
        "bytes=10-",
        "bytes=10-12",
        "bytes=0-1,3-4",
        "items=0-1",
        "bytes 0-1",
        "bytes=a-b",
        "bytes=0x1-2",
        "bytes=+1-2",
        "bytes=\u0661-\u0662",
        "bytes=" + "9" * 30 + "-",
        "",
    ],
)
def test_everything_else_is_refused_with_the_size(header: str) -> None:
    """Invariant 2."""
    with pytest.raises(InvalidRequestError) as caught:
        parse_range(header, 10)
    assert caught.value.code == "range-not-satisfiable"
    assert caught.value.context["size_bytes"] == 10


def test_no_range_of_an_empty_file_can_be_had() -> None:
    with pytest.raises(InvalidRequestError):
        parse_range("bytes=0-", 0)


@given(
    header=st.from_regex(r"bytes=\d{0,3}-\d{0,3}(,\d-\d)?", fullmatch=True) | st.text(max_size=12),
    size_bytes=st.integers(0, 500),
)
def test_a_range_lies_inside_the_file(header: str, size_bytes: int) -> None:
    """Invariant 1."""
    try:
        start, end = parse_range(header, size_bytes)
    except InvalidRequestError:
        return
    assert 0 <= start < end <= size_bytes
    first, last = re.fullmatch(r"\s*bytes=(\d*)-(\d*)\s*", header).groups()  # type: ignore[union-attr]
    if first:
        assert start == int(first)
        assert end == min(int(last or size_bytes) + 1, size_bytes)
    else:
        assert (start, end) == (max(0, size_bytes - int(last)), size_bytes)


def test_content_range_names_the_whole_size() -> None:
    assert content_range(ByteRange(3, 7), 10) == "bytes 3-6/10"
