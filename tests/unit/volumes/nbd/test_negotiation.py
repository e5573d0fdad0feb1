"""Goal: clients and server agree as the NBD protocol says, byte for byte.

Method: the machine is fed what clients send, spelled out from the protocol document, and what it
answers is compared with bytes written down by hand. Invariants: negotiation 1-4, codec 2.
"""

import struct
from dataclasses import dataclass

import pytest
from tests.support.nbd_client import go, option, set_contexts, split_option_answers

from holdfast.model.limits import NBD_OPTION_BYTES_MAX, NBD_OPTIONS_MAX
from holdfast.volumes.nbd.codec import ExportFlag, MalformedError, Option, OptionReply
from holdfast.volumes.nbd.negotiation import Negotiation, Stage, TlsMode

MIB = 1 << 20
FLAGS_BOTH = b"\0\0\0\3"
OPTION_REPLY = bytes.fromhex("0003e889045565a9")
ACK = b"\0\0\0\1"


@dataclass(frozen=True)
class _Export:
    name: str = "disk"
    description: str = "a disk"
    size_bytes: int = 64 * MIB
    flags: ExportFlag = ExportFlag.HAS_FLAGS | ExportFlag.SEND_FLUSH


def _negotiation(tls: TlsMode = TlsMode.OFF, *exports: _Export) -> Negotiation:
    return Negotiation(exports or (_Export(),), tls)


def _begun(tls: TlsMode = TlsMode.OFF, *exports: _Export) -> Negotiation:
    negotiation = _negotiation(tls, *exports)
    assert negotiation.receive(FLAGS_BOTH) == b""
    return negotiation


def _kinds(data: bytes) -> list[int]:
    return [answer.kind for answer in split_option_answers(data)]


def test_greeting() -> None:
    assert _negotiation().greet() == b"NBDMAGICIHAVEOPT\0\3"


def test_go_is_answered_with_size_flags_and_block_sizes() -> None:
    negotiation = _begun()

    answer = negotiation.receive(b"IHAVEOPT\0\0\0\7\0\0\0\x0a" + b"\0\0\0\4disk" + b"\0\0")

    assert answer == (
        OPTION_REPLY + b"\0\0\0\7" + b"\0\0\0\3" + b"\0\0\0\x0c"
        b"\0\0" + b"\0\0\0\0\4\0\0\0" + b"\0\5"
        + OPTION_REPLY + b"\0\0\0\7" + b"\0\0\0\3" + b"\0\0\0\x0e"
        b"\0\3" + b"\0\0\0\1" + b"\0\0\x10\0" + b"\2\0\0\0"
        + OPTION_REPLY + b"\0\0\0\7" + ACK + b"\0\0\0\0"
    )  # fmt: skip
    assert negotiation.stage is Stage.AGREED
    assert negotiation.agreement is not None
    assert negotiation.agreement.export_name == "disk"
    assert not negotiation.agreement.is_structured


@pytest.mark.parametrize(("flags", "padding"), [(3, 0), (1, 124), (0, 124)])
def test_export_name_ends_negotiation_with_zeroes_unless_refused(flags: int, padding: int) -> None:
    negotiation = _negotiation()

    answer = negotiation.receive(struct.pack(">I", flags) + option(Option.EXPORT_NAME, b"disk"))

    assert answer == b"\0\0\0\0\4\0\0\0" + b"\0\5" + bytes(padding)
    assert negotiation.stage is Stage.AGREED


def test_export_name_that_is_unknown_hangs_up() -> None:
    with pytest.raises(MalformedError):
        _begun().receive(option(Option.EXPORT_NAME, b"other"))


def test_empty_name_means_the_only_export() -> None:
    assert _kinds(_begun().receive(go("")))[-1] == OptionReply.ACK
    two = _begun(TlsMode.OFF, _Export(), _Export(name="other"))
    assert _kinds(two.receive(go(""))) == [OptionReply.ERR_UNKNOWN]


