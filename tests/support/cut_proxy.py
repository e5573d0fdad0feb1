"""A TCP proxy in a thread that cuts, stalls or garbles what passes, when told to."""

import contextlib
import socket
import threading


class CutProxy:
    """Between clients and one server of loopback."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._stopped = threading.Event()
        self.cut_after_bytes: list[int] = []
        """For each further connection in turn: how much of the answers passes before it is cut."""
        self.flip_at: int | None = None
        """Of the answers of the next connection: the byte that arrives changed."""
        self.is_down = False
        """Whether connections are cut as soon as they are made."""
        self.connections_count = 0
        self.passed_bytes = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Cut every connection there is."""
        for pair in list(self._pairs):
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop, and cut everything."""
        self._stopped.set()
        self._listener.close()
        self.cut()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self.connections_count += 1
            if self.is_down:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._pairs.append((client, server))
            left = self.cut_after_bytes.pop(0) if self.cut_after_bytes else None
            flip, self.flip_at = self.flip_at, None
            for arguments in ((client, server, None, None), (server, client, left, flip)):
                threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(
        self, one: socket.socket, other: socket.socket, left: int | None, flip: int | None
    ) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if flip is not None and passed <= flip < passed + len(data):
                    at = flip - passed
                    data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
                if left is not None and passed + len(data) > left:
                    other.sendall(data[: left - passed])
                    break
                passed += len(data)
                self.passed_bytes += len(data)
                other.sendall(data)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
