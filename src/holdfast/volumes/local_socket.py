"""Unix sockets at paths of any length, taken over from dead processes only.

The address of a unix socket holds 107 bytes, less than many a path. The kernel takes the path
through an open directory instead, so our own two ends never meet the limit; other programs that
connect do, which is why a socket made for them is refused where its path is too long.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from holdfast.errors import ConflictError, DeniedError, InvalidRequestError, UnavailableError

ADDRESS_BYTES_MAX: Final = 107


def bind_local(path: Path, *, for_others: bool) -> socket.socket:
    """Return a listening socket at `path`, mode 0600, in place of one that nobody listens on.

    Args:
        for_others: Programs that are not ours connect to it: the path has to fit an address.

    Raises:
        InvalidRequestError: The path is too long (`socket-path-too-long`).
        ConflictError: Somebody listens there, or it is no socket (`socket-taken`).
        DeniedError: It cannot be made there (`socket-denied`).
    """
    if for_others and len(os.fsencode(path)) > ADDRESS_BYTES_MAX:
        raise InvalidRequestError(
            f"{path} is too long for a unix socket: {ADDRESS_BYTES_MAX} bytes is the most",
            code="socket-path-too-long",
            advice="name a shorter path with --socket",
        )
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short_address(path) as address:
            _remove_dead(path, address)
            # Before bind: the name then never exists with more permissions.
            os.fchmod(bound.fileno(), 0o600)
            bound.bind(address)
        bound.listen(128)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise _taken(path) from error
        raise DeniedError(
            f"cannot listen on {path}: {error.strerror}",
            code="socket-denied",
            advice="check that its directory exists and may be written",
        ) from error
    except BaseException:
        bound.close()
        raise
    return bound


def connect_local(path: Path, timeout_s: float) -> socket.socket:
    """Return a blocking socket connected to the one at `path`.

    Raises:
        UnavailableError: Nobody listens there (`not-listening`).
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.settimeout(timeout_s)
    try:
        with _short_address(path) as address:
            connected.connect(address)
    except OSError as error:
        connected.close()
        raise UnavailableError(
            f"nobody listens on {path}: {error.strerror or error}",
            code="not-listening",
            advice="see whether the volume is served with 'holdfast volumes show'",
        ) from error
    return connected


@contextlib.contextmanager
def _short_address(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _remove_dead(path: Path, address: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise _taken(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass
    raise _taken(path)


def _taken(path: Path) -> ConflictError:
    return ConflictError(
        f"{path} is in use by another process, or is not a socket",
        code="socket-taken",
        advice="stop what uses it, or name another path with --socket",
    )
