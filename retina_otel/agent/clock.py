"""Time of the running system, and the offset of wall time to the kernel's monotonic stamps."""

from __future__ import annotations

import time


class SystemClock:
    """CLOCK_REALTIME and CLOCK_MONOTONIC. `estimate()` is called each tick, by one thread."""

    def __init__(self) -> None:
        self._offset_ns = 0
        self.estimate()

    def wall_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def offset_ns(self) -> int:
        """Wall time of a monotonic stamp is the stamp plus this; as good as the last estimate."""
        return self._offset_ns

    def estimate(self) -> int:
        """Measures the offset anew: the closest of three brackets of wall time."""
        best_width = best_offset = -1
        for _ in range(3):
            before = time.monotonic_ns()
            wall = time.time_ns()
            after = time.monotonic_ns()
            width = after - before
            if best_width < 0 or width < best_width:
                best_width, best_offset = width, wall - (before + width // 2)
        self._offset_ns = best_offset
        return best_offset
