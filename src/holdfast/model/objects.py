"""Names of objects in a store: what may stand in one, and the check of every name.

Segments of ASCII letters, digits, `.`, `_` and `-`, joined by `/`; none empty, none beginning with
a dot, so that neither `.`, `..` nor an adapter's own files can be named. At most
OBJECT_NAME_BYTES_MAX bytes. Names are ordered as bytes.
"""

import re

from holdfast.errors import InvalidRequestError
from holdfast.model.limits import OBJECT_NAME_BYTES_MAX

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def check_object_name(name: str) -> str:
    """Return a name that may stand in a store, or raise InvalidRequestError (`bad-object-name`)."""
    if len(name) <= OBJECT_NAME_BYTES_MAX and _NAME.fullmatch(name):
        return name
    raise InvalidRequestError(
        f"{name[:80]!r} is not the name of an object",
        code="bad-object-name",
        advice="names are segments of letters, digits, '.', '_' and '-', joined by '/'",
    )
