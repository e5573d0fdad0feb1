"""The least a program can do over a socket, to compare with: no digests, no plan, nothing durable.

`send PORT TREE` serves one client every file of a tree by sendfile, `tar PORT TREE` what tar makes
of it; `receive PORT TARGET` takes what `send` sends.
"""

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

_HEAD = struct.Struct("!HQ")
_BUFFER_BYTES = 1 << 20


def send(connection: socket.socket, tree: Path) -> None:
    """Send name, size and content of every file."""
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        name = os.fsencode(path.relative_to(tree))
        with open(path, "rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            connection.sendall(_HEAD.pack(len(name), size_bytes) + name)
            connection.sendfile(file, 0, size_bytes)


def send_tar(connection: socket.socket, tree: Path) -> None:
    """Send the tree as tar writes it."""
    subprocess.run(["tar", "-C", tree, "-cf", "-", "."], stdout=connection.fileno(), check=True)


def receive(connection: socket.socket, target: Path) -> None:
    """Write what `send` sends, until it ends."""
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    while len(head := connection.recv(_HEAD.size, socket.MSG_WAITALL)) == _HEAD.size:
        name_bytes, size_bytes = _HEAD.unpack(head)
        path = target / os.fsdecode(connection.recv(name_bytes, socket.MSG_WAITALL))
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb", buffering=0) as file:
            while size_bytes:
                got = connection.recv_into(buffer[: min(size_bytes, _BUFFER_BYTES)])
                if not got:
                    raise ConnectionResetError("the sender went away")
                file.write(buffer[:got])
                size_bytes -= got


def main(arguments: list[str]) -> None:
    """Do one of the three; see the module."""
    what, port, path = arguments
    if what == "receive":
        with socket.create_connection(("127.0.0.1", int(port))) as connection:
            receive(connection, Path(path))
        return
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        print("listening", flush=True)
        connection, _ = listener.accept()
        with connection:
            (send_tar if what == "tar" else send)(connection, Path(path))


if __name__ == "__main__":
    main(sys.argv[1:])
