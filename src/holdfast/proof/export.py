"""Writes the files of a proof as text that `sha256sum -c` accepts.

Directories, symlinks, modes and the signature have no place in that text and are left out.
"""

from typing import IO

from holdfast.errors import IntegrityError, StateError
from holdfast.proof.check import check_read
from holdfast.proof.digests import Algorithm
from holdfast.proof.document import read_proof


def export_sha256sum(stream_in: IO[bytes], stream_out: IO[bytes]) -> int:
    """Copy the digests of a proof to `stream_out`, one line a file, and return how many.

    Run `sha256sum -c` in the root of the tree. The signature is checked, whoever made it.

    Raises:
        StateError: `algorithm-not-sha256`; nothing was written.
        IntegrityError: `bad-proof`; what was written so far must be thrown away.
        UnsupportedError: `format-newer`; nothing was written.
    """
    reader = read_proof(stream_in)
    if reader.algorithm is not Algorithm.SHA256:
        raise StateError(
            f"the digests of this proof are {reader.algorithm}, which sha256sum cannot check",
            code="algorithm-not-sha256",
            advice="copy or verify again with --digest sha256, or use 'holdfast proof check'",
            algorithm=reader.algorithm.value,
        )
    lines_count = 0
    for entry in reader:
        if entry.digest is not None:
            stream_out.write(_sha256sum_line(entry.path, entry.digest))
            lines_count += 1
    if not check_read(reader, expected_public_key=None).good:
        raise IntegrityError(
            "the proof does not match its own signature, root digest or counts",
            code="bad-proof",
            advice="do not use what was exported; see 'holdfast proof check' for what is wrong",
        )
    return lines_count


def _sha256sum_line(path: bytes, digest: bytes) -> bytes:
    # coreutils marks a line whose name is escaped with a backslash before the digest.
    name = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"" if name == path else b"\\"
    # A bare "-" would mean the standard input.
    name = b"./-" if name == b"-" else name
    return mark + digest.hex().encode("ascii") + b"  " + name + b"\n"
