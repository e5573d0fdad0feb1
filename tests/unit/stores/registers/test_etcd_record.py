"""Goal: what is written into etcd is what docs/formats/register.md says, for ever.

Method: golden records, damaged records, and the order that etcd compares by.
"""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.architecture.source import ROOT

from holdfast.errors import IntegrityError
from holdfast.model.head import NUMBER_MAX, Epoch
from holdfast.stores.registers.etcd_record import decode_record, encode_epoch, encode_record

GOLDEN = [
    (
        b"\0" * 8 + b"1",
        7,
        "w-1",
        b'0000000000000007 {"format":1,"write_id":"w-1","value":"AAAAAAAAAAAx"}',
    ),
    (None, NUMBER_MAX, 'a"\\', b'7fffffffffffffff {"format":1,"write_id":"a\\"\\\\","value":null}'),
    (b"", 0, "~", b'0000000000000000 {"format":1,"write_id":"~","value":""}'),
]
EPOCHS = st.integers(0, NUMBER_MAX).map(Epoch)


@pytest.mark.parametrize(("value", "epoch", "write_id", "record"), GOLDEN)
def test_record_is_spelled_as_ever(
    value: bytes | None, epoch: int, write_id: str, record: bytes
) -> None:
    assert encode_record(value=value, epoch=Epoch(epoch), write_id=write_id) == record
    state = decode_record(b"k", record, 9)
    assert (state.value, state.epoch, state.write_id, state.revision) == (value, epoch, write_id, 9)
    assert state.is_tombstone == (value is None)


def test_document_shows_a_record() -> None:
    page = (ROOT / "docs" / "formats" / "register.md").read_text()
    shown = re.findall(r"^[0-9a-f]{16} \{.*\}$", page, re.MULTILINE)

    assert shown == [GOLDEN[0][3].decode()]


@given(st.one_of(st.none(), st.binary(max_size=64)), EPOCHS, EPOCHS)
def test_etcd_compares_epochs_by_bytes(value: bytes | None, epoch: Epoch, writer: Epoch) -> None:
    record = encode_record(value=value, epoch=epoch, write_id="w")

    assert (record < encode_epoch(writer + 1)) == (epoch <= writer)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{}",
        b"0000000000000007",
        b"000000000000007 {}",
        b"000000000000000G {}",
        b"0000000000000007 {}",
        b"0000000000000007 {",
        b'0000000000000007 {"format":2,"write_id":"w","value":null}',
        b'0000000000000007 {"format":1,"write_id":7,"value":null}',
        b'0000000000000007 {"format":1,"write_id":"w","value":"*"}',
        b'0000000000000007 {"format":1,"write_id":"w","value":7}',
        b'0000000000000007 {"format":1,"write_id":"w"}',
        b'0000000000000007 {"format":1,"write_id":"\xff","value":null}',
    ],
)
def test_damaged_record_is_refused(record: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode_record(b"k", record, 1)
