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
TASK_RESULT_BYTES_MAX: Final = 256 * KIB
TASK_DETAIL_BYTES_MAX: Final = 1 * MIB
"""What a task tells of itself while it runs, as JSON."""
TASK_EVENTS_MAX: Final = 10_000
"""Events kept for one task; older ones make room."""
TASKS_ENDED_MAX: Final = 10_000
"""Ended tasks kept in one journal; the oldest make room, with their events and keys."""
LOCK_FILES_MAX: Final = 1024
"""Lock files of one state directory; from there on those that nobody holds are removed."""

LISTING_ENTRIES_MAX: Final = 100_000_000
"""Entries of one tree, by a walk or by a list of files taken from another host."""
LISTING_ENTRY_BYTES_MAX: Final = 64 * KIB
"""JSON of one entry of such a list: a path, all of it escaped, and its figures."""
MIGRATION_PASSES_MAX: Final = 256
"""Passes of one copy that may download; what is told of all of them stays a small document."""

FRAME_BYTES_MAX: Final = 4 * MIB
"""Longest frame of the stream protocol."""
REQUEST_FRAME_BYTES_MAX: Final = 2 * MIB
"""Longest frame that a client may send: STREAM_PATHS_MAX paths of PATH_BYTES_MAX, and some."""
HELLO_BYTES_MAX: Final = 8 * KIB
"""Longest first frame: whoever sends it is not known yet."""
STREAM_PATHS_MAX: Final = 256
"""Paths in one request of the stream protocol."""
STREAM_FILES_OPEN_MAX: Final = 16
"""Files that one connection holds open at a source."""
STREAM_EXTENTS_MAX: Final = 65_536
"""Parts of one file that are told apart; a file in more is sent with its holes from there on."""
DIRECTORY_ENTRIES_MAX: Final = 4_000_000
"""Entries taken of one directory of another host."""
READ_AHEAD_DIRECTORIES_MAX: Final = 128
READ_AHEAD_ENTRIES_MAX: Final = 65_536
"""What is listed ahead of a walk over another host's tree."""
STREAM_WINDOW_BYTES: Final = 16 * MIB
"""Bytes of a large file asked for in one request; two are under way at once."""
STREAM_WORKING_BYTES: Final = 256 * MIB
"""Bytes of holes after which a source that digests them says that it is still at work."""

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

VOLUMES_MAX: Final = 1024
"""Volumes below one state directory."""
VOLUME_NAME_BYTES_MAX: Final = 64
CONTROL_REQUEST_BYTES_MAX: Final = 4 * KIB
CONTROL_REPLY_BYTES_MAX: Final = 256 * KIB
CONTROL_CONNECTIONS_MAX: Final = 16
"""Control connections to one data process."""
DAMAGE_REPORTED_MAX: Final = 64
"""Damaged ranges that one answer names; all are counted."""

NBD_OPTION_BYTES_MAX: Final = 64 * KIB
"""Longest option of a negotiation; a client that sends more is hung up on."""
NBD_STRING_BYTES_MAX: Final = 4 * KIB
NBD_OPTIONS_MAX: Final = 1024
"""Options answered to one client."""
NBD_QUERIES_MAX: Final = 64
NBD_CONTEXTS_MAX: Final = 16
"""Metadata contexts of one connection."""
NBD_REQUEST_BYTES_MAX: Final = 32 * MIB
"""Most data of one read or write: what clients that do not ask may assume."""
NBD_BUFFER_BYTES: Final = 8 * MIB
"""Address space of one buffer of a connection; its memory is taken as it is used."""
NBD_BUFFERS_GROWN_MAX: Final = 4
"""Connections that may receive a request longer than the buffer at once; others wait."""
NBD_OUTBOX_BYTES_MAX: Final = 256 * KIB
"""Answers held for a client that does not take them before no more is read; one answer more."""
NBD_BATCH_MAX: Final = 512
"""Requests of one connection carried out before others have their turn."""
NBD_WAITING_MAX: Final = 1024
"""Requests of one connection that wait for a flush."""
NBD_EXTENTS_MAX: Final = 4096
"""Extents told by one reply in one context."""
NBD_CONNECTIONS_MAX: Final = 64
SPIN_US_MAX: Final = 1000
NBD_NEGOTIATION_S: Final = 15.0
"""Longest negotiation."""
NBD_SILENCE_S: Final = 60.0
"""How long a client may leave a request half sent, or its answers untaken."""

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
