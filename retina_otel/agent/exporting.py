"""One exporter in the agent: what feeds it, started once, stopped within a deadline."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from retina_otel.agent.receiving import describe
from retina_otel.agent.status import Key, StatusBoard
from retina_otel.component import Exporter, State
from retina_otel.pipeline.points import EventsReader, MetricsReader, Temporality


class RunningExporter:
    """Started and stopped by the tick thread; works in its own."""

    def __init__(self, key: Key, exporter: Exporter, board: StatusBoard) -> None:
        self.key = key
        self._exporter = exporter
        self._board = board

    @property
    def temporality(self) -> Temporality:
        value = getattr(self._exporter, "temporality", None)
        return value if isinstance(value, Temporality) else Temporality.CUMULATIVE

    @property
    def zero_points(self) -> bool:
        return bool(getattr(self._exporter, "zero_points", True))

    @property
    def stale_markers(self) -> bool:
        return bool(getattr(self._exporter, "stale_markers", True))

    @property
    def readers(self) -> int:
        return int(getattr(self._exporter, "readers", 1))

    @property
    def linger_ns(self) -> int:
        return int(getattr(self._exporter, "linger_ns", 0))

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        """Raises what the exporter raises: a port in use, a file that can't be written."""
        self._exporter.start(metrics, events)
        if self._board.state(self.key) is State.STARTING:
            self._board.set(self.key, State.RUNNING)

    def degraded(self, reason: str) -> None:
        """`Context.degraded` of the exporter, which logs by itself what fails, and how often."""
        self._board.set(self.key, State.DEGRADED if reason else State.RUNNING, reason, said=True)

    def begin_stop(self, deadline_ns: int) -> threading.Thread:
        """Stops it in a thread, so that one backend that is away does not take the others' time."""
        thread = threading.Thread(
            target=self.stop, args=(deadline_ns,), name=f"stop {self.key[1]}", daemon=True
        )
        thread.start()
        return thread

    def stop(self, deadline_ns: int) -> None:
        try:
            self._exporter.stop(deadline_ns)
        except Exception as error:
            self._board.set(self.key, State.FAILED, f"can't be stopped: {describe(error)}")
        else:
            self._board.set(self.key, State.STOPPED)
