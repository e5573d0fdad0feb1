"""What is remembered of the chunks of banks: when each was read last, and what needs it.

Part of the catalogue. Chunks are shared: a segment names chunks, and a resource of a checkpoint
names segments, so that what touches a damaged chunk is found by two steps.
"""

from collections.abc import Iterable, Mapping, Sequence

from holdfast.checkpoints.database import Database
from holdfast.checkpoints.manifest import Body, Statement
from holdfast.checkpoints.model import BankId, CheckpointId, ChunkId, ChunkMemory, ChunkResult


class ChunkTable:
    """Chunks and their uses; part of a Catalogue."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = database.sql

    def known(self, bank_id: BankId) -> frozenset[bytes]:
        """Return the chunks of a bank that are not known to be bad."""
        rows = self._database.rows(
            "SELECT id FROM chunks WHERE bank = ? AND (result IS NULL OR result = 'good')",
            (bank_id,),
        )
        return frozenset(row["id"] for row in rows)

    def bad(self, bank_id: BankId) -> frozenset[bytes]:
        """Return the chunks found missing or damaged and not yet found good again."""
        rows = self._database.rows(
            "SELECT id FROM chunks WHERE bank = ? AND result IN ('missing', 'damaged')", (bank_id,)
        )
        return frozenset(row["id"] for row in rows)

    def damaged(self, bank_id: BankId) -> frozenset[bytes]:
        """Return the chunks found damaged and not yet found good again."""
        rows = self._database.rows(
            "SELECT id FROM chunks WHERE bank = ? AND result = 'damaged'", (bank_id,)
        )
        return frozenset(row["id"] for row in rows)

    def memory(self, bank_id: BankId, chunks: Mapping[bytes, int]) -> list[ChunkMemory]:
        """Return what is remembered of these chunks; of unknown ones, nothing but their length."""
        rows = self._database.rows(
            "SELECT id, checked_ns, result FROM chunks WHERE bank = ?", (bank_id,)
        )
        known = {row["id"]: (row["checked_ns"], row["result"]) for row in rows}
        found = []
        for chunk, size_bytes in chunks.items():
            checked_ns, result = known.get(chunk, (0, None))
            told = None if result is None else ChunkResult(result)
            found.append(ChunkMemory(ChunkId(chunk), size_bytes, checked_ns, told))
        return found

    def remember(
        self, bank_id: BankId, checks: Sequence[tuple[bytes, int, ChunkResult]], at_ns: int
    ) -> None:
        """Keep what was found of chunks: (id, length, result)."""
        with self._database.transaction():
            self._sql.executemany(
                """INSERT INTO chunks (bank, id, size, checked_ns, result) VALUES (?, ?, ?, ?, ?)
                ON CONFLICT (bank, id) DO UPDATE SET checked_ns = excluded.checked_ns,
                result = excluded.result""",
                [(bank_id, chunk, size, at_ns, result.value) for chunk, size, result in checks],
            )

    def forget(self, bank_id: BankId, chunks: Iterable[bytes]) -> None:
        """Drop what is remembered of chunks that are no more."""
        with self._database.transaction():
            for chunk in chunks:
                # Its number may be given to another: nothing may point to it.
                self._sql.execute(
                    """DELETE FROM chunk_uses WHERE segment IN
                    (SELECT number FROM chunks WHERE bank = ? AND id = ?)""",
                    (bank_id, chunk),
                )
                self._sql.execute(
                    """DELETE FROM chunk_uses WHERE chunk IN
                    (SELECT number FROM chunks WHERE bank = ? AND id = ?)""",
                    (bank_id, chunk),
                )
                self._sql.execute("DELETE FROM chunks WHERE bank = ? AND id = ?", (bank_id, chunk))

    def sharers(self, bank_id: BankId, chunk: bytes) -> list[tuple[CheckpointId, str]]:
        """Return (checkpoint, resource) of all that need a chunk, itself a segment or not."""
        rows = self._database.rows(
            """SELECT DISTINCT s.checkpoint, s.resource FROM segment_uses s
            WHERE s.segment IN (
                SELECT number FROM chunks WHERE bank = :bank AND id = :id UNION
                SELECT u.segment FROM chunk_uses u JOIN chunks c ON c.number = u.chunk
                WHERE c.bank = :bank AND c.id = :id)
            UNION SELECT c.id, r.resource FROM checkpoints c
            JOIN resources r ON r.checkpoint = c.id
            WHERE c.bank = :bank AND c.body = :text AND c.state <> 'deleted'
            ORDER BY 1, 2""",
            {"bank": bank_id, "id": chunk, "text": chunk.hex()},
        )
        return [(CheckpointId(row[0]), str(row[1])) for row in rows]

    def add_uses(
        self,
        said: Statement,
        body: Body,
        uses: Mapping[bytes, Iterable[bytes]],
        sizes: Mapping[bytes, int],
    ) -> None:
        """Write what a checkpoint needs; within a transaction of the catalogue."""
        known = self._add(said.bank_id, sizes)
        for record in body.records:
            self._sql.executemany(
                "INSERT OR IGNORE INTO segment_uses VALUES (?, ?, ?)",
                [(said.checkpoint_id, record.resource.key, known[s.id]) for s in record.segments],
            )
        for segment, chunks in uses.items():
            self._sql.executemany(
                "INSERT OR IGNORE INTO chunk_uses VALUES (?, ?)",
                [(known[segment], known[chunk]) for chunk in chunks],
            )

    def forget_uses(self, checkpoint_id: CheckpointId) -> None:
        """Drop what a checkpoint needs; within a transaction of the catalogue."""
        self._sql.execute("DELETE FROM segment_uses WHERE checkpoint = ?", (checkpoint_id,))

    def _add(self, bank_id: BankId, sizes: Mapping[bytes, int]) -> dict[bytes, int]:
        """Make chunks known and return the number of each."""
        self._sql.executemany(
            "INSERT OR IGNORE INTO chunks (bank, id, size) VALUES (?, ?, ?)",
            [(bank_id, chunk, size_bytes) for chunk, size_bytes in sizes.items()],
        )
        rows = self._sql.execute("SELECT number, id FROM chunks WHERE bank = ?", (bank_id,))
        return {row["id"]: row["number"] for row in rows}
