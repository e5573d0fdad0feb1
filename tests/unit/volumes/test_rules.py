"""Goal: pressure, checkpoints and presets are what their page says. Method: tables and edges.

Cites rules 1; rules 2 is cited by tests/simulation/test_volume_authority.py.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidRequestError
from holdfast.model.limits import MIB
from holdfast.volumes import rules
from holdfast.volumes.model import BLOCK_BYTES, SEGMENT_BYTES_MAX, Geometry
from holdfast.volumes.rules import PressureWord


@given(used=st.floats(0, 1))
def test_pause_grows_with_the_log_and_has_an_end(used: float) -> None:
    """Cites invariant 1 of rules."""
    found = rules.pressure(used)
    assert 0 <= found.pause_s <= rules.PAUSE_MAX_S
    assert (found.pause_s > 0) <= (used > rules.SOFT_FRACTION)
    assert (found.word is PressureWord.HARD) == (used >= rules.HARD_FRACTION)
    assert rules.pressure(min(1, used + 0.01)).pause_s >= found.pause_s


@pytest.mark.parametrize(
    ("fraction", "idle_ms", "wanted"),
    [(0, 10_000, False), (0.01, 99, False), (0.01, 100, True), (0.8, 0, True), (1.0, 0, True)],
)
def test_checkpoint_is_wanted_when_idle_or_urgent(
    fraction: float, idle_ms: int, wanted: bool
) -> None:
    found = rules.wants_checkpoint(fraction, idle_ns=idle_ms * 1_000_000, interval_ns=100_000_000)
    assert found is wanted


def test_presets_are_sizes_a_volume_can_have() -> None:
    for preset in rules.PRESETS.values():
        Geometry(size_bytes=10 * MIB, segment_bytes=preset.log_bytes // 2)
    assert rules.PRESETS["database"].log_bytes == 128 * MIB


@pytest.mark.parametrize(
    "sizes",
    [
        {"size_bytes": 0},
        {"size_bytes": BLOCK_BYTES + 1},
        {"size_bytes": 1 << 60},
        {"size_bytes": BLOCK_BYTES, "slot_bytes": 12345},
        {"size_bytes": BLOCK_BYTES, "segment_bytes": BLOCK_BYTES},
        {"size_bytes": BLOCK_BYTES, "segment_bytes": SEGMENT_BYTES_MAX + BLOCK_BYTES},
    ],
)
def test_geometry_that_makes_no_sense_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(InvalidRequestError):
        Geometry(**sizes)
