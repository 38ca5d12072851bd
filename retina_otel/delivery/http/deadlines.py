"""Deadlines of whole requests, watched by one thread for all senders of the process.

A thread for each request would cost a tenth of a millisecond and two changes of context. This one
is woken only for a deadline that comes before all others, and by those that were not kept.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator

_FEW = 64


class Deadlines:
    """Any thread. What is called when a deadline passes must not wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._late: dict[int, Callable[[], None]] = {}
        """What to call, by number, for what is under way."""
        self._due: list[tuple[float, int]] = []
        """A heap; those that have ended in time are still in it for a while."""
        self._wakes_at = 0.0
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def within(self, seconds: float, late: Callable[[], None]) -> Iterator[None]:
        """Calls `late` if the block has not ended in time; never after it has."""
        due, number = time.monotonic() + seconds, next(self._numbers)
        with self._changed:
            self._late[number] = late
            heapq.heappush(self._due, (due, number))
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                self._thread.start()
            elif due < self._wakes_at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._late.pop(number, None)
                if len(self._due) > _FEW + 2 * len(self._late):
                    self._due = [each for each in self._due if each[1] in self._late]
                    heapq.heapify(self._due)

    def _watch(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                while self._due and self._due[0][0] <= now:
                    _, number = heapq.heappop(self._due)
                    self._late.pop(number, _nothing)()
                self._wakes_at = self._due[0][0] if self._due else float("inf")
                self._changed.wait(self._wakes_at - now if self._due else None)


def _nothing() -> None:
    """It ended in time."""


DEADLINES = Deadlines()
