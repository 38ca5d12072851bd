"""MetricsPipeline and LogsPipeline: from receivers' batches to an accumulator or an event buffer.

They hold no thread and no clock: the tick thread pushes and ticks. Each keeps a ledger in rows (or
events): those that came in = accumulated + dropped by a processor + held back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from retina_otel.model.batches import EventBatch, MetricBatch
from retina_otel.pipeline.accumulator import Accumulator
from retina_otel.pipeline.events import EventBuffer
from retina_otel.pipeline.late import LateIdentity
from retina_otel.pipeline.ledger import Ledger
from retina_otel.pipeline.snapshots import Snapshot


class MetricsProcessor(Protocol):
    def process_metrics(self, batch: MetricBatch) -> MetricBatch | None: ...


class EventsProcessor(Protocol):
    def process_events(self, batch: EventBatch) -> EventBatch | None: ...


class MetricsPipeline:
    """Batches through `processors`, in order, into `accumulator`."""

    def __init__(
        self,
        name: str,
        processors: Sequence[MetricsProcessor],
        accumulator: Accumulator,
        *,
        late: LateIdentity | None = None,
    ) -> None:
        self.name = name
        self.accumulator = accumulator
        self.ledger = Ledger(name, "rows")
        self._processors = tuple(processors)
        self._late = late

    def push(self, batches: Iterable[MetricBatch]) -> None:
        """Takes in what receivers have collected for this window."""
        for batch in batches:
            came = len(batch)
            processed: MetricBatch | None = batch
            for processor in self._processors:
                if processed is not None:
                    processed = processor.process_metrics(processed)
            left = len(processed) if processed is not None else 0
            # A processor may also make rows of its own: they come in here.
            self.ledger.add(seen=max(came, left), filtered=max(came - left, 0), held=left)
            if processed is not None and self._late is not None:
                processed = self._late.pass_on(processed)
            if processed is not None:
                self._accumulate(processed)

    def tick(self, end_ns: int) -> Snapshot:
        """Ends the window: what waited is passed on if it may, and a snapshot is published."""
        if self._late is not None:
            for batch in self._late.release():
                self._accumulate(batch)
        return self.accumulator.snapshot(end_ns)

    def drain(self, end_ns: int) -> Snapshot:
        """As `tick`, for the last time: nothing is held back any longer."""
        self._release_all()
        return self.accumulator.snapshot(end_ns)

    def end(self, end_ns: int) -> Snapshot:
        """Instead of `drain`, where another pipeline measures from now on: every series ends."""
        self._release_all()
        return self.accumulator.end_all(end_ns)

    def _release_all(self) -> None:
        if self._late is not None:
            for batch in self._late.release_all():
                self._accumulate(batch)

    def _accumulate(self, batch: MetricBatch) -> None:
        self.accumulator.add(batch)
        self.ledger.add(drained=len(batch), held=-len(batch))


class LogsPipeline:
    """Events through `processors`, in order, into `buffer`."""

    def __init__(
        self, name: str, processors: Sequence[EventsProcessor], buffer: EventBuffer
    ) -> None:
        self.name = name
        self.buffer = buffer
        self.ledger = Ledger(name, "events")
        self._processors = tuple(processors)

    def push(self, batches: Iterable[EventBatch], observed_ns: int | None = None) -> None:
        """Takes in what receivers have collected; see `EventBuffer.append`."""
        for batch in batches:
            came = len(batch)
            processed: EventBatch | None = batch
            for processor in self._processors:
                if processed is not None:
                    processed = processor.process_events(processed)
            left = len(processed) if processed is not None else 0
            if processed is not None:
                self.buffer.append(processed, observed_ns)
            self.ledger.add(seen=max(came, left), drained=left, filtered=max(came - left, 0))

    def tick(self) -> None:
        """Lets go of events that every reader has acknowledged."""
        self.buffer.tidy()
