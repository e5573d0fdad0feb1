"""A directory of an instance behind a Cassandra Sidecar, as a ReadableDirectory for one pass.

The list of files is taken once, when it is opened; kinds, sizes and times are those of that moment.
What a Sidecar cannot tell is filled in: mode and owner of what is new are those of the directory it
is copied to (EntryDefaults), and `capabilities` says that they mean nothing.

A Sidecar gives no ETag, so a file that changed is recognized by what can be seen: its length as it
is sent, its length asked for after the reading of a large one, and the size and time in the next
pass's list, which is compared with what this pass set. So a file may be read while it is written,
but no pass after that takes it for equal.

Faults of Sidecars that are lived with: 416 for an empty file (never asked for), 500 while a file
vanishes, a wrong total in Content-Range (not looked at), names that are not encoded in the list.
"""

import http.client
import json
import os
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast.errors import (
    ConflictError,
    DeniedError,
    HoldfastError,
    IntegrityError,
    NotFoundError,
    UnavailableError,
)
from holdfast.model.limits import KIB, MIB
from holdfast.model.tree import (
    ROOT_PATH,
    Capabilities,
    FileKind,
    Stat,
    display_path,
    join_path,
    signature_of,
)
from holdfast.ports import Clock, Entropy, ExpectedFile, FileDigest, SmallFile
from holdfast.stores.sidecar.client import (
    ANSWER_S,
    PATIENCE_S,
    ROUTE,
    SidecarAddress,
    SidecarClient,
    file_url,
)
from holdfast.stores.sidecar.file import SidecarFile, parse_digest
from holdfast.stores.sidecar.listing import ListedEntry, SidecarListing

CAPABILITIES: Final = Capabilities(
    mtime_unit_ns=1_000_000,
    mode=False,
    owner=False,
    xattrs=False,
    links=False,
    allocation=False,
    change_time=False,
)
_DIGESTS: Final = {"md5": "MD5", "xxh32": "XXHash32"}
"""What a Sidecar can compute, by our names."""
_ANSWER_BYTES_MAX: Final = 64 * KIB
_LIST_S: Final = 600.0
"""A list is put together before the first byte of it is sent."""
_DIGEST_BYTES_PER_S: Final = 8 * MIB
"""The least a source is taken to read a file with that it digests."""
_ERROR_TRIES: Final = 3
_ERROR_PAUSE_S: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryDefaults:
    """What a Sidecar cannot tell of an entry."""

    file_mode: int
    directory_mode: int
    uid: int
    gid: int


def defaults_like(root: bytes) -> EntryDefaults:
    """Return what new entries of a directory get: its mode and, where that may be set, owner."""
    try:
        found = os.stat(root)
    except OSError:
        return EntryDefaults(
            file_mode=0o640, directory_mode=0o750, uid=os.geteuid(), gid=os.getegid()
        )
    is_root = os.geteuid() == 0
    return EntryDefaults(
        file_mode=found.st_mode & 0o666,
        directory_mode=found.st_mode & 0o777,
        uid=found.st_uid if is_root else os.geteuid(),
        gid=found.st_gid if is_root else os.getegid(),
    )


def open_sidecar_directories(
    address: SidecarAddress,
    names: Sequence[str],
    roots: Sequence[bytes],
    *,
    scratch: Path,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    clock: Clock,
    entropy: Entropy,
    patience_s: float = PATIENCE_S,
) -> list["SidecarDirectory"]:
    """Take the list of files of a Sidecar and return its directories, in the order of `names`.

    Args:
        address: Where it listens.
        names: `kind/index` of each directory.
        roots: Where each is copied to, for what the Sidecar cannot tell.
        scratch: A file for the list, which nobody else uses; removed when all are closed.
        token: To be sent as a bearer's; None where the certificate says who asks.
        tls: None for a plain connection.
        clock: For pauses.
        entropy: For their jitter.
        patience_s: How long it may be away or busy before a call gives up.

    Raises:
        UnavailableError, DeniedError: As SidecarClient.get; `listing-failed`.
        IntegrityError, CapacityError, StateError: As SidecarListing.fill.
    """
    client = SidecarClient(
        address, token=token, tls=tls, clock=clock, entropy=entropy, patience_s=patience_s
    )
    listing = SidecarListing(scratch, names)
    directories = [
        SidecarDirectory(client, listing, name, defaults_like(root), clock)
        for name, root in zip(names, roots, strict=True)
    ]
    try:
        _fill(client, listing)
    except BaseException:
        for directory in directories:
            directory.close()
        raise
    return directories


def _fill(client: SidecarClient, listing: SidecarListing) -> None:
    answer = client.get(ROUTE, answer_s=_LIST_S)
    if answer.status != 200:
        client.drop()
        raise UnavailableError(
            f"the Sidecar does not list its files: it answered {answer.status}",
            code="listing-failed",
            advice="check that the source is in its migration map; a list fails if a file leaves "
            "while it is made, so it may go better next time",
        )
    try:
        listing.fill(_Whole(answer))
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(
            f"the list of files was cut off: {str(error) or type(error).__name__}",
            code="listing-failed",
            advice="run it again",
        ) from error
    finally:
        client.drop()


