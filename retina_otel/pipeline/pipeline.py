"""MetricsPipeline and LogsPipeline: from receivers' batches to an accumulator or an event buffer.

They hold no thread and no clock: the tick thread pushes and ticks. Each keeps a ledger in rows (or
events): those that came in = accumulated + dropped by a processor + held back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from retina_otel.model.batches import EventBatch, How, MetricBatch
from retina_otel.pipeline.accumulator import Accumulator
from retina_otel.pipeline.events import EventBuffer
from retina_otel.pipeline.identity.late import LateIdentity
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
        late: LateIdentity[MetricBatch] | None = None,
        derive: Callable[[MetricBatch], Iterable[MetricBatch]] | None = None,
    ) -> None:
        """`derive` makes the batches to accumulate of each that processors pass on."""
        self.name = name
        self.accumulator = accumulator
        self.ledger = Ledger(name, "rows")
        self._processors = tuple(processors)
        self._late = late
        self._derive = derive
        self._tell = _IdentityAccounts(self.ledger)

    def push(self, batches: Iterable[MetricBatch]) -> None:
        """Takes in what receivers have collected for this window."""
        for batch in batches:
            came = len(batch)
            processed: MetricBatch | None = batch
            for processor in self._processors:
                if processed is not None:
                    processed = processor.process_metrics(processed)
            passed = [processed] if processed is not None else []
            if self._derive is not None:
                passed = [one for each in passed for one in self._derive(each)]
            left = sum(map(len, passed))
            # A processor may also make rows of its own: they come in here.
            self.ledger.add(seen=max(came, left), filtered=max(came - left, 0), held=left)
            for one in passed:
                ready = one if self._late is None else self._late.pass_on(one)
                if ready is not None:
                    self._accumulate(ready)

    def tick(self, end_ns: int) -> Snapshot:
        """Ends the window: what waited is passed on if it may, and a snapshot is published."""
        if self._late is not None:
            self._passed(self._late, self._late.release(end_ns))
        return self.accumulator.snapshot(end_ns)

    def drain(self, end_ns: int) -> Snapshot:
        """As `tick`, for the last time: nothing is held back any longer."""
        self._release_all(end_ns)
        return self.accumulator.snapshot(end_ns)

    def end(self, end_ns: int) -> Snapshot:
        """Instead of `drain`, where another pipeline measures from now on: every series ends."""
        self._release_all(end_ns)
        return self.accumulator.end_all(end_ns)

    def _release_all(self, end_ns: int) -> None:
        if self._late is not None:
            self._passed(self._late, self._late.release_all(end_ns))

    def _passed(self, late: LateIdentity[MetricBatch], batches: Iterable[MetricBatch]) -> None:
        left = late.held
        for batch in batches:
            self._accumulate(batch)
            left -= len(batch)
        # Known by now, and so known not to be wanted.
        self.ledger.add(filtered=left - late.held, held=late.held - left)

    def _accumulate(self, batch: MetricBatch) -> None:
        self.accumulator.add(batch)
        self.ledger.add(drained=len(batch), held=-len(batch))
        self._tell.passed(batch, self._late)


class _IdentityAccounts:
    """What is told beside a pipeline's ledger of the rows that it has passed on."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ambiguous = 0

    def passed(
        self,
        batch: MetricBatch | EventBatch,
        late: LateIdentity[MetricBatch] | LateIdentity[EventBatch] | None,
    ) -> None:
        ambiguous = sum(
            int(np.count_nonzero(how == How.AMBIGUOUS))
            for how in (batch.source_how, batch.destination_how)
            if how is not None
        )
        if ambiguous:
            self._ambiguous += ambiguous
            self._ledger.set_beside("ambiguous_ends", self._ambiguous)
        if late is not None and late.unsettled:
            self._ledger.set_beside("unsettled", late.unsettled)


class LogsPipeline:
    """Events through `processors`, in order, into `buffer`."""

    def __init__(
        self,
        name: str,
        processors: Sequence[EventsProcessor],
        buffer: EventBuffer,
        *,
        late: LateIdentity[EventBatch] | None = None,
    ) -> None:
        self.name = name
        self.buffer = buffer
        self.ledger = Ledger(name, "events")
        self._processors = tuple(processors)
        self._late = late
        self._tell = _IdentityAccounts(self.ledger)

    def push(self, batches: Iterable[EventBatch], observed_ns: int | None = None) -> None:
        """Takes in what receivers have collected; see `EventBuffer.append`."""
        for batch in batches:
            came = len(batch)
            processed: EventBatch | None = batch
            for processor in self._processors:
                if processed is not None:
                    processed = processor.process_events(processed)
            left = len(processed) if processed is not None else 0
            self.ledger.add(seen=max(came, left), filtered=max(came - left, 0), held=left)
            if processed is not None and self._late is not None:
                processed = self._late.pass_on(processed)
            if processed is not None:
                self._append(processed, observed_ns)

    def tick(self, end_ns: int) -> None:
        """Passes on what waited, if it may, and lets go of events that every reader has
        acknowledged."""
        if self._late is not None:
            self._passed(self._late, self._late.release(end_ns))
        self.buffer.tidy()

    def drain(self, end_ns: int) -> None:
        """As `tick`, for the last time: nothing is held back any longer."""
        if self._late is not None:
            self._passed(self._late, self._late.release_all(end_ns))
        self.buffer.tidy()

    def _passed(self, late: LateIdentity[EventBatch], batches: Iterable[EventBatch]) -> None:
        left = late.held
        for batch in batches:
            self._append(batch, None)
            left -= len(batch)
        self.ledger.add(filtered=left - late.held, held=late.held - left)

    def _append(self, batch: EventBatch, observed_ns: int | None) -> None:
        self.buffer.append(batch, observed_ns)
        self.ledger.add(drained=len(batch), held=-len(batch))
        self._tell.passed(batch, self._late)
