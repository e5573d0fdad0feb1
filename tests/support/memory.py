"""Memory of processes and all they started, as the kernel counts it: Pss, while work runs."""

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

PERIOD_S: Final = 0.1


class MemorySampler:
    """Samples the memory of process trees until left; `peak_bytes` is then the most of each.

    Pss: pages that several processes share are split among them, so that a sum counts each once.
    """

    def __init__(self, roots: Sequence[int]) -> None:
        self._roots = roots
        self.peak_bytes = [0] * len(roots)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(PERIOD_S):
            for number, root in enumerate(self._roots):
                self.peak_bytes[number] = max(self.peak_bytes[number], tree_bytes(root))


def tree_bytes(process_id: int) -> int:
    """Return the memory of a process and of all that descend from it; 0 of those that are gone."""
    try:
        rollup = Path(f"/proc/{process_id}/smaps_rollup").read_text()
        threads = Path(f"/proc/{process_id}/task").iterdir()
        children = [int(word) for one in threads for word in (one / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    own = next(
        int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:")
    )
    return own + sum(tree_bytes(child) for child in children)
