"""The side directory of a target: where partial files, and what was displaced, are kept.

It lies at the root of the target, so on the same file system; no listing shows it.
"""

import hashlib

from holdfast.errors import ConflictError, NotFoundError
from holdfast.model.limits import FLUSH_EACH_MAX
from holdfast.model.tree import ROOT_PATH, SIDE_DIRECTORY, join_path, parent_of
from holdfast.ports import Directory

PARTIAL_DIRECTORY = join_path(SIDE_DIRECTORY, b"partial")
QUARANTINE_DIRECTORY = join_path(SIDE_DIRECTORY, b"quarantine")


def partial_path(path: bytes) -> bytes:
    """Return where a later run finds the partial file of a large entry: always the same place."""
    return join_path(PARTIAL_DIRECTORY, hashlib.blake2b(path, digest_size=16).hexdigest().encode())


def partial_bytes(target: Directory) -> int:
    """Return how much room the partial files of earlier runs take."""
    size_bytes = 0
    pending = [PARTIAL_DIRECTORY]
    while pending:
        directory = pending.pop()
        try:
            for name, is_directory in target.list_names(directory):
                path = join_path(directory, name)
                if is_directory:
                    pending.append(path)
                else:
                    size_bytes += target.stat(path).allocated_bytes
        except (NotFoundError, ConflictError):
            continue
    return size_bytes


def remove_if_there(target: Directory, path: bytes) -> None:
    """Remove anything but a directory, if it is there."""
    try:
        target.remove_file(path)
    except NotFoundError:
        pass


def make_directories(target: Directory, path: bytes) -> None:
    """Make a directory and those above it, as far as they are missing."""
    if path == ROOT_PATH:
        return
    try:
        target.make_directory(path)
    except NotFoundError:
        make_directories(target, parent_of(path))
        target.make_directory(path)
    except ConflictError as error:
        if error.code != "exists":
            raise


def displace(target: Directory, path: bytes, quarantine: bytes, *, flush: bool) -> None:
    """Move what stands at `path` into the quarantine, under the same relative path.

    An entry that an earlier attempt already put there is kept under a numbered name beside it.
    Flushed, with all directories on the way, where something else is to take the name next: or loss
    of power might keep the new and forget where the old one went.
    """
    place = join_path(quarantine, path)
    make_directories(target, parent_of(place))
    number = 0
    while _stands(target, place):
        number += 1
        place = join_path(quarantine, path + b".%d" % number)
    try:
        target.rename(path, place)
    except NotFoundError:
        return
    while flush and place != ROOT_PATH:
        place = parent_of(place)
        target.flush_directory(place)


def _stands(target: Directory, path: bytes) -> bool:
    try:
        target.stat(path)
    except NotFoundError:
        return False
    return True


def flush_directories(target: Directory, paths: set[bytes]) -> None:
    """Make the names in these directories durable."""
    if len(paths) > FLUSH_EACH_MAX:
        target.flush_all()
        return
    for path in paths:
        target.flush_directory(path)


def remove_side_directory(target: Directory) -> None:
    """Remove the side directory as far as it is empty."""
    for path in (PARTIAL_DIRECTORY, QUARANTINE_DIRECTORY, SIDE_DIRECTORY):
        try:
            target.remove_directory(path)
        except (ConflictError, NotFoundError):
            continue


def remove_tree(target: Directory, path: bytes) -> None:
    """Remove a directory of ours and all in it, following nothing."""
    stack = [path]
    while stack:
        here = stack[-1]
        below = []
        for name, is_directory in target.list_names(here):
            entry = join_path(here, name)
            if is_directory:
                below.append(entry)
            else:
                remove_if_there(target, entry)
        if below:
            stack.extend(below)
        else:
            target.remove_directory(here)
            stack.pop()
