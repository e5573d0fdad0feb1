"""Proof files: whole under their name or not there, and back into rows.

Copies that end in a proof, and trees verified against one, are in tests/property.
"""

import os
from pathlib import Path
from typing import IO

import pytest

from holdfast.errors import NotFoundError, StorageFailedError
from holdfast.files.ledger import Known, Ledger
from holdfast.files.model import Verdict, VerifyOutcome, VerifyReport
from holdfast.files.proving import (
    load_proof,
    make_claims,
    open_proof,
    replace_file,
    rfc3339,
    write_proof,
)
from holdfast.model.tree import FileKind
from holdfast.proof.digests import Algorithm, digest_of
from holdfast.proof.signature import SigningKey
from holdfast.proof.statement import Claims, VerificationMode

KEY = SigningKey.from_seed(bytes(32))


def test_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with replace_file(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["f"]


def test_file_stays_when_the_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), replace_file(path) as stream:
        _write_and_fail(stream)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def _write_and_fail(stream: IO[bytes]) -> None:
    stream.write(b"half")
    raise KeyError


def test_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageFailedError, match="cannot write"),
        replace_file(tmp_path / "none" / "f"),
    ):
        pass


@pytest.mark.parametrize("name", ["none", "directory", "file/below"])
def test_proof_that_is_no_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError) as caught:
        open_proof(tmp_path / name)
    assert caught.value.code == "no-proof"


def test_time_is_spelled_in_utc() -> None:
    assert rfc3339(1_700_000_000_999_999_999) == "2023-11-14T22:13:20Z"


def row(path: bytes, outcome: VerifyOutcome, content: bytes = b"x") -> Known:
    digest = digest_of(Algorithm.BLAKE3, content)
    return Known(
        path, FileKind.FILE, len(content), 0o644, None, digest, b"", None, None, outcome, ""
    )


def claims(previous: str | None = None) -> Claims:
    report = VerifyReport(
        verdict=Verdict.INCOMPLETE,
        mode=VerificationMode.FULL,
        counts={VerifyOutcome.MATCHED: 2, VerifyOutcome.CHANGED: 1, VerifyOutcome.FAILED: 0},
        entries=3,
        hashed_bytes=4,
        trusted=0,
        cache_dropped=True,
        confidence="",
        error_kinds={},
        duration_s=0.0,
    )
    return make_claims(
        source={"path": "/s"},
        target={"path": "/t"},
        task_id="task-" + "0" * 32,
        now_ns=1_700_000_000_000_000_000,
        exclusions=("*.log",),
        report=report,
        previous=previous,
    )


def write(path: Path) -> Ledger:
    ledger = Ledger(None, Algorithm.BLAKE3)
    rows = [
        row(b"a", VerifyOutcome.MATCHED),
        row(b"b", VerifyOutcome.CHANGED),
        row(b"c/\xff", VerifyOutcome.MATCHED, b"yy"),
    ]
    ledger.entries.put(rows, run=1)
    write_proof(path, ledger, Algorithm.BLAKE3, claims(), KEY)
    return ledger


def test_only_what_matched_is_proven_and_the_rest_is_counted(tmp_path: Path) -> None:
    ledger = write(tmp_path / "p")
    loaded: dict[str, Ledger] = {}

    def open_ledger(digest: str, algorithm: Algorithm) -> Ledger:
        return loaded.setdefault(digest, Ledger(None, algorithm))

    check, rows = load_proof(tmp_path / "p", open_ledger, None)
    assert check.good
    assert check.statement.unproven == {"changed": 1}
    assert check.statement.exclusions == ("*.log",)
    found = list(rows.entries.all())
    assert [known.path for known in found] == [b"a", b"c/\xff"]
    assert found[1].digest == digest_of(Algorithm.BLAKE3, b"yy")
    assert {known.outcome for known in found} == {"not-sampled"}
    assert rows.get("loaded") == ledger.get("proof")


def test_rows_are_loaded_once_and_keep_what_was_learned(tmp_path: Path) -> None:
    write(tmp_path / "p")
    rows = Ledger(None, Algorithm.BLAKE3)
    load_proof(tmp_path / "p", lambda _digest, _algorithm: rows, None)
    learned = next(rows.entries.all())._replace(outcome="matched", detail="learned")
    rows.entries.put([learned], run=1)
    load_proof(tmp_path / "p", lambda _digest, _algorithm: rows, None)
    assert next(rows.entries.all()).detail == "learned"


def test_altered_proof_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "p"
    write(path)
    lines = path.read_bytes().splitlines(keepends=True)
    altered = [line.replace(b'"/t"', b'"/x"') for line in lines]
    assert altered != lines
    path.write_bytes(b"".join(altered))
    rows = Ledger(None, Algorithm.BLAKE3)
    check, _ = load_proof(path, lambda _digest, _algorithm: rows, None)
    assert not check.good
    assert list(rows.entries.all()) == []


def test_proof_by_somebody_else_is_not_good(tmp_path: Path) -> None:
    write(tmp_path / "p")
    other = SigningKey.from_seed(b"1" * 32)
    rows = Ledger(None, Algorithm.BLAKE3)
    check, _ = load_proof(tmp_path / "p", lambda _d, _a: rows, other.public_key)
    assert not check.good
