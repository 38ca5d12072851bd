"""A thread of an exporter: steps the lanes of a sender when they are due, sleeps in between, and
flushes last.

All waiting is here, and all of it can be ended by `stop`. A lane that raises is a defect of ours:
it is logged and counted, and the other lanes go on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from retina_otel.delivery.lane import Lane
from retina_otel.delivery.outcome import Clock

_S = 10**9
_LONGEST_WAIT_S = 60.0
_SHARE_TO_ABORT = 10
"""A tenth of the time for a flush is kept for booking what a cut-off request leaves behind."""


class Worker:
    """One thread. `abort` must end a request that is under way; `close` is called at the end."""

    def __init__(
        self,
        name: str,
        lanes: Sequence[Lane[Any]],
        *,
        clock: Clock,
        logger: logging.Logger,
        abort: Callable[[], None] = lambda: None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._lanes = lanes
        self._clock = clock
        self._logger = logger
        self._abort = abort
        self._close = close
        self._wake = threading.Event()
        self._over = threading.Event()
        self._flush_deadline_ns: int | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        thread.start()
        self._thread = thread

    def stop(self, deadline_ns: int) -> None:
        """Sends what is left until the monotonic deadline, then ends. Returns soon after it."""
        self._flush_deadline_ns = deadline_ns
        self._wake.set()
        if self._thread is None:
            self._close()
            return
        left_s = max(0.0, (deadline_ns - self._clock.monotonic_ns()) / _S)
        self._thread.join(left_s - left_s / _SHARE_TO_ABORT)
        if self._thread.is_alive():
            self._abort()
            self._over.set()
            self._thread.join(left_s / _SHARE_TO_ABORT + 0.5)
        if self._thread.is_alive():
            self._logger.warning("stopped while a request was still under way")

    def step(self) -> int:
        """Steps each lane that is due, once. Returns when the next one is, in monotonic ns."""
        for lane in self._lanes:
            if not lane.finished and lane.due_ns <= self._clock.monotonic_ns():
                try:
                    lane.step()
                except Exception as error:
                    self._logger.exception("a defect in the exporter, at %s", lane.name)
                    lane.defect(f"{type(error).__name__}: {error}")
        return min((lane.due_ns for lane in self._lanes if not lane.finished), default=1 << 62)

    def flush(self, deadline_ns: int) -> None:
        """Steps the lanes until all have finished; they all do at the deadline."""
        for lane in self._lanes:
            lane.begin_flush(deadline_ns)
        while True:
            due_ns = min(self.step(), deadline_ns)
            left = [lane for lane in self._lanes if not lane.finished]
            if not left:
                return
            if self._over.wait(self._seconds_until(due_ns)):
                for lane in left:
                    lane.give_up()

    def _run(self) -> None:
        while self._flush_deadline_ns is None:
            self._wake.wait(self._seconds_until(self.step()))
        self.flush(self._flush_deadline_ns)
        self._close()

    def _seconds_until(self, due_ns: int) -> float:
        wait_s = (due_ns - self._clock.monotonic_ns()) / _S
        return min(_LONGEST_WAIT_S, max(0.0, wait_s))
