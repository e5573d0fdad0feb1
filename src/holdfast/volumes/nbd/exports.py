"""A volume as NBD shows it."""

from typing import Final

from holdfast.volumes.model import VolumeState
from holdfast.volumes.nbd.codec import ExportFlag
from holdfast.volumes.served import ServedVolume

_ALWAYS: Final = (
    ExportFlag.HAS_FLAGS
    | ExportFlag.SEND_FLUSH
    | ExportFlag.SEND_FUA
    | ExportFlag.SEND_TRIM
    | ExportFlag.SEND_WRITE_ZEROES
    | ExportFlag.SEND_FAST_ZERO
    | ExportFlag.SEND_CACHE
    | ExportFlag.CAN_MULTI_CONN
)


class VolumeExport:
    """What negotiation tells of a volume: the size and state it has at that moment."""

    def __init__(self, name: str, volume: ServedVolume) -> None:
        self.name = name
        self._volume = volume

    @property
    def description(self) -> str:
        """For people."""
        return f"holdfast volume, {self._volume.state}"

    @property
    def size_bytes(self) -> int:
        """The visible size; clients that are connected see a new one when they reconnect."""
        return self._volume.geometry.size_bytes

    @property
    def flags(self) -> ExportFlag:
        """What it can do; one log orders all connections, so a flush covers all of them."""
        if self._volume.state is VolumeState.HEALTHY:
            return _ALWAYS
        return _ALWAYS | ExportFlag.READ_ONLY
