"""Whether this copy may change and acknowledge: epoch, role and lease.

1. Nothing is acknowledged unless at that moment the role is primary and the lease, if one is
   needed, has not ended; the lease is of the monotonic clock and is never stored.
2. An epoch never goes back, over openings too. A promotion is durable before it takes effect; a
   demotion takes effect before it is durable.
3. After opening, a volume that was ever assigned (epoch > 0) waits for a new assignment.
"""

from typing import Final

from holdfast.errors import FencedError
from holdfast.ports import Clock
from holdfast.volumes.model import Fence, Role

_PRIMARY: Final = Role.PRIMARY
"""Looking up a member of an enumeration costs as much as a small call, in each request."""


class Authority:
    """The fence in force; the owner's."""

    def __init__(self, clock: Clock, epoch: int, role: Role) -> None:
        self._clock = clock
        self.now = Fence(epoch=epoch, role=role, lease_end_ns=0 if epoch else None)

    def check(self) -> None:
        """Raise FencedError (`not-primary`, `lease-ended`) unless this copy may acknowledge."""
        fence = self.now
        if fence.role is not _PRIMARY:
            raise FencedError(
                f"this copy of the volume is {fence.role.name.lower()}, not primary",
                code="not-primary",
                advice="ask the control plane who is; reconnect there",
                epoch=fence.epoch,
            )
        if fence.lease_end_ns is not None and self._clock.monotonic_ns() >= fence.lease_end_ns:
            raise FencedError(
                f"the lease of epoch {fence.epoch} ended",
                code="lease-ended",
                advice="nothing is acknowledged until the control plane renews it",
                epoch=fence.epoch,
            )

    def check_epoch(self, epoch: int) -> None:
        """Raise FencedError (`epoch-old`) for an assignment older than the one in force."""
        if epoch < self.now.epoch:
            raise FencedError(
                f"epoch {epoch} is older than {self.now.epoch}",
                code="epoch-old",
                advice="the assignment came late; ignore it",
                epoch=self.now.epoch,
            )
