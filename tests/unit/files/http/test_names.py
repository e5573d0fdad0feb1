"""Goal: names that are bytes come through URLs as they are, and none leads out of its directory
(invariants of names.py).

Method: hypothesis for the round trip; hostile paths as a table.
"""

from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidRequestError
from holdfast.files.http.names import (
    FILES,
    file_url,
    parse_file_address,
    parse_task_name,
    task_uuid,
)
from holdfast.model.ids import task_id_from

NAMES = st.binary(min_size=1, max_size=40).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
PATHS = st.lists(NAMES, min_size=1, max_size=5).map(b"/".join)


@given(path=PATHS, index=st.integers(0, 4095))
def test_every_name_comes_back(path: bytes, index: int) -> None:
    """Invariant 1."""
    url = file_url("data", index, path)
    assert url.isascii()
    assert url.isprintable()
    assert not set(url) & set(' "<>?#\\')
    address = parse_file_address(url.encode())
    assert (address.kind, address.index, address.path) == ("data", index, path)


@given(path=PATHS)
def test_a_name_that_looks_encoded_is_decoded_once(path: bytes) -> None:
    """Invariant 1: `%2e%2e` may be a name, and stays one."""
    once = file_url("data", 0, path).removeprefix(FILES + "/data/0/").encode()
    assert parse_file_address(file_url("data", 0, once).encode()).path == once


def test_plain_names_stand_as_sidecar_spells_them() -> None:
    assert (
        file_url("data", 0, b"ks/t-1a/nb-1-big-Data.db")
        == "/api/v1/live-migration/files/data/0/ks/t-1a/nb-1-big-Data.db"
    )


@pytest.mark.parametrize(
    "rest",
    [
        b"data/0/..",
        b"data/0/../x",
        b"data/0/a/../b",
        b"data/0/%2e%2e/x",
        b"data/0/.%2E",
        b"data/0/a/.",
        b"data/0/",
        b"data/0/a//b",
        b"data/0/a/",
        b"data/0//etc/passwd",
        b"data/0/%2Fetc%2Fpasswd",
        b"data/0/a%2F..%2F..%2Fb",
        b"data/0/a%2Fb",
        b"data/0/a%00b",
        b"data/0/" + b"n" * 256,
    ],
)
def test_no_path_leads_out(rest: bytes) -> None:
    """Invariant 2."""
    with pytest.raises(InvalidRequestError) as caught:
        parse_file_address(FILES.encode() + b"/" + rest)
    assert caught.value.code == "bad-path"
    assert caught.value.message.startswith("Tried to access file using relative path: ")


@pytest.mark.parametrize("index", [b"-1", b"x", b"", b"+1", b"9999999999", b"%31%00"])
def test_an_index_is_a_number(index: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_file_address(FILES.encode() + b"/data/" + index + b"/a")
    assert caught.value.message.startswith("Invalid directoryIndex: ")


@given(now_ns=st.integers(0, 1 << 62), random=st.binary(min_size=8, max_size=8))
def test_a_task_has_two_spellings(now_ns: int, random: bytes) -> None:
    task_id = task_id_from(now_ns, random)
    shown = UUID(task_uuid(task_id))
    assert (shown.version, shown.variant) == (1, RFC_4122)
    assert shown.time == now_ns // 100 + 0x01B21DD213814000
    assert parse_task_name(task_id) == task_id
    assert parse_task_name(task_uuid(task_id)) == task_id
    assert parse_task_name(task_uuid(task_id).upper()) == task_id


@pytest.mark.parametrize("text", ["", "x", "task-", "task-" + "G" * 32, "1-2-3-4-5", "0" * 36])
def test_other_texts_name_no_task(text: str) -> None:
    assert parse_task_name(text) is None
