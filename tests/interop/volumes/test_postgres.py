"""Goal: a database on a volume loses no commit it acknowledged, however often the server is killed.

Method: PostgreSQL on ext4 on a loop device on nbdfuse on the volume; clients insert and note what
was committed while the data process, and once everything that serves, is killed with SIGKILL. Then
the database is stopped as by a crash and attached anew; it recovers from what the volume holds, and
its rows, its checksums and the file system are checked.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.command import Holdfast
from tests.support.mounted import device, mounted, need_mounting, postgres_programs
from tests.support.volumes import create, data_process_id, run, serving

pytestmark = pytest.mark.slow
CLIENTS = 4
KILLS = 6


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path that the user of the database reaches too."""
    directory = Path(tempfile.mkdtemp(prefix="holdfast-pg-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


class Database:
    """PostgreSQL over a directory; listens on a unix socket only."""

    def __init__(self, programs: Path, data: Path, sockets: Path) -> None:
        self._programs = programs
        self._data = data
        self._sockets = sockets

    def make(self) -> None:
        """Make it, with checksums of its pages."""
        self._data.mkdir(mode=0o700)
        user = pwd.getpwnam("postgres")
        os.chown(self._data, user.pw_uid, user.pw_gid)
        self._run("initdb", "--data-checksums", "-A", "trust")

    @contextmanager
    def running(self, stop: str) -> Iterator[None]:
        """Start it, recovering if it must, and stop it in this mode."""
        options = f"-c listen_addresses= -c unix_socket_directories={self._sockets}"
        self._run("pg_ctl", "-o", options, "-l", str(self._data / "log"), "-w", "-t", "60", "start")
        try:
            yield
        finally:
            self._run("pg_ctl", "-m", stop, "-w", "-t", "60", "stop")

    def check(self) -> None:
        """Check the checksums of all pages of the stopped database."""
        assert "Bad checksums:  0" in self._run("pg_checksums", "--check")

    def ask(self, text: str) -> str:
        """Return the answer to a statement."""
        return run(*self.client(), "-c", text).strip()

    def client(self) -> tuple[str, ...]:
        """Return the command of a client that prints answers only."""
        where = ("-h", str(self._sockets), "-U", "postgres", "postgres")
        return (str(self._programs / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", *where)

    def _run(self, program: str, *arguments: str) -> str:
        command = (str(self._programs / program), "-D", str(self._data), *arguments)
        ended = subprocess.run(
            command,
            user="postgres",
            group="postgres",
            extra_groups=[],
            cwd=self._sockets,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert ended.returncode == 0, (command, ended.stdout)
        return ended.stdout


class Client(threading.Thread):
    """Commits one row after the other and notes which commits were acknowledged."""

    def __init__(self, database: Database, number: int) -> None:
        super().__init__()
        self.acknowledged: list[int] = []
        self._database = database
        self._number = number
        self.stopping = threading.Event()

    def run(self) -> None:
        """Insert until told to stop; the answer to each comes after its commit."""
        command = self._database.client()
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            row = self._number
            while not self.stopping.is_set():
                text = f"insert into rows values ({row}, repeat('x', 300)) returning id;\n"
                client.stdin.write(text)
                answer = client.stdout.readline()
                if answer.strip() != str(row):
                    break
                self.acknowledged.append(row)
                row += CLIENTS
            client.stdin.close()


@pytest.mark.timeout(300)
def test_no_acknowledged_commit_is_lost(holdfast: Holdfast, place: Path) -> None:
    need_mounting()
    programs = postgres_programs()
    create(holdfast, "db", "1G", "--preset", "database")
    socket = ("--socket", str(place / "nbd.sock"))

    with ExitStack() as servers:
        served = servers.enter_context(serving(holdfast, *socket))
        uri = served.uri("db")
        with device(uri, place) as loop:
            run("mkfs.ext4", "-q", "-F", loop)
            with mounted(loop, place) as directory:
                directory.chmod(0o777)
                database = Database(programs, directory / "data", directory)
                database.make()
                with database.running("immediate"):
                    database.ask("create table rows (id integer primary key, filler text)")
                    clients = [Client(database, number) for number in range(CLIENTS)]
                    for client in clients:
                        client.start()
                    _kill_again_and_again(holdfast, clients)
                    served.stop(signal.SIGKILL)
                    servers.enter_context(serving(holdfast, *socket))
                    _let_commit(clients)
                    acknowledged = _acknowledged(clients)
        # Attached anew, the machine's caches cannot answer for the volume.
        with device(uri, place) as loop:
            with mounted(loop, place) as directory:
                with database.running("fast"):
                    assert acknowledged - _kept(database) == set()
                database.check()
            run("fsck.ext4", "-fn", loop)
    assert holdfast("volumes", "scrub", "db").exit == 0


def _acknowledged(clients: list[Client]) -> set[int]:
    for client in clients:
        client.stopping.set()
    for client in clients:
        client.join()
    return {row for client in clients for row in client.acknowledged}


def _kept(database: Database) -> set[int]:
    return {int(row) for row in database.ask("select id from rows").split()}


def _kill_again_and_again(holdfast: Holdfast, clients: list[Client]) -> None:
    for _ in range(KILLS):
        _let_commit(clients)
        os.kill(data_process_id(holdfast, "db"), signal.SIGKILL)


def _let_commit(clients: list[Client]) -> None:
    """Wait until every client has commits acknowledged that it had not before."""
    before = [len(client.acknowledged) for client in clients]
    for _ in range(3000):
        if all(len(client.acknowledged) > n + 5 for client, n in zip(clients, before, strict=True)):
            return
        assert all(client.is_alive() for client in clients), "a client was refused"
        time.sleep(0.02)
    raise AssertionError("the clients do not get on")
