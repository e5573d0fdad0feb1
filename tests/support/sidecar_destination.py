"""A destination shaped like Cassandra Sidecar: its passes and its verification, from its facts.

Not the product and nothing of it. It asks as a Sidecar's client does: names the source in its Host
header, one GET a file, never If-Range, a pool of connections that are kept, three tries of which
only 503 and a failure before the body earn another; it compares digests as strings. What it copies
is written straight under the final name, as there.
"""

import base64
import hashlib
import http.client
import json
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import xxhash

BASE: Final = "/api/v1/live-migration"
TRIES: Final = 3
CHUNK_BYTES: Final = 1 << 20

Excluded = Callable[[str, bytes, bool], bool]
"""Given a directory such as `data/0`, a path below it, and whether it is a directory."""
Entry = dict[str, Any]


class Refused(Exception):
    """The source answered something else than wanted, to the last try."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status} {body[:200]!r}")
        self.status = status


@dataclass(slots=True, kw_only=True)
class SidecarDestination:
    """One destination: where its source is, where its directories are, what it has seen."""

    host: str
    port: int
    roots: Mapping[str, Path]
    staging: Path
    is_excluded: Excluded = lambda _name, _path, _is_directory: False
    pool: int = 10
    answers: list[int] = field(default_factory=list)
    """Statuses in order of arrival, those of tries that failed included."""
    on_pass: Callable[[int], None] = lambda _iteration: None
    _idle: "queue.LifoQueue[http.client.HTTPConnection | None]" = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._idle = queue.LifoQueue()
        for _ in range(self.pool):
            self._idle.put(None)

    def close(self) -> None:
        """Close the pool."""
        for connection in [self._idle.get() for _ in range(self.pool)]:
            if connection is not None:
                connection.close()

    def copy(
        self, *, max_iterations: int, success_threshold: float, max_concurrency: int
    ) -> list[Entry]:
        """Run a data copy; return its `status`, one element a pass."""
        status: list[Entry] = []
        if self.latch() == "COMPLETED":
            raise Refused(400, b"migration is complete")
        for iteration in range(max_iterations + 1):
            one = _not_begun(iteration)
            status.append(one)
            try:
                self._pass(one, iteration >= max_iterations, success_threshold, max_concurrency)
            except (Refused, OSError, http.client.HTTPException) as error:
                one["state"], one["why"] = "FAILED", str(error)
            if one["state"] == "SUCCESS":
                break
            self.on_pass(iteration)
        return status

    def verify(self, *, max_concurrency: int, algorithm: str) -> Entry:
        """Run a verification; return its counters and state."""
        found = dict.fromkeys(
            (
                "filesNotFoundAtSource",
                "filesNotFoundAtDestination",
                "metadataMatched",
                "metadataMismatches",
                "digestMismatches",
                "digestVerificationFailures",
                "filesMatched",
            ),
            0,
        )
        theirs, _ = self.list_source()
        ours = self.list_own()
        found["filesNotFoundAtSource"] = len(ours.keys() - theirs.keys())
        found["filesNotFoundAtDestination"] = len(theirs.keys() - ours.keys())
        for key in ours.keys() & theirs.keys():
            own, other = ours[key], theirs[key]
            members = ("size", "fileType", "lastModifiedTime")
            both = own["fileType"] == other["fileType"] == "DIRECTORY"
            same = both or all(own[name] == other[name] for name in members)
            found["metadataMatched" if same else "metadataMismatches"] += 1
        if any(found[name] for name in found if name != "metadataMatched"):
            return {"state": "FAILED", **found}
        files = [key for key, entry in theirs.items() if entry["fileType"] == "FILE"]
        with ThreadPoolExecutor(max_concurrency) as workers:
            for name in workers.map(lambda key: self._digest(theirs[key], key, algorithm), files):
                found[name] += 1
        bad = found["digestMismatches"] + found["digestVerificationFailures"]
        return {"state": "FAILED" if bad else "COMPLETED", **found}

    def complete(self) -> None:
        """Close the latch of this host; once only."""
        latch = {"state": "COMPLETED", "endTime": int(time.time() * 1000)}
        with open(self.staging / "live_migration_status.json", "x") as stream:
            json.dump(latch, stream)

    def latch(self) -> str:
        """Return how the latch of this host stands."""
        try:
            text = (self.staging / "live_migration_status.json").read_text()
        except FileNotFoundError:
            return "NOT_COMPLETED"
        return str(json.loads(text)["state"])

    def list_source(self) -> tuple[dict[tuple[str, bytes], Entry], int]:
        """Return the source's entries by directory and path, and its total."""
        listed = json.loads(self.get(f"{BASE}/files"))
        entries = {}
        for entry in listed["files"]:
            kind, index, path = entry["fileUrl"].removeprefix(f"{BASE}/files/").split("/", 2)
            entries[f"{kind}/{index}", unquote_to_bytes(path)] = entry
        assert len(entries) == len(listed["files"])
        return entries, listed["totalSize"]

    def list_own(self) -> dict[tuple[str, bytes], Entry]:
        """Return the entries of this host, without what is excluded."""
        found = {}
        for name, root in self.roots.items():
            for path, is_directory in _walk(os.fsencode(root), b"", name, self.is_excluded):
                stat = os.stat(os.path.join(os.fsencode(root), path))
                found[name, path] = {
                    "size": -1 if is_directory else stat.st_size,
                    "fileType": "DIRECTORY" if is_directory else "FILE",
                    "lastModifiedTime": stat.st_mtime_ns // 1_000_000,
                }
        return found

    def get(self, target: str, into: bytes | None = None) -> bytes:
        """GET with Sidecar's retries; the body, or nothing if it went into a file."""
        for attempt in range(1, TRIES + 1):
            connection = self._idle.get()
            keep = False
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
                connection.request("GET", target)  # Host: the source's name and port.
                response = connection.getresponse()
                with self._lock:
                    self.answers.append(response.status)
                if response.status == 200:
                    body = _receive(response, into)
                    keep = not response.will_close
                    return body
                body = response.read()
                keep = not response.will_close
                if response.status != 503 or attempt == TRIES:
                    raise Refused(response.status, body)
                wait_s = float(response.headers["Retry-After"])
            except (ConnectionError, http.client.RemoteDisconnected):
                if attempt == TRIES:
                    raise
                wait_s = 0.5 * 2 ** (attempt - 1)
            finally:
                if connection is not None and not keep:
                    connection.close()
                self._idle.put(connection if keep else None)
            time.sleep(wait_s)
        raise AssertionError

    def _pass(self, one: Entry, is_last: bool, threshold: float, concurrency: int) -> None:
        state = json.loads(self.get(f"{BASE}/status"))["state"]
        if state != "NOT_COMPLETED":
            raise Refused(400, b"the source is complete")
        theirs, total = self.list_source()
        one |= {"state": "CLEANING", "totalSize": total, "totalFiles": len(theirs)}
        self._clean(theirs)
        one["state"] = "PREPARING"
        wanted = [key for key in theirs if not os.path.lexists(self._local(key))]
        remaining = sum(max(theirs[key]["size"], 0) for key in wanted)
        if remaining and (total - remaining) / total > threshold:
            wanted = []
        if not wanted:
            one["state"] = "SUCCESS"
            return
        if is_last:
            one["state"] = "FAILED"
            return
        one |= {
            "state": "DOWNLOADING",
            "bytesToDownload": remaining,
            "filesToDownload": len(wanted),
        }
        wanted.sort(key=lambda key: -theirs[key]["size"])
        with ThreadPoolExecutor(concurrency) as workers:
            for is_good, size in workers.map(lambda key: self._fetch(key, theirs[key]), wanted):
                one["filesDownloaded" if is_good else "downloadFailures"] += 1
                one["bytesDownloaded"] += size
        one["state"] = "FAILED" if one["downloadFailures"] else "DOWNLOAD_COMPLETE"

    def _clean(self, theirs: Mapping[tuple[str, bytes], Entry]) -> None:
        for key, own in self.list_own().items():
            local, other = self._local(key), theirs.get(key)
            if not os.path.lexists(local):
                continue
            if own["fileType"] == "DIRECTORY":
                if other is None:
                    shutil.rmtree(local)
            elif other is None or any(
                own[name] != other[name] for name in ("size", "lastModifiedTime")
            ):
                os.unlink(local)

    def _fetch(self, key: tuple[str, bytes], entry: Entry) -> tuple[bool, int]:
        local, size = self._local(key), entry["size"]
        if entry["fileType"] == "DIRECTORY":
            os.makedirs(local, exist_ok=True)
            return True, 0
        os.makedirs(os.path.dirname(local), exist_ok=True)
        try:
            if size:
                self.get(entry["fileUrl"], local)
            else:
                open(local, "wb").close()
            os.utime(local, ns=(entry["lastModifiedTime"] * 1_000_000,) * 2)
        except (Refused, OSError, http.client.HTTPException):
            return False, 0
        return True, size

    def _digest(self, entry: Entry, key: tuple[str, bytes], algorithm: str) -> str:
        try:
            body = self.get(f"{entry['fileUrl']}?digestAlgorithm={algorithm}")
            answer = json.loads(body)
        except (Refused, OSError, http.client.HTTPException):
            return "digestVerificationFailures"
        if answer["digestAlgorithm"] != algorithm:
            return "digestVerificationFailures"
        with open(self._local(key), "rb") as stream:
            own = spell(stream.read(), algorithm)
        return "filesMatched" if own == answer["digest"] else "digestMismatches"

    def _local(self, key: tuple[str, bytes]) -> bytes:
        name, path = key
        root = os.fsencode(self.roots[name])
        local = os.path.normpath(os.path.join(root, path))
        assert local.startswith(root + b"/"), path
        return local


