"""Decides whether a value may follow another where values of a key only grow.

The optional rule of a namespace, on top of model/head.py, which compares revisions and epochs and
never looks into a value. Whoever applies it reads the current state, asks here, and advances from
the revision it read; the register refuses if that is no longer the current one.

1. A value follows another if no component is smaller and at least one is greater.
2. Values of which each has a component greater than the other's, and different values with equal
   components, have two writers: a fork, refused with both as evidence, never resolved here.
3. After a tombstone, and where nothing was written, everything may follow.
"""

import re
from collections.abc import Callable

from holdfast.errors import InvalidRequestError
from holdfast.model.head import Advanced, HeadState, RefusalReason, Refused

Components = tuple[int, ...]
ComponentsOf = Callable[[bytes], Components]
"""Reads the components that only grow; InvalidRequestError if it cannot."""

_CHECKPOINT = re.compile(rb"[0-9A-F]{16}(?: [0-9A-F]{16}){3}")


def decide_growth(
    current: HeadState, proposed: bytes, components_of: ComponentsOf
) -> Advanced | Refused | None:
    """Answer a proposal from the current value; None: it may follow.

    The current value proposed again is Advanced with the current state: nothing is left to do.
    """
    if current.value is None:
        return None
    if proposed == current.value:
        return Advanced(state=current)
    before, after = components_of(current.value), components_of(proposed)
    grows = any(new > old for old, new in zip(before, after, strict=True))
    shrinks = any(new < old for old, new in zip(before, after, strict=True))
    if grows and not shrinks:
        return None
    if shrinks and not grows:
        return Refused(current=current, reason=RefusalReason.BEHIND)
    return Refused(current=current, reason=RefusalReason.FORK, proposed=proposed)


def checkpoint_components(value: bytes) -> Components:
    """Return the super block's number and the reserved nonce of a ProxyFS checkpoint.

    The text is four numbers of 16 upper-case hexadecimal digits: version 1, number and length of
    the super block, nonce. The length may shrink.
    """
    if not _CHECKPOINT.fullmatch(value) or int(value[:16], 16) != 1:
        raise InvalidRequestError(
            "the value is not a checkpoint of version 1",
            code="bad-checkpoint",
            advice="send four numbers of 16 upper-case hexadecimal digits between single spaces",
        )
    _version, super_block_number, _length, nonce = (int(part, 16) for part in value.split(b" "))
    return super_block_number, nonce
