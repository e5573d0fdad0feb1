"""Goal: the slot table takes the memory it says, also once it grew. Method: counted by hand."""

from holdfast.volumes.engine.slots import SlotTable


def test_eight_bytes_a_slot() -> None:
    table = SlotTable(300_000, incarnation=1)
    table.put({299_999: 7}, 256)
    table.extend(300_001)

    assert table.pairs.itemsize * len(table.pairs) == 8 * 300_001
    assert table.physical(299_999) == 7
    assert table.physical(300_000) == -1