def test_list_names_every_export() -> None:
    answer = _begun(TlsMode.OFF, _Export(), _Export(name="zwei")).receive(option(Option.LIST))

    assert [(a.kind, a.payload) for a in split_option_answers(answer)] == [
        (2, b"\0\0\0\4diska disk"),
        (2, b"\0\0\0\4zweia disk"),
        (1, b""),
    ]


def test_info_tells_name_and_description_and_goes_on() -> None:
    negotiation = _begun()
    payload = b"\0\0\0\4disk" + struct.pack(">HHH", 2, 1, 2)

    answers = split_option_answers(negotiation.receive(option(Option.INFO, payload)))

    assert b"\0\1disk" in [answer.payload for answer in answers]
    assert b"\0\2a disk" in [answer.payload for answer in answers]
    assert answers[-1].kind == OptionReply.ACK
    assert negotiation.stage is Stage.OPTIONS


def test_df_is_offered_once_replies_are_structured() -> None:
    negotiation = _begun()
    assert _kinds(negotiation.receive(option(Option.STRUCTURED_REPLY))) == [OptionReply.ACK]

    info = split_option_answers(negotiation.receive(go("disk")))[0]

    assert struct.unpack(">HQH", info.payload)[2] == 0b1000_0101
    assert negotiation.agreement is not None
    assert negotiation.agreement.is_structured


def test_contexts_are_chosen_for_one_export() -> None:
    negotiation = _begun(TlsMode.OFF, _Export(), _Export(name="other"))
    negotiation.receive(option(Option.STRUCTURED_REPLY))

    asked = ("base:allocation", "x:y", "holdfast:changed-since:17", "base:")
    answer = negotiation.receive(set_contexts("disk", *asked))

    assert [a.payload for a in split_option_answers(answer)] == [
        b"\0\0\0\1base:allocation",
        b"\0\0\0\2holdfast:changed-since:17",
        b"",
    ]
    negotiation.receive(go("disk"))
    assert negotiation.agreement is not None
    assert [c.since_lsn for c in negotiation.agreement.contexts] == [None, 17]


def test_contexts_of_another_export_are_forgotten() -> None:
    negotiation = _begun(TlsMode.OFF, _Export(), _Export(name="other"))
    negotiation.receive(option(Option.STRUCTURED_REPLY) + set_contexts("disk", "base:allocation"))

    negotiation.receive(go("other"))

    assert negotiation.agreement is not None
    assert negotiation.agreement.contexts == ()


def test_contexts_need_structured_replies() -> None:
    answer = _begun().receive(set_contexts("disk", "base:allocation"))

    assert _kinds(answer) == [OptionReply.ERR_INVALID]


@pytest.mark.parametrize(
    ("queries", "names"),
    [
        ((), [b"base:allocation", b"holdfast:changed-since:"]),
        (("base:",), [b"base:allocation"]),
        (("holdfast:",), [b"holdfast:changed-since:"]),
        (("holdfast:changed-since:5",), [b"holdfast:changed-since:5"]),
        (("holdfast:changed-since:x", "qemu:"), []),
    ],
)
def test_contexts_are_listed(queries: tuple[str, ...], names: list[bytes]) -> None:
    message = set_contexts("disk", *queries).replace(b"IHAVEOPT\0\0\0\x0a", b"IHAVEOPT\0\0\0\x09")

    answers = split_option_answers(_begun().receive(message))

    assert [a.payload for a in answers[:-1]] == [b"\0\0\0\0" + name for name in names]
    assert answers[-1].kind == OptionReply.ACK


def test_what_is_unknown_is_answered_so_and_negotiation_goes_on() -> None:
    negotiation = _begun()

    assert _kinds(negotiation.receive(option(99, b"abc"))) == [OptionReply.ERR_UNSUP]
    assert _kinds(negotiation.receive(go("none"))) == [OptionReply.ERR_UNKNOWN]
    assert _kinds(negotiation.receive(go("disk")))[-1] == OptionReply.ACK


