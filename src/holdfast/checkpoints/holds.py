"""Who may not be deleted, kept in the bank: it binds every machine and outlives a catalogue."""

import json
from typing import Final

from holdfast.checkpoints.manifest import MALFORMED
from holdfast.checkpoints.model import CheckpointId
from holdfast.errors import NotFoundError
from holdfast.model.limits import MIB
from holdfast.ports import ObjectStore
from holdfast.proof.statement import canonical_json

_HOLDS: Final = "holds/"


def read_hold(store: ObjectStore, checkpoint_id: CheckpointId) -> tuple[bool, int]:
    """Return whether a checkpoint is held, and until when it is locked."""
    try:
        document = json.loads(store.get(_HOLDS + checkpoint_id, MIB))
        return bool(document["protected"]), int(document["lockedUntilNs"])
    except NotFoundError:
        return False, 0
    except MALFORMED:
        return True, 0  # Somebody held it: it can be released, but not deleted unasked.


def write_hold(
    store: ObjectStore, checkpoint_id: CheckpointId, *, is_protected: bool, locked_until_ns: int
) -> None:
    """Keep whether a checkpoint may be deleted; durable when this returns."""
    document = {"protected": is_protected, "lockedUntilNs": locked_until_ns}
    if is_protected or locked_until_ns:
        store.put(_HOLDS + checkpoint_id, canonical_json(document) + b"\n")
    else:
        store.delete(_HOLDS + checkpoint_id)


def list_holds(store: ObjectStore) -> list[CheckpointId]:
    """Return the checkpoints of which a hold is kept."""
    return [CheckpointId(each.name.removeprefix(_HOLDS)) for each in store.list(_HOLDS)]
