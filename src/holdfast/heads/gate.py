"""Who may read or move a head: whoever may read or write its object, proven at the store itself.

Invariants:

1. Nothing is read or changed for a caller before the store has said yes.
2. Moving a head takes the right to write, not only to read.
3. The cache, off by default, holds only what was allowed, for a bounded time and number, under a
   digest of the token; a refusal is never cached.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from holdfast.errors import (
    DeniedError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from holdfast.heads.address import Address, Dialect
from holdfast.heads.model import TOKEN_BYTES_MAX
from holdfast.model.limits import HEAD_VALUE_BYTES_MAX
from holdfast.ports import Clock, ObjectAccess, StoreAnswer

ALLOWED_MAX: Final = 65536
"""Rights remembered at once."""
SAID_NO: Final = "store-said-no"

_PASSED_ON: Final[dict[int, type[HoldfastError]]] = {
    401: DeniedError,
    403: DeniedError,
    404: NotFoundError,
    503: UnavailableError,
}


class Gate:
    """Asks the store for each request, or remembers its yes for `cache_ns`."""

    def __init__(
        self, access: Mapping[Dialect, ObjectAccess], clock: Clock, *, cache_ns: int = 0
    ) -> None:
        self._access = access
        self._clock = clock
        self._cache_ns = cache_ns
        self._allowed: OrderedDict[bytes, int] = OrderedDict()

    def remembers_read(self, address: Address, token: str) -> bool:
        """Whether the store allowed this read a short while ago; never without a cache."""
        return self._is_remembered("read", address, token)

    async def read(self, address: Address, token: str) -> bytes | None:
        """Prove the right to read; return the store's copy, None if it is too long for a head."""
        access = self._access[address.dialect]
        answer = await access.read(address.url, token, HEAD_VALUE_BYTES_MAX)
        _check(answer)
        self._remember("read", address, token)
        return answer.body

    async def prove_write(self, address: Address, token: str) -> None:
        """Prove the right to read and to write."""
        if self._is_remembered("write", address, token):
            return
        access = self._access[address.dialect]
        _check(await access.read(address.url, token, 0))
        _check(await access.prove_write(address.url, token))
        self._remember("write", address, token)

    def _is_remembered(self, right: str, address: Address, token: str) -> bool:
        until_ns = self._allowed.get(_name(right, address, token), 0) if self._cache_ns else 0
        return self._clock.monotonic_ns() < until_ns

    def _remember(self, right: str, address: Address, token: str) -> None:
        if not self._cache_ns:
            return
        name = _name(right, address, token)
        self._allowed.pop(name, None)
        self._allowed[name] = self._clock.monotonic_ns() + self._cache_ns
        while len(self._allowed) > ALLOWED_MAX:
            self._allowed.popitem(last=False)


def check_token(token: str) -> None:
    """Refuse a token that no store gives out (`bad-token`)."""
    if len(token) > TOKEN_BYTES_MAX or not (token.isascii() and (token + "x").isprintable()):
        raise InvalidRequestError(
            f"X-Auth-Token is not up to {TOKEN_BYTES_MAX} printable ASCII characters",
            code="bad-token",
        )


def _check(answer: StoreAnswer) -> None:
    if 200 <= answer.status < 300:
        return
    kind = _PASSED_ON.get(answer.status)
    if kind is None:
        raise UnavailableError(
            f"the object store answered {answer.status}, which is neither yes nor no",
            code="store-answered-oddly",
            advice="redirects are not followed; give the final URL",
        )
    raise kind(
        f"the object store answered {answer.status}", code=SAID_NO, http_status=answer.status
    )


def _name(right: str, address: Address, token: str) -> bytes:
    text = f"{right}\0{address.url}\0{token}"
    return hashlib.blake2b(text.encode(), digest_size=32).digest()
