"""Every limit and unit of the product in one place, and how they relate."""

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

PATH_BYTES_MAX: Final = 4096
"""Longest relative path accepted from outside (PATH_MAX of Linux)."""
NAME_BYTES_MAX: Final = 255
"""Longest single name (NAME_MAX of Linux)."""
SYMLINK_TARGET_BYTES_MAX: Final = 4095
XATTR_BYTES_MAX: Final = 64 * KIB
"""Longest value of one extended attribute (XATTR_SIZE_MAX of Linux)."""

BLOCK_BYTES: Final = 1 * MIB
"""Unit of reading, hashing, writing and of naming damage inside a file."""
FILE_BYTES_LARGE: Final = 8 * MIB
"""From here on a file is a batch of its own, is resumed inside, and shows progress inside."""
BATCH_FILES_MAX: Final = 2048
"""Files made durable by one flush; up to twice as many, so as to end with a directory."""
BATCH_BYTES_MAX: Final = 64 * MIB
FLUSH_EACH_MAX: Final = 4
"""A batch up to this many files is flushed file by file: flushing the file system costs more."""
WINDOW_BYTES: Final = 64 * MIB
"""Bytes of one large file written between two hints to start its writeback."""
ATTEMPTS_CHANGED_MAX: Final = 3
"""Reads of one entry before it is reported as changing."""
RACY_NS: Final = 2_000_000_000
"""A timestamp this close to the moment it was read does not prove that nothing changed since."""

JOBS_MAX: Final = 64
DELETE_COUNT_FLOOR: Final = 1000
DELETE_PERCENT: Final = 10
"""Without `--max-delete`, a plan may delete the larger of these two and no more."""
DISK_RESERVE_BYTES: Final = 16 * MIB
"""Left free on the target by the check before the first byte."""

PROOF_LINE_BYTES_MAX: Final = 64 * KIB
"""Longest line of a proof that is read: a path, a link target, both escaped, and a digest."""
DIRECTORY_DEPTH_MAX: Final = 2048

TASK_REQUEST_BYTES_MAX: Final = 64 * KIB
TASK_EVENTS_MAX: Final = 10_000
"""Events kept for one task; older ones make room."""

HEAD_VALUE_BYTES_MAX: Final = 4 * KIB
HEAD_KEY_BYTES_MAX: Final = 2 * KIB
"""Longest key of a register, in UTF-8."""
WRITE_ID_BYTES_MAX: Final = 128
HEAD_HISTORY_MAX: Final = 64
"""States kept for one key, the current one included; a repeated advance is known that long."""
HEAD_KEYS_PAGE_MAX: Final = 1000
"""Keys answered by one call that lists them."""
REGISTER_QUEUE_MAX: Final = 4096
"""Advances waiting for one register; more are refused at once."""
REGISTER_BATCH_MAX: Final = 512
"""Advances made durable by one commit."""
ETCD_MESSAGE_BYTES_MAX: Final = 16 * MIB
"""Longest answer, or message of a watch, taken from etcd."""

OBJECT_NAME_BYTES_MAX: Final = 512
OBJECT_BYTES_MAX: Final = 64 * MIB
"""Largest object that a bank writes or reads whole."""
CHUNK_BYTES_MIN: Final = 1 * MIB
"""No chunk of a large file is shorter, its last excepted; shorter files are packed."""
CHUNK_BYTES_MAX: Final = 8 * MIB
PACK_FILES_MAX: Final = 1024
"""Small files whose contents share one chunk."""
BANK_BATCH_BYTES: Final = 64 * MIB
"""Contents read by a worker between two flushes of a bank."""
SEGMENT_ENTRIES_MAX: Final = 8192
"""Entries of a resource listed in one chunk."""
RESOURCES_MAX: Final = 1000
"""Resources of one plan."""
MANIFEST_BYTES_MAX: Final = 64 * MIB

assert CHUNK_BYTES_MAX < OBJECT_BYTES_MAX
assert REGISTER_BATCH_MAX <= REGISTER_QUEUE_MAX
assert FILE_BYTES_LARGE <= BATCH_BYTES_MAX
assert BLOCK_BYTES <= FILE_BYTES_LARGE
assert FLUSH_EACH_MAX < BATCH_FILES_MAX
