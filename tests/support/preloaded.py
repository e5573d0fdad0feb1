"""The command in a process of its own that begins in a moment: forked where it is loaded already.

An interpreter imports holdfast once, waits for requests and forks for each; the fork takes on
arguments, environment and streams and runs `python -m holdfast` to its end as any interpreter
would. Directory, limits and namespaces are those of the first command that was run so. What is not
tested by this is the start itself: use `Holdfast.start` for that.

Run as a program, this file is that interpreter.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

_NUMBER: Final = struct.Struct("=q")


class Interpreter(NamedTuple):
    """What a command is run by."""

    path: str
    search_path: str
    """Its PYTHONPATH, or nothing."""
    user: int | None
    """Whom it runs as, if not as who runs the tests."""


class Preloaded:
    """An interpreter that has the command loaded; one command at a time."""

    def __init__(self, interpreter: Interpreter) -> None:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        if interpreter.search_path:
            environment["PYTHONPATH"] = interpreter.search_path
        self._socket, theirs = socket.socketpair()
        with contextlib.ExitStack() as opened:
            opened.callback(self._socket.close)
            with theirs:
                self._process = subprocess.Popen(
                    [interpreter.path, __file__, str(theirs.fileno())],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    **as_user(interpreter.user),
                )
            opened.pop_all()

    def run(
        self, words: Sequence[str], environment: Mapping[str, str], timeout_s: float
    ) -> tuple[int, bytes, bytes]:
        """Run it to its end; return its exit code, or minus the signal, and what it said."""
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            request = json.dumps([words, dict(environment)]).encode()
            streams = [stdout.fileno(), stderr.fileno()]
            socket.send_fds(self._socket, [_NUMBER.pack(len(request))], streams)
            self._socket.sendall(request)
            process_id = _receive_number(self._socket)
            self._socket.settimeout(timeout_s)
            try:
                status = _receive_number(self._socket)
            except BaseException:
                os.killpg(process_id, signal.SIGKILL)
                self._socket.settimeout(None)
                _receive_number(self._socket)
                raise
            self._socket.settimeout(None)
            for stream in (stdout, stderr):
                stream.seek(0)
            return os.waitstatus_to_exitcode(status), stdout.read(), stderr.read()

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait()


def as_user(user: int | None) -> dict[str, Any]:
    """Return what makes a process of `subprocess` that of a user without privileges."""
    return {} if user is None else {"user": user, "group": user, "extra_groups": []}


_idle: dict[Interpreter, list[Preloaded]] = {}


def run_preloaded(
    interpreter: Interpreter,
    words: Sequence[str],
    environment: Mapping[str, str],
    timeout_s: float,
) -> tuple[int, bytes, bytes]:
    """Run the command to its end; return its exit code, or minus the signal, and what it said.

    An OSError says that the interpreter cannot be had here.
    """
    idle = _idle.setdefault(interpreter, [])
    preloaded = idle.pop() if idle else Preloaded(interpreter)
    try:
        ended = preloaded.run(words, environment, timeout_s)
    except BaseException:
        preloaded.close()
        raise
    idle.append(preloaded)
    return ended


@atexit.register
def _close_idle() -> None:
    for idle in _idle.values():
        for preloaded in idle:
            preloaded.close()


def _receive(sender: socket.socket, size_bytes: int) -> bytes:
    received = b""
    while len(received) < size_bytes:
        part = sender.recv(size_bytes - len(received))
        if not part:
            raise ConnectionResetError
        received += part
    return received


def _receive_number(sender: socket.socket) -> int:
    (number,) = _NUMBER.unpack(_receive(sender, _NUMBER.size))
    return int(number)


def _serve(requests: socket.socket) -> None:
    """Fork for each request and tell its process id, then its status; return in each fork."""
    while True:
        size, streams, _, _ = socket.recv_fds(requests, _NUMBER.size, 2)
        if not size:
            sys.exit()
        size += _receive(requests, _NUMBER.size - len(size))
        words, environment = json.loads(_receive(requests, *_NUMBER.unpack(size)))
        process_id = os.fork()
        if process_id == 0:
            requests.close()
            os.setsid()
            for number, stream in enumerate(streams, start=1):
                os.dup2(stream, number)
                os.close(stream)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = ["holdfast", *words]
            return
        for stream in streams:
            os.close(stream)
        requests.sendall(_NUMBER.pack(process_id))
        requests.sendall(_NUMBER.pack(os.waitpid(process_id, 0)[1]))


def _load() -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: F401

    import holdfast.cli.demo
    import holdfast.client.heads
    import holdfast.client.node
    import holdfast.server.checkpoints
    import holdfast.server.volumes
    import holdfast.stores.registers.sqlite  # noqa: F401
    from holdfast.cli.main import app

    # What parsing loads, it loads once it has something to parse.
    with contextlib.redirect_stdout(None), contextlib.suppress(SystemExit):
        app(["copy", "--help"], prog_name="holdfast")
    gc.collect()
    gc.freeze()  # A fork that looks at nothing of this shares all of it.


def _run() -> NoReturn:
    _load()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("holdfast", run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    _run()
