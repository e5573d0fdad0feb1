"""One entry under verification: what is known of both sides, and the row that remembers it."""

from dataclasses import dataclass

from holdfast.files.hashing import NO_SIDE, Reading, Side
from holdfast.files.ledger import Known
from holdfast.files.model import VerifyOutcome
from holdfast.model.tree import Signature, Stat


@dataclass(slots=True, kw_only=True)
class Evidence:
    """What is known of one path. At least one of the two stats is set."""

    path: bytes
    source_stat: Stat | None
    target_stat: Stat | None
    known: Known | None
    """What the ledger remembered before this verification."""
    link_target: bytes | None = None
    same_link: bool = True
    """Of two symlinks: whether they lead to the same."""
    source: Reading | None = None
    target: Reading | None = None
    waiting: Side = NO_SIDE
    trusted: bool = False
    """Both readings are remembered ones."""

    def row(self, outcome: VerifyOutcome, detail: str, *, expectation: bool) -> Known:
        """Return the row that remembers this entry.

        Args:
            outcome: What was found.
            detail: In words; described here where empty.
            expectation: The source is itself only a row (of a proof), which must be kept as it is
                whatever the target turned out to be.
        """
        digest, xattrs, source, target = self._remembered(outcome)
        stat = self.source_stat or self.target_stat
        link_target = self.link_target
        if expectation and self.known is not None:
            digest, link_target = self.known.digest, self.known.link_target
        elif outcome is VerifyOutcome.MATCHED and self.target_stat is not None:
            stat = self.target_stat  # A proof speaks of the target.
        assert stat is not None
        return Known(
            self.path,
            stat.kind,
            stat.size_bytes,
            stat.mode,
            link_target,
            digest,
            xattrs,
            source,
            target,
            outcome,
            detail or self.describe(outcome),
        )

    def _remembered(
        self, outcome: VerifyOutcome
    ) -> tuple[bytes | None, bytes, Signature | None, Signature | None]:
        """Return digests, and the signatures beside which they may be trusted later."""
        if self.source is None or self.target is None:
            return None, b"", None, None
        if outcome is VerifyOutcome.SOURCE_DAMAGED and self.known is not None:
            return self.known.digest, self.known.xattrs, self.known.source, None
        source, target = self.source, self.target
        same = source.digest is not None and (source.digest, source.xattrs) == (
            target.digest,
            target.xattrs,
        )
        return source.digest, source.xattrs, source.signature, target.signature if same else None

    def describe(self, outcome: VerifyOutcome) -> str:
        """Say in words what is different; empty where nothing is."""
        source, target = self.source_stat, self.target_stat
        if outcome in (VerifyOutcome.MATCHED, VerifyOutcome.NOT_SAMPLED) or source is None:
            return ""
        if outcome is VerifyOutcome.SKIPPED:
            return f"a {source.kind} is not copied"
        if target is None:
            return ""
        if source.kind is not target.kind:
            return f"should be a {source.kind}, is a {target.kind}"
        if not self.same_link:
            return "link target differs"
        return _describe_difference(source, target, outcome)


def _describe_difference(source: Stat, target: Stat, outcome: VerifyOutcome) -> str:
    parts = []
    if source.size_bytes != target.size_bytes:
        parts.append(f"size should be {source.size_bytes}, is {target.size_bytes}")
    if source.mode != target.mode:
        parts.append(f"mode should be {source.mode:04o}, is {target.mode:04o}")
    if (source.uid, source.gid) != (target.uid, target.gid):
        owner = f"{source.uid}:{source.gid}"
        parts.append(f"owner should be {owner}, is {target.uid}:{target.gid}")
    if source.mtime_ns != target.mtime_ns:
        parts.append("modification time differs")
    if parts:
        return ", ".join(parts)
    if outcome is VerifyOutcome.METADATA_DIFFERS:
        return "extended attributes differ"
    return "content differs"
