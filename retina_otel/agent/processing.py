"""The processors that run, by id. A pipeline names a processor; which one that is, is decided when
a batch comes. A batch at which a processor raises is lost, counted, and told."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from retina_otel.agent.receiving import describe
from retina_otel.agent.status import StatusBoard
from retina_otel.component import ComponentKind, Processor, State
from retina_otel.model.batches import EventBatch, MetricBatch
from retina_otel.pipeline.ledger import Ledger

UNIT = "rows"
"""Of the ledgers of processors."""
_FAILED = "processor_failed"

Batch = TypeVar("Batch", MetricBatch, EventBatch)


class Processors:
    """Tick thread."""

    def __init__(self, board: StatusBoard) -> None:
        self._board = board
        self._running: dict[str, Processor] = {}

    def put(self, id_: str, processor: Processor) -> None:
        """It takes the place of the one that had this id."""
        self._running[id_] = processor
        self._ledger(id_).may_lose(_FAILED)

    def keep(self, ids: Collection[str]) -> None:
        """Forgets all others."""
        self._running = {id_: one for id_, one in self._running.items() if id_ in ids}

    def named(self, id_: str) -> NamedProcessor:
        """Whichever processor has this id when a batch comes."""
        return NamedProcessor(self, id_)

    def process_metrics(self, id_: str, batch: MetricBatch) -> MetricBatch | None:
        return self._process(id_, batch, self._running[id_].process_metrics)

    def process_events(self, id_: str, batch: EventBatch) -> EventBatch | None:
        return self._process(id_, batch, self._running[id_].process_events)

    def _process(
        self, id_: str, batch: Batch, process: Callable[[Batch], Batch | None]
    ) -> Batch | None:
        try:
            return process(batch)
        except Exception as error:
            key = (ComponentKind.PROCESSOR, id_)
            self._board.set(key, State.DEGRADED, describe(error), failed=True)
            self._ledger(id_).add(seen=len(batch), lost={_FAILED: len(batch)})
            return None

    def _ledger(self, id_: str) -> Ledger:
        return self._board.ledger(f"{ComponentKind.PROCESSOR.value}/{id_}", UNIT)


class NamedProcessor:
    """See `Processors.named`."""

    def __init__(self, processors: Processors, id_: str) -> None:
        self._processors = processors
        self._id = id_

    def process_metrics(self, batch: MetricBatch) -> MetricBatch | None:
        return self._processors.process_metrics(self._id, batch)

    def process_events(self, batch: EventBatch) -> EventBatch | None:
        return self._processors.process_events(self._id, batch)