@dataclass(frozen=True, slots=True)
class _Whole:
    """An answer that does not pass off a connection that ended as its end."""

    answer: http.client.HTTPResponse

    def read(self, amount: int | None = None, /) -> bytes:
        """Return up to so many bytes; HTTPException where it was cut off."""
        data = self.answer.read(amount)
        if not data and self.answer.length:
            raise http.client.IncompleteRead(data, self.answer.length)
        return data


class SidecarDirectory:
    """ReadableDirectory over HTTP; see the module. Owned by one process, and by its forks."""

    def __init__(
        self,
        client: SidecarClient,
        listing: SidecarListing,
        name: str,
        defaults: EntryDefaults,
        clock: Clock,
    ) -> None:
        """Use a client and a list that the other directories of the instance use too."""
        self._client = client
        self._listing = listing
        self._name = name
        self._tree = listing.tree_number(name)
        self._defaults = defaults
        self._clock = clock
        listing.hold()

    def describe(self) -> dict[str, object]:
        """See ReadableDirectory."""
        address = self._client.address
        return {
            "path": self._name,
            "host": address.host,
            "port": address.port,
            "servedBy": "sidecar",
        }

    def capabilities(self) -> Capabilities:
        """See ReadableDirectory."""
        return CAPABILITIES

    def expect_directories(self, paths: Sequence[bytes]) -> None:
        """See ReadableDirectory. The whole list is here already."""

    def expect_metadata(self, paths: Sequence[bytes]) -> None:
        """See ReadableDirectory."""

    def expect(self, files: Sequence[ExpectedFile], algorithm: str) -> None:
        """See ReadableDirectory. A Sidecar serves one file a request."""

    def digest_files(
        self, paths: Sequence[bytes], algorithm: str, *, drop_cache: bool
    ) -> Iterator[int | FileDigest | HoldfastError] | None:
        """See ReadableDirectory. A Sidecar reads through its cache: who wants none reads here."""
        spelt = None if drop_cache else _DIGESTS.get(algorithm)
        return None if spelt is None else self._digests(paths, spelt)

    def _digests(
        self, paths: Sequence[bytes], spelt: str
    ) -> Iterator[int | FileDigest | HoldfastError]:
        for path in paths:
            try:
                stat = self._file(path)
                digest = self._digest(path, spelt, stat.size_bytes)
            except HoldfastError as error:
                yield error
            else:
                yield stat.size_bytes
                yield FileDigest(stat, digest, b"", True)

    def _digest(self, path: bytes, spelt: str, size_bytes: int) -> bytes:
        url = f"{file_url(self._name, path)}?digestAlgorithm={spelt}"
        body = self._digest_answer(path, url, ANSWER_S + size_bytes / _DIGEST_BYTES_PER_S)
        try:
            document = json.loads(body)
            text, echoed = document["digest"], document["digestAlgorithm"]
            if echoed.lower() == spelt.lower():
                return parse_digest(text, spelt)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass
        raise IntegrityError(
            f"{display_path(path)}: the source's digest cannot be used: {body[:100]!r}",
            code="bad-digest",
            advice="check that both sides know the algorithm",
            path=path,
        )

    def _digest_answer(self, path: bytes, url: str, answer_s: float) -> bytes:
        """Return a short answer whole, asked for again where it was cut off."""
        for _ in range(_ERROR_TRIES):
            answer = self._get_file(path, url, {}, answer_s=answer_s)
            try:
                body = answer.read(_ANSWER_BYTES_MAX)
            except (OSError, http.client.HTTPException):
                pass
            else:
                if not answer.length:
                    return body
            self._client.drop()
        raise UnavailableError(
            f"{display_path(path)}: the answer of the source is cut off again and again",
            code="source-unreachable",
            advice="check that it runs and is not overloaded, then run it again",
            path=path,
        )

    def list_names(self, path: bytes) -> list[tuple[bytes, bool]]:
        """See ReadableDirectory."""
        if path != ROOT_PATH and self.stat(path).kind is not FileKind.DIRECTORY:
            raise _not_a_directory(path)
        self._listing.check(self._tree, path)
        return [(each.name, each.is_directory) for each in self._listing.entries(self._tree, path)]

    def stat(self, path: bytes) -> Stat:
        """See ReadableDirectory. Of the root the time of its newest entry is told."""
        if path == ROOT_PATH:
            times = [each.mtime_ms for each in self._listing.entries(self._tree, path)]
            return self._stat(ListedEntry(b"", True, 0, max(times, default=0)))
        found = self._listing.entry(self._tree, path)
        if found is None:
            self._check_way(path)
            raise _no_entry(path)
        return self._stat(found)

    def _check_way(self, path: bytes) -> None:
        """Raise ConflictError if something on the way is no directory."""
        way = path
        while way := way.rpartition(b"/")[0]:
            found = self._listing.entry(self._tree, way)
            if found is not None and not found.is_directory:
                raise _not_a_directory(way)

    def stat_names(self, path: bytes, names: list[bytes]) -> list[Stat | HoldfastError]:
        """See ReadableDirectory."""
        if len(names) == 1:
            return [self._stat_or_error(join_path(path, names[0]))]
        here = {each.name: each for each in self._listing.entries(self._tree, path)}
        return [
            self._stat(here[name]) if name in here else self._stat_or_error(join_path(path, name))
            for name in names
        ]

    def _stat_or_error(self, path: bytes) -> Stat | HoldfastError:
        try:
            return self.stat(path)
        except HoldfastError as error:
            return error

    def read_link(self, path: bytes) -> bytes:
        """See ReadableDirectory. A Sidecar lists no symlinks."""
        self.stat(path)
        raise ConflictError(
            f"{display_path(path)}: not a symlink",
            code="not-a-symlink",
            advice="list the source again",
            path=path,
        )

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """See ReadableDirectory. A Sidecar tells none."""
        self.stat(path)
        return {}

    def open_file(self, path: bytes) -> SidecarFile:
        """See ReadableDirectory."""
        return SidecarFile(self, path, self._file(path))

    def read_small(self, path: bytes, buffer: memoryview) -> SmallFile | None:
        """See ReadableDirectory."""
        stat = self._file(path)
        if stat.size_bytes > len(buffer):
            return None
        file = SidecarFile(self, path, stat)
        try:
            done = file.read_into(buffer[: stat.size_bytes], 0) if stat.size_bytes else 0
            return SmallFile(stat, done, {}, file.signature() == signature_of(stat))
        finally:
            file.close()

    def close(self) -> None:
        """See ReadableDirectory."""
        self._listing.release()
        self._client.drop()

    def ask_range(
        self, path: bytes, start: int, end: int | None = None
    ) -> http.client.HTTPResponse:
        """Ask for a file from `start` on; see open_file for what is raised."""
        headers = {}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        return self._get_file(path, file_url(self._name, path), headers)

    def drop(self) -> None:
        """Let go of a connection whose answer will not be read to its end."""
        self._client.drop()

    def _get_file(
        self, path: bytes, url: str, headers: dict[str, str], *, answer_s: float = ANSWER_S
    ) -> http.client.HTTPResponse:
        """Return an answer of 200, 206 or 416, or raise what another one means."""
        for attempt in range(_ERROR_TRIES):
            if attempt:
                self._clock.sleep(_ERROR_PAUSE_S * 2**attempt)
            answer = self._client.get(url, headers, answer_s=answer_s)
            if answer.status in (200, 206, 416):
                return answer
            self._client.drop()
            if answer.status == 404:
                raise _no_entry(path)
            if 400 <= answer.status < 500:
                raise DeniedError(
                    f"{display_path(path)}: the source refuses it with {answer.status}",
                    code="forbidden",
                    advice="exclude the same entries on both sides; see the source's log",
                    path=path,
                )
        raise ConflictError(
            f"{display_path(path)}: the source answers {answer.status}, as it does for a file that "
            "leaves while it is read",
            code="changed-at-source",
            advice="see the source's log if it stays so",
            path=path,
        )

    def _file(self, path: bytes) -> Stat:
        stat = self.stat(path)
        if stat.kind is FileKind.FILE:
            return stat
        raise ConflictError(
            f"{display_path(path)}: not a regular file",
            code="not-a-file",
            advice="list the source again",
            path=path,
        )

    def _stat(self, entry: ListedEntry) -> Stat:
        kind = FileKind.DIRECTORY if entry.is_directory else FileKind.FILE
        mtime_ns = entry.mtime_ms * 1_000_000
        defaults = self._defaults
        return Stat(
            kind=kind,
            size_bytes=entry.size_bytes,
            mtime_ns=mtime_ns,
            ctime_ns=mtime_ns,
            inode=0,  # None: nothing is trusted by it.
            device=0,
            mode=defaults.directory_mode if entry.is_directory else defaults.file_mode,
            uid=defaults.uid,
            gid=defaults.gid,
            links_count=1,
            allocated_bytes=entry.size_bytes,
        )


def _no_entry(path: bytes) -> NotFoundError:
    return NotFoundError(
        f"{display_path(path)} is not at the source",
        code="no-entry",
        advice="it left, or was never there; list the source again",
        path=path,
    )


def _not_a_directory(path: bytes) -> ConflictError:
    return ConflictError(
        f"{display_path(path)}: not a directory",
        code="not-a-directory",
        advice="list the source again",
        path=path,
    )
