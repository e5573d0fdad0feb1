"""What client and server agree on before data moves: a machine without I/O.

Bytes go in by `receive`, bytes to send come out; `stage` tells how far it is. Fixed newstyle, with
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED_REPLY, LIST_ and SET_META_CONTEXT; every
other option is answered with ERR_UNSUP, as the protocol wants.

Invariants:

1. However the same bytes are cut into pieces, the same is answered and agreed.
2. It holds at most one option, whose length is limited, and answers a limited number of them.
3. Where TLS is required, nothing but STARTTLS and ABORT is answered in the clear, no name included.
4. What was agreed before TLS is forgotten; bytes that came with STARTTLS, ahead of TLS, end it.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Final, Protocol

from holdfast.model.limits import (
    NBD_CONTEXTS_MAX,
    NBD_OPTION_BYTES_MAX,
    NBD_OPTIONS_MAX,
    NBD_QUERIES_MAX,
    NBD_REQUEST_BYTES_MAX,
    NBD_STRING_BYTES_MAX,
)
from holdfast.volumes.nbd import codec
from holdfast.volumes.nbd.codec import (
    ExportFlag,
    HandshakeFlag,
    MalformedError,
    Option,
    OptionReply,
)
from holdfast.volumes.nbd.contexts import Context, choose_contexts, list_contexts

PREFERRED_BLOCK_BYTES: Final = 4096
# Plain integers: the complement of a flag of an enumeration leaves unknown bits out.
_FLAGS_KNOWN: Final = int(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)


class TlsMode(StrEnum):
    """Whether connections are encrypted."""

    OFF = "off"
    OPTIONAL = "optional"
    REQUIRED = "required"


class Stage(StrEnum):
    """How far a negotiation is."""

    FLAGS = auto()
    OPTIONS = auto()
    STARTING_TLS = auto()
    """TLS begins once what was answered is sent; then `start_tls`."""
    AGREED = auto()
    ENDED = auto()
    """The connection ends once what was answered is sent."""


class Described(Protocol):
    """What is told of an export."""

    @property
    def name(self) -> str:
        """What clients ask for."""
        ...

    @property
    def description(self) -> str:
        """For people."""
        ...

    @property
    def size_bytes(self) -> int:
        """The size now."""
        ...

    @property
    def flags(self) -> ExportFlag:
        """What it can do now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What transmission begins with."""

    export_name: str
    is_structured: bool
    contexts: tuple[Context, ...]


class Negotiation:
    """One connection's, from greeting to agreement.

    Args:
        exports: What is offered. A single one is also meant by the empty name.
        tls: Whether TLS may or must be started.
    """

    def __init__(self, exports: Sequence[Described], tls: TlsMode) -> None:
        self._exports = exports
        self._tls = tls
        self._held = bytearray()
        self._options_left = NBD_OPTIONS_MAX
        self._is_secure = False
        self._is_fixed = False
        self._pads_export = True
        self._is_structured = False
        self._contexts_of: tuple[str, tuple[Context, ...]] = ("", ())
        self.stage = Stage.FLAGS
        self.agreement: Agreement | None = None

    def greet(self) -> bytes:
        """Return what a server says first."""
        return codec.pack_greeting(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)

    def receive(self, data: bytes) -> bytes:
        """Take what the client sent; return what to answer.

        Raises:
            MalformedError: The connection is of no use any more.
        """
        self._held += data
        answers: list[bytes] = []
        while self.stage in (Stage.FLAGS, Stage.OPTIONS):
            step = self._take_flags if self.stage is Stage.FLAGS else self._take_option
            answer = step()
            if answer is None:
                break
            answers.append(answer)
        if self.stage is Stage.STARTING_TLS and self._held:
            raise MalformedError("bytes in the clear after STARTTLS")
        return b"".join(answers)

    def start_tls(self) -> None:
        """Go on inside TLS, with everything forgotten."""
        assert self.stage is Stage.STARTING_TLS
        self._is_secure = True
        self._is_structured = False
        self._contexts_of = ("", ())
        self.stage = Stage.OPTIONS

    def take_rest(self) -> bytes:
        """Return, once, the bytes that came after what was agreed."""
        rest = bytes(self._held)
        self._held.clear()
        return rest

    def _take_flags(self) -> bytes | None:
        if len(self._held) < codec.CLIENT_FLAGS.size:
            return None
        (flags,) = codec.CLIENT_FLAGS.unpack_from(self._held)
        del self._held[: codec.CLIENT_FLAGS.size]
        if flags & ~_FLAGS_KNOWN:
            raise MalformedError(f"client flags {flags:#x}")
        self._is_fixed = bool(flags & HandshakeFlag.FIXED_NEWSTYLE)
        self._pads_export = not flags & HandshakeFlag.NO_ZEROES
        self.stage = Stage.OPTIONS
        return b""

    def _take_option(self) -> bytes | None:
        if len(self._held) < codec.OPTION.size:
            return None
        magic, option, size_bytes = codec.OPTION.unpack_from(self._held)
        if magic != codec.OPTION_MAGIC or size_bytes > NBD_OPTION_BYTES_MAX:
            raise MalformedError(f"option {option} of {size_bytes} bytes")
        end = codec.OPTION.size + size_bytes
        if len(self._held) < end:
            return None
        payload = bytes(self._held[codec.OPTION.size : end])
        del self._held[:end]
        self._options_left -= 1
        if self._options_left < 0:
            raise MalformedError("too many options")
        if not self._is_fixed and option != Option.EXPORT_NAME:
            raise MalformedError("options of a client that does not speak fixed newstyle")
        return self._answer(option, payload)

    def _answer(self, option: int, payload: bytes) -> bytes:
        if option == Option.ABORT:
            self.stage = Stage.ENDED
            return codec.pack_option_reply(option, OptionReply.ACK)
        if option == Option.STARTTLS:
            return self._start_tls(payload)
        if self._tls is TlsMode.REQUIRED and not self._is_secure:
            if option == Option.EXPORT_NAME:
                raise MalformedError("EXPORT_NAME in the clear where TLS is required")
            return codec.pack_option_reply(option, OptionReply.ERR_TLS_REQD, b"TLS is required")
        try:
            match option:
                case Option.EXPORT_NAME:
                    return self._export_name(payload)
                case Option.LIST:
                    return self._list(payload)
                case Option.INFO | Option.GO:
                    return self._inform(option, payload)
                case Option.STRUCTURED_REPLY:
                    return self._structure_replies(payload)
                case Option.LIST_META_CONTEXT | Option.SET_META_CONTEXT:
                    return self._meta_contexts(option, payload)
                case _:
                    return codec.pack_option_reply(option, OptionReply.ERR_UNSUP)
        except _RefusedError as refused:
            return codec.pack_option_reply(option, refused.reply, str(refused).encode())

    def _start_tls(self, payload: bytes) -> bytes:
        if payload or self._is_secure:
            reply = OptionReply.ERR_INVALID
        elif self._tls is TlsMode.OFF:
            reply = OptionReply.ERR_POLICY
        else:
            reply = OptionReply.ACK
            self.stage = Stage.STARTING_TLS
        return codec.pack_option_reply(Option.STARTTLS, reply)

    def _export_name(self, payload: bytes) -> bytes:
        # There is no way to answer an error to this option but to hang up.
        try:
            export = self._find(payload.decode())
        except (UnicodeDecodeError, _RefusedError) as error:
            raise MalformedError(f"EXPORT_NAME: {error}") from error
        self._agree(export)
        answer = codec.pack_export(export.size_bytes, self._flags_of(export))
        return answer + codec.EXPORT_PADDING if self._pads_export else answer

    def _list(self, payload: bytes) -> bytes:
        if payload:
            raise _RefusedError(OptionReply.ERR_INVALID, "LIST takes no data")
        replies = [
            codec.pack_option_reply(
                Option.LIST,
                OptionReply.SERVER,
                codec.pack_string(export.name) + export.description.encode(),
            )
            for export in self._exports
        ]
        return b"".join(replies) + codec.pack_option_reply(Option.LIST, OptionReply.ACK)

    def _inform(self, option: int, payload: bytes) -> bytes:
        fields = _Fields(payload)
        export = self._find(fields.take_string())
        asked = [fields.take_u16() for _ in range(fields.take_u16())]
        fields.end()
        pieces = [codec.pack_info_export(export.size_bytes, self._flags_of(export))]
        for kind in dict.fromkeys(asked):
            match kind:
                case codec.Info.NAME:
                    pieces.append(codec.pack_info_text(codec.Info.NAME, export.name))
                case codec.Info.DESCRIPTION:
                    pieces.append(codec.pack_info_text(codec.Info.DESCRIPTION, export.description))
                case _:
                    pass  # Told unasked, or unknown.
        pieces.append(codec.pack_info_block_size(1, PREFERRED_BLOCK_BYTES, NBD_REQUEST_BYTES_MAX))
        if option == Option.GO:
            self._agree(export)
        replies = [codec.pack_option_reply(option, OptionReply.INFO, piece) for piece in pieces]
        return b"".join(replies) + codec.pack_option_reply(option, OptionReply.ACK)

    def _structure_replies(self, payload: bytes) -> bytes:
        if payload:
            raise _RefusedError(OptionReply.ERR_INVALID, "STRUCTURED_REPLY takes no data")
        self._is_structured = True
        return codec.pack_option_reply(Option.STRUCTURED_REPLY, OptionReply.ACK)

    def _meta_contexts(self, option: int, payload: bytes) -> bytes:
        fields = _Fields(payload)
        name = fields.take_string()
        queries_count = fields.take_u32()
        if queries_count > NBD_QUERIES_MAX:
            raise _RefusedError(OptionReply.ERR_TOO_BIG, f"at most {NBD_QUERIES_MAX} queries")
        queries = [fields.take_string() for _ in range(queries_count)]
        fields.end()
        export = self._find(name)
        if option == Option.LIST_META_CONTEXT:
            named = [(0, context) for context in list_contexts(queries)]
        else:
            named = self._set_contexts(export, queries)
        replies = [
            codec.pack_option_reply(
                option, OptionReply.META_CONTEXT, codec.U32.pack(number) + context.encode()
            )
            for number, context in named
        ]
        return b"".join(replies) + codec.pack_option_reply(option, OptionReply.ACK)

    def _set_contexts(self, export: Described, queries: list[str]) -> list[tuple[int, str]]:
        self._contexts_of = ("", ())
        if not self._is_structured:
            raise _RefusedError(OptionReply.ERR_INVALID, "structured replies come first")
        contexts = choose_contexts(queries)
        if len(contexts) > NBD_CONTEXTS_MAX:
            raise _RefusedError(OptionReply.ERR_TOO_BIG, f"at most {NBD_CONTEXTS_MAX} contexts")
        self._contexts_of = (export.name, tuple(contexts))
        return [(context.number, context.name) for context in contexts]

    def _find(self, name: str) -> Described:
        if not name and len(self._exports) == 1:
            return self._exports[0]
        for export in self._exports:
            if export.name == name:
                return export
        raise _RefusedError(OptionReply.ERR_UNKNOWN, "no such export")

    def _flags_of(self, export: Described) -> ExportFlag:
        return export.flags | (ExportFlag.SEND_DF if self._is_structured else ExportFlag(0))

    def _agree(self, export: Described) -> None:
        name, contexts = self._contexts_of
        self.agreement = Agreement(
            export_name=export.name,
            is_structured=self._is_structured,
            contexts=contexts if name == export.name else (),
        )
        self.stage = Stage.AGREED


class _RefusedError(Exception):
    """An option that is answered with an error; negotiation goes on."""

    def __init__(self, reply: OptionReply, message: str) -> None:
        super().__init__(message)
        self.reply = reply


class _Fields:
    """Reads the fields of an option one after another; ERR_INVALID where one is not there."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def take_u16(self) -> int:
        return self._take(codec.U16)

    def take_u32(self) -> int:
        return self._take(codec.U32)

    def take_string(self) -> str:
        size_bytes = self.take_u32()
        end = self._at + size_bytes
        if size_bytes > NBD_STRING_BYTES_MAX:
            raise _RefusedError(OptionReply.ERR_TOO_BIG, "a string is too long")
        if end > len(self._payload):
            raise _RefusedError(OptionReply.ERR_INVALID, "a string ends after the option")
        encoded = self._payload[self._at : end]
        self._at = end
        try:
            return encoded.decode()
        except UnicodeDecodeError:
            raise _RefusedError(OptionReply.ERR_INVALID, "a string is not UTF-8") from None

    def end(self) -> None:
        if self._at != len(self._payload):
            raise _RefusedError(OptionReply.ERR_INVALID, "the option is too long")

    def _take(self, field: struct.Struct) -> int:
        end = self._at + field.size
        if end > len(self._payload):
            raise _RefusedError(OptionReply.ERR_INVALID, "the option is too short")
        (value,) = field.unpack_from(self._payload, self._at)
        self._at = end
        return int(value)
