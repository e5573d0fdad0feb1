"""The source's side: the list of files, one file or a part of it, its digest; blocking.

Runs in threads of the node; what is HTTP about it stands in file_answers.py.

Invariants:

1. Nothing outside an instance's directories is read, no symlink is followed, nothing but regular
   files is opened, and nothing that is excluded is told or given.
2. A list that could not be made whole is an error at its point, never a shorter list.
3. A digest is of a content that did not change while it was read.
"""

import base64
import threading
from collections.abc import Callable, Generator
from typing import Final

import msgspec

from holdfast.errors import (
    CancelledError,
    ConflictError,
    DeniedError,
    HoldfastError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from holdfast.files.http.names import FileAddress, file_url
from holdfast.files.http.shapes import FileEntry
from holdfast.files.listing import Exclusions, Listed, Walk
from holdfast.files.migration.model import Instance, InstanceDirectory
from holdfast.model.limits import ATTEMPTS_CHANGED_MAX, KIB
from holdfast.model.tree import FileKind, Stat, display_path
from holdfast.ports import ReadableDirectory, ReadableFile
from holdfast.proof.digests import Algorithm, new_digest

PIECE_BYTES: Final = 256 * KIB
_LIST_ENTRIES: Final = 512
"""Entries encoded at once: some 100 KiB."""

OpenDirectory = Callable[[bytes], ReadableDirectory]
ExclusionsOf = Callable[[Instance, InstanceDirectory], Exclusions]


def list_files(
    instance: Instance, open_directory: OpenDirectory, exclusions_of: ExclusionsOf
) -> Generator[bytes, None, None]:
    """Yield the list of files as one JSON document, piece by piece.

    Raises:
        UnavailableError: `list-incomplete`: a directory cannot be listed.
    """
    for directory in instance.directories:
        # Before the first piece, while an error still has an answer of its own.
        _open_root(directory, open_directory).close()
    opening = b'{"files":['
    total_size = 0
    for directory in instance.directories:
        tree = _open_root(directory, open_directory)
        try:
            walk = Walk(
                directory=tree,
                exclusions=exclusions_of(instance, directory),
                on_failure=_refuse_listing,
            )
            for batch in _batches(walk):
                total_size += sum(found.stat.size_bytes for found in batch if _is_file(found))
                entries = [_entry(directory, found) for found in batch]
                yield opening + msgspec.json.encode(entries)[1:-1]
                opening = b","
        finally:
            tree.close()
    ending = b'],"totalSize":%d}' % total_size
    yield ending if opening == b"," else opening + ending


class OpenedFile:
    """A file of an instance open for reading, and its state when it was opened."""

    __slots__ = ("_file", "stat")

    def __init__(self, file: ReadableFile) -> None:
        self._file = file
        self.stat = file.stat()

    def read(self, start: int, end: int) -> Generator[bytes, None, None]:
        """Yield [start, end) in pieces.

        Raises:
            UnavailableError: `changed-while-reading`: the file ends before `end`.
        """
        offset = start
        while offset < end:
            # A buffer of its own for each piece: the server may still hold the one before.
            piece = bytearray(min(PIECE_BYTES, end - offset))
            if self._file.read_into(memoryview(piece), offset) < len(piece):
                raise _changed()
            yield bytes(piece)
            offset += len(piece)

    def digest(self, algorithm: Algorithm, seed: int, unwanted: threading.Event) -> bytes:
        """Return the digest of the whole content; see invariant 3."""
        for _ in range(ATTEMPTS_CHANGED_MAX):
            before = self._file.signature()
            digest = new_digest(algorithm, seed)
            buffer = memoryview(bytearray(PIECE_BYTES))
            offset = 0
            while count := self._file.read_into(buffer, offset):
                digest.update(buffer[:count])
                offset += count
                if unwanted.is_set():
                    raise CancelledError("the client has gone", code="client-gone")
            if self._file.signature() == before and offset == before.size_bytes:
                self.stat = self._file.stat()
                return digest.digest()
        raise _changed()

    def close(self) -> None:
        """Release it."""
        self._file.close()


def open_addressed(
    instance: Instance,
    address: FileAddress,
    open_directory: OpenDirectory,
    exclusions_of: ExclusionsOf,
) -> OpenedFile:
    """Open the file a URL names.

    Raises:
        InvalidRequestError: No such directory of the instance, or the file is a directory.
        DeniedError: It is a symlink, lies behind one, is a device, or may not be read.
        NotFoundError: It is not there, or is excluded.
    """
    directory = _find(instance, address)
    try:
        tree = open_directory(directory.path)
    except NotFoundError as error:
        raise _not_found() from error
    try:
        file = tree.open_file(address.path)
    except NotFoundError as error:
        raise _not_found() from error
    except ConflictError as error:
        raise _explained(tree, address.path) from error
    finally:
        tree.close()
    if exclusions_of(instance, directory).covers(address.path, is_directory=False):
        file.close()
        raise NotFoundError("Requested path is excluded from live migration", code="excluded")
    try:
        return OpenedFile(file)
    except HoldfastError:
        file.close()
        raise


def spell_digest(algorithm: Algorithm, digest: bytes) -> str:
    """Spell a digest as Sidecar does: MD5 in Base64, XXHash32 in hex without leading zeros."""
    match algorithm:
        case Algorithm.MD5:
            return base64.b64encode(digest).decode("ascii")
        case Algorithm.XXH32:
            return f"{int.from_bytes(digest, 'big'):x}"
        case _:
            return digest.hex()


def etag_of(stat: Stat) -> str:
    """Return what changes whenever the content of a file may have."""
    return f'"{stat.size_bytes:x}-{stat.mtime_ns:x}-{stat.ctime_ns:x}-{stat.inode:x}"'


def _open_root(directory: InstanceDirectory, open_directory: OpenDirectory) -> ReadableDirectory:
    try:
        return open_directory(directory.path)
    except HoldfastError as error:
        # Left out of the list, it would look empty, and a destination would delete its copy.
        raise _incomplete(directory.name, error) from error


def _refuse_listing(path: bytes, error: HoldfastError) -> None:
    raise _incomplete(display_path(path), error) from error


def _incomplete(what: str, error: HoldfastError) -> UnavailableError:
    return UnavailableError(
        f"the list of files cannot be made whole: {what}: {error.message}",
        code="list-incomplete",
        advice=error.advice or "see that the node may read it and its file system is mounted",
        retry_after_s=1,
    )


def _batches(walk: Walk) -> Generator[list[Listed], None, None]:
    batch: list[Listed] = []
    for found in walk:
        if not (_is_file(found) or found.stat.kind is FileKind.DIRECTORY):
            continue  # Sidecar knows no other kinds.
        batch.append(found)
        if len(batch) == _LIST_ENTRIES:
            yield batch
            batch = []
    if batch:
        yield batch


def _is_file(found: Listed) -> bool:
    return found.stat.kind is FileKind.FILE


def _entry(directory: InstanceDirectory, found: Listed) -> FileEntry:
    path, stat = found
    try:
        path.decode("utf-8")
        name_base64 = None
    except UnicodeDecodeError:
        name_base64 = base64.b64encode(path).decode("ascii")
    return FileEntry(
        file_url=file_url(directory.kind, directory.index, path),
        size=stat.size_bytes if stat.kind is FileKind.FILE else -1,
        file_type="FILE" if stat.kind is FileKind.FILE else "DIRECTORY",
        last_modified_time=stat.mtime_ns // 1_000_000,
        name_base64=name_base64,
    )


def _find(instance: Instance, address: FileAddress) -> InstanceDirectory:
    of_kind = [d for d in instance.directories if d.kind == address.kind]
    if not of_kind:
        raise InvalidRequestError(
            f"Invalid directory type: {address.kind}",
            code="bad-directory-type",
            advice=f"this instance has {', '.join(sorted({d.kind for d in instance.directories}))}",
        )
    for directory in of_kind:
        if directory.index == address.index:
            return directory
    raise InvalidRequestError(
        f"Invalid directoryIndex: {address.index}",
        code="bad-directory-index",
        advice=f"this instance has {len(of_kind)} of type {address.kind}",
    )


def _explained(tree: ReadableDirectory, path: bytes) -> HoldfastError:
    """Return why a path that is there cannot be opened as a file."""
    names = path.split(b"/")
    for depth in range(1, len(names) + 1):
        try:
            kind = tree.stat(b"/".join(names[:depth])).kind
        except HoldfastError:
            return _not_found()
        if kind is FileKind.SYMLINK:
            return DeniedError(
                "symlinks are not followed",
                code="symlink",
                advice="ask for the file it points to, if that is in the list of files",
            )
        if kind is not FileKind.DIRECTORY:
            if depth < len(names):
                return _not_found()
            return DeniedError(f"a {kind} is not transferred", code="not-a-file")
    return InvalidRequestError("Cannot transfer directory", code="is-a-directory")


def _not_found() -> NotFoundError:
    return NotFoundError("File not found", code="no-file", advice="ask for the list of files again")


def _changed() -> UnavailableError:
    return UnavailableError(
        "the file changed while it was read",
        code="changed-while-reading",
        advice="try again",
        retry_after_s=1,
    )