@pytest.mark.parametrize(
    "message",
    [
        option(Option.LIST, b"x"),
        option(Option.STRUCTURED_REPLY, b"x"),
        option(Option.GO, b"\0\0\0"),
        option(Option.GO, b"\0\0\0\x09disk\0\0"),
        option(Option.GO, b"\0\0\0\4disk\0\1"),
        option(Option.GO, b"\0\0\0\4disk\0\0\0"),
        option(Option.GO, b"\0\0\0\4di\xff\xff\0\0"),
        option(Option.LIST_META_CONTEXT, b"\0\0\0\4disk"),
    ],
)
def test_malformed_option_is_refused_and_negotiation_goes_on(message: bytes) -> None:
    negotiation = _begun()

    assert _kinds(negotiation.receive(message)) == [OptionReply.ERR_INVALID]
    assert negotiation.stage is Stage.OPTIONS


def test_what_is_too_much_is_refused() -> None:
    long_name = "n" * 4097
    many = set_contexts("disk", *["a:b"] * 65)

    assert _kinds(_begun().receive(go(long_name))) == [OptionReply.ERR_TOO_BIG]
    assert _kinds(_begun().receive(many)) == [OptionReply.ERR_TOO_BIG]
    with pytest.raises(MalformedError):
        _begun().receive(b"IHAVEOPT" + struct.pack(">II", 3, NBD_OPTION_BYTES_MAX + 1))
    with pytest.raises(MalformedError):
        _begun().receive(option(99) * (NBD_OPTIONS_MAX + 1))


@pytest.mark.parametrize(
    "data", [b"\0\0\0\4", b"\0\0\0\3IHAVEOPX" + bytes(8), b"\0\0\0\0" + option(Option.LIST)]
)
def test_what_is_no_nbd_hangs_up(data: bytes) -> None:
    with pytest.raises(MalformedError):
        _negotiation().receive(data)


def test_abort_is_acknowledged() -> None:
    negotiation = _begun()

    assert _kinds(negotiation.receive(option(Option.ABORT))) == [OptionReply.ACK]
    assert negotiation.stage is Stage.ENDED


def test_nothing_but_tls_where_tls_is_required() -> None:
    negotiation = _begun(TlsMode.REQUIRED)

    for message in (option(Option.LIST), go("disk"), option(99), set_contexts("disk")):
        answers = split_option_answers(negotiation.receive(message))
        assert [a.kind for a in answers] == [OptionReply.ERR_TLS_REQD]
        assert b"disk" not in answers[0].payload
    with pytest.raises(MalformedError):
        negotiation.receive(option(Option.EXPORT_NAME, b"disk"))


def test_what_was_agreed_in_the_clear_is_forgotten_in_tls() -> None:
    negotiation = _begun(TlsMode.OPTIONAL)
    negotiation.receive(option(Option.STRUCTURED_REPLY) + set_contexts("disk", "base:allocation"))

    assert _kinds(negotiation.receive(option(Option.STARTTLS))) == [OptionReply.ACK]
    assert negotiation.stage is Stage.STARTING_TLS
    negotiation.start_tls()
    assert _kinds(negotiation.receive(option(Option.STARTTLS))) == [OptionReply.ERR_INVALID]
    negotiation.receive(go("disk"))

    assert negotiation.agreement is not None
    assert not negotiation.agreement.is_structured
    assert negotiation.agreement.contexts == ()


def test_bytes_ahead_of_tls_hang_up() -> None:
    with pytest.raises(MalformedError):
        _begun(TlsMode.OPTIONAL).receive(option(Option.STARTTLS) + b"I")


def test_tls_that_is_off_is_said_so() -> None:
    assert _kinds(_begun().receive(option(Option.STARTTLS))) == [OptionReply.ERR_POLICY]


def test_what_follows_the_agreement_is_left_for_transmission() -> None:
    negotiation = _begun()

    negotiation.receive(go("disk") + b"requests")

    assert negotiation.take_rest() == b"requests"
    assert negotiation.take_rest() == b""
