"""The checkpoints facet over a simulated store or a directory: made, killed and made again."""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from holdfast.checkpoints.catalogue import Catalogue
from holdfast.checkpoints.directories import DirectoryPlugin
from holdfast.checkpoints.model import Plan, Resource, Retention
from holdfast.checkpoints.plugins import Plugins, ProtectionPlugin
from holdfast.checkpoints.restoring import TreeRestorer
from holdfast.checkpoints.running import Manner, Surroundings
from holdfast.checkpoints.sealing import BankKey
from holdfast.checkpoints.service import Checkpoints
from holdfast.errors import DeniedError
from holdfast.ports import ObjectStore, StorePromises
from holdfast.server.checkpoints import open_store
from holdfast.server.local import LocalServices, make_workers, open_source
from holdfast.stores.pace import SharedPace
from holdfast.testing.clock import SimClock, SimEntropy
from holdfast.testing.objects import SimObjectStore, StoredObject, StoreFaults

BANK = "sim:bank"
SECRET = bytes(range(32))
DIRECTORY = "Holdfast::Directory"


class MemoryHeads:
    """PlanHeads that lasts as long as its world."""

    def __init__(self) -> None:
        self.heads: dict[str, tuple[str, str]] = {}

    def read(self, plan_id: str) -> tuple[str, str] | None:
        """See PlanHeads."""
        return self.heads.get(plan_id)

    def advance(self, plan_id: str, checkpoint_id: str, digest: str, task_id: str) -> None:
        """See PlanHeads."""
        self.heads[plan_id] = (checkpoint_id, digest)


class World:
    """State directory, clock and banks that survive; processes that come and go."""

    def __init__(self, root: Path, plugins: Iterable[ProtectionPlugin] = ()) -> None:
        self.root = root
        self.state = root / "state"
        self.clock = SimClock(now_ns=2_000_000_000 * 10**9)
        self.banks: dict[str, dict[str, StoredObject]] = {}
        self.heads = MemoryHeads()
        self.plugins = tuple(plugins)
        self.store: SimObjectStore | None = None
        """The one opened last."""
        self.seed = 0
        self.on_write: Callable[[int, str, str], None] | None = None
        """Told of every write to a simulated store: its number, method and name."""

    def start(self, faults: StoreFaults | None = None) -> Checkpoints:
        """Return the facet as a new process sees it; its stores fail as told."""
        self.seed += 1
        services = LocalServices(self.state)
        entropy = SimEntropy(self.seed)
        shared = faults or StoreFaults()

        def open_one(url: str) -> ObjectStore:
            if not url.startswith("sim:"):
                return open_store(url)
            objects = self.banks.setdefault(url, {})
            counted = self.store.writes_count if self.store and self.store.faults is shared else 0
            self.store = SimObjectStore(
                self.clock, shared, objects, on_write=self._told, writes_count=counted
            )
            return self.store

        def load_bank_key(key_id: str) -> BankKey | None:
            if key_id not in ("", BankKey(SECRET).id):
                raise DeniedError("no such key", code="key-missing")
            return BankKey(SECRET) if key_id else None

        restorer = TreeRestorer(services.files.surroundings, 1)
        around = Surroundings(
            state=self.state,
            runner=services.runner,
            task_state=lambda task_id: services.journal.get(task_id).state,  # type: ignore[arg-type]
            clock=self.clock,
            entropy=entropy,
            catalogue=Catalogue(self.state / "checkpoints.sqlite"),
            heads=self.heads,
            plugins=Plugins([DirectoryPlugin(restorer), *self.plugins]),
            open_store=open_one,
            load_bank_key=load_bank_key,
            load_key=services.load_key,
            open_source=open_source,
            make_pace=lambda rate: SharedPace(self.clock, rate),
            make_workers=lambda pace, jobs, _may_fork: make_workers(pace, jobs),
        )
        return Checkpoints(around, lambda _store: StorePromises(True, True))

    def _told(self, number: int, method: str, name: str) -> None:
        if self.on_write is not None:
            self.on_write(number, method, name)

    def lose_catalogue(self) -> None:
        """Lose everything that is remembered, but for the keys."""
        for path in self.state.iterdir():
            if path.name != "keys":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.heads = MemoryHeads()


MANNER = Manner(jobs=1)


def directory_plan(
    facet: Checkpoints,
    *trees: Path,
    name: str = "p",
    bank: str = BANK,
    encrypted: bool = False,
    retention: Retention | None = None,
) -> Plan:
    """Make a plan of directories."""
    return facet.make_plan(
        name,
        bank,
        [Resource(type=DIRECTORY, id=os.fspath(tree)) for tree in trees],
        retention=retention or Retention(),
        key_id=BankKey(SECRET).id if encrypted else "",
    )


def protect(facet: Checkpoints, name: str = "p") -> str:
    """Protect a plan and return the checkpoint."""
    return str((facet.protect(name, MANNER).result or {})["checkpoint"])
