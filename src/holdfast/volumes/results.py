"""Volumes as plain objects of JSON, the same for HTTP and the command line; append-only."""

import dataclasses

from holdfast.volumes.control import ScrubProgress
from holdfast.volumes.service import VolumeView


def plain_view(view: VolumeView) -> dict[str, object]:
    """Return a volume: what it is, its health, and, of a served one, its state."""
    status = view.status
    return {
        "name": view.name,
        "preset": view.preset,
        "created_ns": view.created_ns,
        "size_bytes": view.size_bytes,
        "used_bytes": view.used_bytes,
        "health": view.health.word.value,
        "lost_bytes": view.health.lost_bytes,
        "reason": view.health.reason,
        "serving": None if status is None else _plain_status(view),
    }


def plain_scrub(progress: ScrubProgress) -> dict[str, object]:
    """Return how far a scrub is and what it found."""
    plain = dataclasses.asdict(progress)
    return plain | {"damage": [dataclasses.asdict(found) for found in progress.damage]}


def _plain_status(view: VolumeView) -> dict[str, object]:
    assert view.status is not None
    status = view.status
    plain = dataclasses.asdict(status)
    del plain["name"], plain["size_bytes"], plain["used_bytes"]
    return plain | {
        "listening": list(status.listening),
        "log_used_ratio": status.log_used_bytes / (status.log_size_bytes or 1),
        "scrub": plain_scrub(status.scrub),
    }
