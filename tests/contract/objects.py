"""The object stores on which their contract runs; real servers are started once a session."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.errors import HoldfastError
from holdfast.ports import ObjectStore
from holdfast.stores.objects.bucket import BucketObjects
from holdfast.stores.objects.container import ContainerObjects, SwiftLogin
from holdfast.stores.objects.directory import DirectoryObjects
from holdfast.stores.objects.s3_signature import S3Keys
from holdfast.stores.system import SystemEntropy
from holdfast.testing.clock import SimClock
from holdfast.testing.objects import SimObjectStore
from tests.interop.swift.cluster import Cluster, find_swift, free_port

KEYS = S3Keys(access_key="AKLAB", secret_key="SKLABSKLAB")
START_S = 40.0
BUCKET = "banks"


class Weed:
    """SeaweedFS as an S3 store on loopback; whoever makes it stops it."""

    def __init__(self, program: Path, directory: Path) -> None:
        directory.mkdir(parents=True)
        names = ("master", "volume", "filer", "s3")
        ports = {name: free_port() for name in names}
        # Each server also listens for gRPC at its port + 10000 unless told.
        grpc = {name: free_port() for name in names}
        identity = {
            "name": "lab",
            "credentials": [{"accessKey": KEYS.access_key, "secretKey": KEYS.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (directory / "data").mkdir()
        self.url = f"http://127.0.0.1:{ports['s3']}"
        options = [f"-{name}.port={ports[name]}" for name in names]
        options += [f"-{name}.port.grpc={grpc[name]}" for name in names]
        with open(directory / "weed.log", "wb") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    "server",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    f"-dir={directory / 'data'}",
                    "-filer",
                    "-s3",
                    f"-s3.config={directory / 's3.json'}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-volume.max=20",
                    "-master.volumeSizeLimitMB=128",
                    "-master.telemetry=false",
                    "-master.electionTimeout=1s",
                    "-master.heartbeatInterval=100ms",
                    *options,
                ],
                cwd=directory,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self._log = directory / "weed.log"

    def wait(self) -> None:
        """Wait until an object can be put and read; it answers 403 long before."""
        self._make_bucket()
        store = BucketObjects(f"{self.url}/{BUCKET}/ready", KEYS, timeout_s=5)
        deadline = time.monotonic() + START_S
        while True:
            try:
                store.put("ready", b"x")
                return
            except HoldfastError:
                if time.monotonic() > deadline:
                    raise AssertionError(self._log.read_text()[-2000:]) from None
                time.sleep(0.2)

    def stop(self) -> None:
        """Kill it, by its pid: a polite end takes it twenty seconds."""
        self._process.kill()
        self._process.wait()

    def _make_bucket(self) -> None:
        import urllib.error
        import urllib.request

        from holdfast.stores.objects.s3_signature import signature

        deadline = time.monotonic() + START_S
        url = f"{self.url}/{BUCKET}"
        while time.monotonic() < deadline:
            signed = signature(KEYS, "PUT", url, b"", time.time_ns())
            try:
                urllib.request.urlopen(
                    urllib.request.Request(url, method="PUT", headers=signed), timeout=5
                ).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise AssertionError(self._log.read_text()[-2000:])


def find_weed() -> Path | None:
    """Return SeaweedFS's program, or None."""
    own = Path(sys.executable).with_name("weed")
    found = shutil.which("weed")
    return own if own.exists() else Path(found) if found else None


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    program = find_weed()
    if program is None:
        pytest.skip("no SeaweedFS; the locked development requirements install it")
    server = Weed(program, tmp_path_factory.mktemp("weed") / "server")
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def swift_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Swift all in one: one replica of everything."""
    programs = find_swift()
    if programs is None:
        pytest.skip("no OpenStack Swift; 'make deps' installs it")
    directory = tmp_path_factory.mktemp("swift-alone")
    try:
        os.setxattr(directory, "user.holdfast", b"x")
    except OSError as error:
        pytest.skip(f"Swift needs extended attributes: {error.strerror}")
    cluster = Cluster(programs, directory, 1)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def open_bucket(weed: Weed, prefix: str) -> BucketObjects:
    """Open an empty place in the bucket."""
    return BucketObjects(f"{weed.url}/{BUCKET}/{prefix}", KEYS, timeout_s=20)


def open_container(cluster: Cluster, prefix: str) -> ContainerObjects:
    """Open an empty place in a container."""
    login = SwiftLogin(auth_url=f"{cluster.url}/auth/v1.0", user="test:tester", password="testing")
    return ContainerObjects(login, "banks", prefix, timeout_s=20)


STORES = [
    "sim",
    "directory",
    pytest.param("bucket", marks=pytest.mark.slow),
    pytest.param("container", marks=pytest.mark.slow),
]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """One implementation of the port, empty."""
    prefix = SystemEntropy().random_bytes(6).hex()
    makers: dict[str, Callable[[], ObjectStore]] = {
        "sim": lambda: SimObjectStore(SimClock()),
        "directory": lambda: DirectoryObjects(str(tmp_path), SystemEntropy()),
        "bucket": lambda: open_bucket(request.getfixturevalue("weed"), prefix),
        "container": lambda: open_container(request.getfixturevalue("swift_alone"), prefix),
    }
    made = makers[request.param]()
    yield made
    made.close()