def spell(data: bytes, algorithm: str) -> str:
    """Return a digest as Sidecar's clients compare it."""
    if algorithm.lower() == "md5":
        return base64.b64encode(hashlib.md5(data).digest()).decode("ascii")
    return f"{xxhash.xxh32_intdigest(data):x}"


def _walk(
    root: bytes, below: bytes, name: str, is_excluded: Excluded
) -> Iterator[tuple[bytes, bool]]:
    for entry in os.scandir(os.path.join(root, below)):
        path = os.path.join(below, entry.name)
        is_directory = entry.is_dir(follow_symlinks=False)
        if is_excluded(name, path, is_directory):
            continue
        yield path, is_directory
        if is_directory:
            yield from _walk(root, path, name, is_excluded)


def _receive(response: http.client.HTTPResponse, into: bytes | None) -> bytes:
    if into is None:
        return response.read()
    length = int(response.headers["Content-Length"])
    with open(into, "wb") as stream:
        while chunk := response.read(CHUNK_BYTES):
            stream.write(chunk)
    if os.stat(into).st_size != length:
        raise http.client.IncompleteRead(b"", length)
    return b""


def _not_begun(iteration: int) -> Entry:
    unknown = dict.fromkeys(("totalSize", "totalFiles", "bytesToDownload", "filesToDownload"), -1)
    counted = dict.fromkeys(("filesDownloaded", "downloadFailures", "bytesDownloaded"), 0)
    return {"iteration": iteration, "state": "STARTING", **unknown, **counted}
