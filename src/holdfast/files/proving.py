"""Turns what a verification remembered into a signed proof, and a proof back into rows to verify.

Order of writes of a proof: a new file beside its name, flushed; renamed; its directory flushed. So
under the name stands no proof, the one before, or a whole new one.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from holdfast import __version__
from holdfast.errors import DeniedError, NotFoundError, StorageFailedError
from holdfast.files.ledger import Known, Ledger
from holdfast.files.model import VerifyOutcome, VerifyReport
from holdfast.model.tree import FileKind
from holdfast.proof.check import ProofCheck, check_read
from holdfast.proof.digests import Algorithm
from holdfast.proof.document import ProofWriter, read_proof
from holdfast.proof.manifest import ManifestEntry
from holdfast.proof.signature import SigningKey
from holdfast.proof.statement import Claims, Statement, VerificationClaim

_ROWS_PAGE = 2048


def write_proof(
    path: Path, ledger: Ledger, algorithm: Algorithm, claims: Claims, key: SigningKey
) -> Statement:
    """Prove every entry the ledger says matched; when this returns, the proof survives power loss.

    Raises:
        DeniedError, StorageFailedError: The file cannot be written; a proof before it stays.
    """
    with replace_file(path) as stream:
        writer = ProofWriter(stream, algorithm)
        for row in ledger.entries.all():
            if row.outcome == VerifyOutcome.MATCHED:
                writer.add(_manifest_entry(row))
        statement = writer.finish(claims, key)
    ledger.set("proof", writer.chain_digest)
    return statement


def _manifest_entry(row: Known) -> ManifestEntry:
    is_file = row.kind is FileKind.FILE
    return ManifestEntry(
        row.path,
        row.kind,
        row.size_bytes,
        row.mode,
        row.link_target,
        row.digest if is_file else None,
    )


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that appears under its name whole, durable, or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except PermissionError as error:
        raise DeniedError(
            f"cannot write {path}: permission denied",
            code="forbidden",
            advice="name another place for the proof with --proof",
        ) from error
    except OSError as error:
        raise StorageFailedError(
            f"cannot write {path}: {error.strerror or error}",
            code="write-failed",
            advice="name another place for the proof with --proof",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def open_proof(path: Path) -> IO[bytes]:
    """Open a proof for reading.

    Raises:
        NotFoundError: `no-proof`. DeniedError: `forbidden`.
    """
    try:
        return open(path, "rb")
    except PermissionError as error:
        raise DeniedError(
            f"cannot read {path}: permission denied", code="forbidden", advice="check its mode"
        ) from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise NotFoundError(
            f"{path} is not a file", code="no-proof", advice="name a proof file"
        ) from error


def make_claims(
    *,
    source: Mapping[str, object],
    target: Mapping[str, object],
    task_id: str,
    now_ns: int,
    exclusions: tuple[str, ...],
    report: VerifyReport,
    previous: str | None,
) -> Claims:
    """Return what a proof says beside its entries."""
    unproven = {
        outcome.value: count
        for outcome, count in report.counts.items()
        if count and outcome is not VerifyOutcome.MATCHED
    }
    details = {
        "entries": report.entries,
        "hashedBytes": report.hashed_bytes,
        "trustedDigests": report.trusted,
        "confidence": report.confidence,
    }
    return Claims(
        product=f"holdfast {__version__}",
        source=source,
        target=target,
        task_ids=(task_id,),
        created_at=rfc3339(now_ns),
        exclusions=exclusions,
        unproven=unproven,
        verification=VerificationClaim(
            mode=report.mode,
            cache_dropped=report.cache_dropped,
            verdict=report.verdict.value,
            details=details,
        ),
        previous=previous,
    )


def rfc3339(now_ns: int) -> str:
    """Spell a moment of the wall clock, in UTC, to the second."""
    return datetime.fromtimestamp(now_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def load_proof(
    path: Path,
    open_ledger: Callable[[str, Algorithm], Ledger],
    expected_public_key: bytes | None,
) -> tuple[ProofCheck, Ledger]:
    """Read a proof into the ledger that belongs to it, checking it on the way.

    The rows are in the ledger once; a later run finds them there, with what it may trust.

    Args:
        path: The proof.
        open_ledger: Given the proof's own digest and algorithm, returns the ledger for it.
        expected_public_key: Whose signature it must be; None for anybody's.
    """
    with open_proof(path) as stream:
        for _ in (reader := read_proof(stream)):
            pass
        check = check_read(reader, expected_public_key=expected_public_key)
        ledger = open_ledger(reader.chain_digest, reader.algorithm)
        if check.good and ledger.get("loaded") != reader.chain_digest:
            stream.seek(0)
            _load(iter(read_proof(stream)), ledger)
            ledger.set("loaded", reader.chain_digest)
            ledger.set("source_entries", str(check.entries_count))
            ledger.set("source_bytes", str(check.statement.total_bytes))
    return check, ledger


def _load(entries: Iterator[ManifestEntry], ledger: Ledger) -> None:
    page: list[Known] = []
    with ledger.transaction():
        for entry in entries:
            page.append(Known(*entry[:6], b"", None, None, VerifyOutcome.NOT_SAMPLED, ""))
            if len(page) >= _ROWS_PAGE:
                ledger.entries.put(page, run=0)
                page.clear()
        ledger.entries.put(page, run=0)
