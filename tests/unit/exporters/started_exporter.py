"""An exporter of metrics and events that runs on a source of known amounts, for tests of push
exporters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from retina_otel.component import Context
from retina_otel.pipeline.ledger import LedgerReport
from retina_otel.testing.exporters import Bench, Source

S = TypeVar("S", bound="StartedExporter")
FAST = {
    "interval": "50ms",
    "events_interval": "20ms",
    "retry_on_failure": {"initial_interval": "20ms", "max_interval": "50ms"},
}
"""Settings that make it send at once, and again soon."""


class StartedExporter:
    """An exporter with its source, started."""

    def __init__(
        self, make: Callable[[Context], Any], bench: Bench, source: Source | None = None
    ) -> None:
        self.bench = bench
        self.source = source or Source()
        self.exporter = make(bench.context())
        wanted = {
            name: getattr(self.exporter, name)
            for name in ("temporality", "zero_points", "stale_markers")
            if hasattr(self.exporter, name)
        }
        metrics = self.source.accumulator.reader("test", **wanted)
        self.exporter.start([metrics], [self.source.buffer.reader("test")])

    def stop(self, seconds: float = 5.0) -> None:
        self.exporter.stop(self.bench.deadline_ns(seconds))

    @property
    def ledger(self) -> LedgerReport:
        return self.bench.ledger.report()


@contextmanager
def stopped_in_the_end(start: Callable[..., S]) -> Iterator[Callable[..., S]]:
    """Yields what starts exporters as `start` does, each of which ends with the `with` block."""
    started: list[S] = []

    def start_one(**settings: Any) -> S:
        started.append(start(**settings))
        return started[-1]

    yield start_one
    for running in started:
        running.stop(0.5)
