"""How the state of a head is spelled as a value in etcd; see docs/formats/register.md.

Bytes in, bytes out. The epoch stands first, in hexadecimal digits of fixed width, so that etcd
itself can compare it: a record is less than the text of the next epoch exactly if its own epoch is
not greater than the writer's.
"""

import base64
import binascii
import json
import re
from typing import Final

from holdfast.errors import IntegrityError
from holdfast.model.head import Epoch, HeadState, Revision

FORMAT: Final = 1
_RECORD: Final = re.compile(rb"([0-9a-f]{16}) (\{.*\})", re.DOTALL)


def encode_epoch(epoch: int) -> bytes:
    """Spell an epoch so that the order of bytes is the order of numbers."""
    return b"%016x" % epoch


def encode_record(*, value: bytes | None, epoch: Epoch, write_id: str) -> bytes:
    """Spell a state; its revision is etcd's own mod revision."""
    body = {
        "format": FORMAT,
        "write_id": write_id,
        "value": None if value is None else base64.b64encode(value).decode("ascii"),
    }
    return encode_epoch(epoch) + b" " + json.dumps(body, separators=(",", ":")).encode()


def decode_record(key: bytes, record: bytes, mod_revision: int) -> HeadState:
    """Read a state; IntegrityError (`register-damaged`) if it is not one of ours."""
    found = _RECORD.fullmatch(record)
    if not found:
        raise _damaged(key, "it does not begin with an epoch")
    try:
        body = json.loads(found[2])
        encoded, write_id, version = body["value"], body["write_id"], body["format"]
        value = None if encoded is None else base64.b64decode(encoded, validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise _damaged(key, str(error)) from error
    if version != FORMAT or not isinstance(write_id, str):
        raise _damaged(key, f"its format is {version!r}, not {FORMAT}")
    return HeadState(
        value=value,
        revision=Revision(mod_revision),
        epoch=Epoch(int(found[1], 16)),
        is_tombstone=value is None,
        write_id=write_id,
    )


def _damaged(key: bytes, why: str) -> IntegrityError:
    return IntegrityError(
        f"the record under {key!r} in etcd is not a head's: {why}",
        code="register-damaged",
        advice="find out who else writes under this prefix; the history in etcd may have the head",
        key=key,
    )
