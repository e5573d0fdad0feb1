"""What an open volume consists of, and the state all of its parts share; the owner's.

Not here: what is done with it (volume.py).

1. A poisoned or damaged volume never becomes healthy again; it must be opened anew.
2. A superblock is flushed before what it says is relied on.
"""

from typing import Final

from holdfast.errors import HoldfastError, IntegrityError, StateError, StorageFailedError
from holdfast.ports import Clock
from holdfast.volumes.engine.apply import Maps
from holdfast.volumes.engine.authority import Authority
from holdfast.volumes.engine.checks import CheckPages
from holdfast.volumes.engine.files import Job, VolumeFiles
from holdfast.volumes.engine.formats import Hint
from holdfast.volumes.engine.log import Log
from holdfast.volumes.engine.reading import Reader
from holdfast.volumes.engine.slots import Allocator
from holdfast.volumes.engine.superblocks import SuperblockStore
from holdfast.volumes.engine.writing import Writer
from holdfast.volumes.model import Geometry, LostRange, Lsn, VolumeState

_REFUSALS: Final[dict[VolumeState, type[HoldfastError]]] = {
    VolumeState.POISONED: StorageFailedError,
    VolumeState.DAMAGED: IntegrityError,
    VolumeState.CLOSED: StateError,
}


_HEALTHY: Final = VolumeState.HEALTHY
"""Looking up a member of an enumeration costs as much as a small call, in each request."""


class VolumeCore:
    """See the module."""

    def __init__(
        self,
        *,
        files: VolumeFiles,
        store: SuperblockStore,
        maps: Maps,
        log: Log,
        allocator: Allocator,
        clock: Clock,
        damage: str,
        lost: LostRange | None,
    ) -> None:
        superblock = store.current
        self.files = files
        self.store = store
        self.maps = maps
        self.log = log
        self.allocator = allocator
        self.clock = clock
        self.geometry: Geometry = superblock.geometry
        self.authority = Authority(clock, superblock.epoch, superblock.role)
        self.state = VolumeState.DAMAGED if damage else VolumeState.HEALTHY
        self.state_reason = damage
        """Why the state is not HEALTHY, for people."""
        self.lost = lost
        self.checks = CheckPages(files.checks)
        self.reader = Reader(files, maps, self.checks)
        self.writer = Writer(files, maps, log, allocator=allocator, reader=self.reader)
        self.carrying: Job | None = None
        """The job of a checkpoint that is under way."""

    @property
    def last_lsn(self) -> Lsn:
        """LSN of the last change."""
        return self.log.last_lsn

    @property
    def durable_lsn(self) -> Lsn:
        """Every change up to this one survives loss of power."""
        return self.log.durable_lsn

    @property
    def log_fraction(self) -> float:
        """How full the log is, both halves together."""
        return self.log.used_fraction

    def use_geometry(self, geometry: Geometry) -> None:
        """Take a larger size that the superblock has already."""
        self.geometry = self.writer.geometry = geometry

    def write_superblock(self, **changes: object) -> None:
        """Write the next superblock and flush it, in the owner; a failure poisons and is raised."""
        try:
            self.store.write(self.store.current.next(**changes))
            self.store.sync()
        except StorageFailedError as error:
            self.poison(error)
            raise

    def write_hint(self) -> None:
        """Note what is durable; a failure poisons and is raised."""
        log = self.log
        try:
            self.store.hint(Hint(log.incarnation, log.durable_lsn, log.checkpoint_lsn))
        except HoldfastError as error:
            self.poison(error)
            raise

    def poison(self, error: HoldfastError) -> None:
        """Stop: what is on the medium is unknown."""
        if self.state is VolumeState.HEALTHY:
            self.state = VolumeState.POISONED
            self.state_reason = error.message

    def check_writable(self) -> None:
        """Raise unless changes may be taken and acknowledged now: see check_usable; FencedError."""
        if self.state is not _HEALTHY:
            self.check_usable()
        self.authority.check()

    def check_usable(self) -> None:
        """Raise unless the volume is healthy.

        Raises:
            StorageFailedError: `volume-poisoned`.
            IntegrityError: `volume-damaged`.
            StateError: `volume-closed`.
        """
        if self.state is VolumeState.HEALTHY:
            return
        raise _REFUSALS[self.state](
            f"the volume is {self.state}: {self.state_reason or 'it was closed'}",
            code=f"volume-{self.state}",
            advice="stop its clients, look at the medium, then open it again",
        )
