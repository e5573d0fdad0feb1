"""What the outside must provide, with the contract of each: time, chance, trees, objects.

An adapter behind a port turns foreign exceptions into ours, here only. Each port has one contract
suite in tests/contract that runs on every implementation, the simulated one included.
"""

from holdfast.ports.blocks import BlockFile
from holdfast.ports.buffers import Buffer
from holdfast.ports.objects import (
    ConditionalObjects,
    ConditionalOutcome,
    ObjectAccess,
    ObjectInfo,
    ObjectStore,
    PutOutcome,
    StoreAnswer,
    StorePromises,
)
from holdfast.ports.registers import Register
from holdfast.ports.time_and_chance import Clock, Entropy
from holdfast.ports.trees import (
    Directory,
    ExpectedFile,
    FileDigest,
    ReadableDirectory,
    ReadableFile,
    SmallFile,
    WritableFile,
)
from holdfast.ports.workers import Pace, PaceControl, StartWorkers, Workers

__all__ = [
    "BlockFile",
    "Buffer",
    "Clock",
    "ConditionalObjects",
    "ConditionalOutcome",
    "Directory",
    "Entropy",
    "ExpectedFile",
    "FileDigest",
    "ObjectAccess",
    "ObjectInfo",
    "ObjectStore",
    "Pace",
    "PaceControl",
    "PutOutcome",
    "ReadableDirectory",
    "ReadableFile",
    "Register",
    "SmallFile",
    "StartWorkers",
    "StoreAnswer",
    "StorePromises",
    "Workers",
    "WritableFile",
]
