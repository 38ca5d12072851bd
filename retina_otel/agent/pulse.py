"""Pulse: notices that nobody ran for a while: the agent was stopped or starved, its machine slept.

Much goes by time: so late after something, all is heard of it. That holds only while those who
listen run. When they did not, what came meanwhile is still to be read.
"""

from __future__ import annotations

import threading
from types import TracebackType

from retina_otel.component import Clock

BEAT_S = 0.25
GAP_S = 0.5
"""Between two beats less than this passes, unless nobody ran."""
HEARING_S = 1.0
"""How long those who listen have to read what has come. Nothing checks that they have."""


class Pulse:
    """A context manager, with a thread of its own; any thread may ask."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._beat = clock.monotonic_ns(), clock.wall_ns()
        self._resumed_ns = self._beat[0] - int(HEARING_S * 1e9)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def heard_ns(self) -> int:
        """From when on all is read that came while nobody ran, on the monotonic clock: in the past
        where nothing was missed. Also where the wall clock has been put forward: what is judged by
        it has become old at once."""
        with self._lock:
            now = self._clock.monotonic_ns(), self._clock.wall_ns()
            gap_ns = max(after - before for after, before in zip(now, self._beat, strict=True))
            if gap_ns > int(GAP_S * 1e9):
                self._resumed_ns = now[0]
            self._beat = now
            return self._resumed_ns + int(HEARING_S * 1e9)

    def _run(self) -> None:
        while not self._stop.wait(BEAT_S):
            self.heard_ns()
