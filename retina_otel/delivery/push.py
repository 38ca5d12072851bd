"""Push: what every push exporter is. A thread, a lane for each reader, and the books.

An exporter's module says what is its own: settings, encoders and senders, as a route for each
signal. A sender may stand in both routes; it is aborted and closed once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from retina_otel.delivery.lane import Lane, LaneOptions
from retina_otel.delivery.lanes import EventsLane, EventsRoute, MetricsLane, MetricsRoute
from retina_otel.delivery.outcome import Clock, Outcome, Result
from retina_otel.delivery.packed import Packed
from retina_otel.delivery.report import DeliveryReport, Operated
from retina_otel.delivery.retry import RetryPolicy
from retina_otel.delivery.sender import PlainSender, Sender
from retina_otel.delivery.sharing import Encoded, Sharing
from retina_otel.delivery.spool.lane import SpoolLane
from retina_otel.delivery.spool.queue import SpoolPlace
from retina_otel.delivery.worker import Worker
from retina_otel.pipeline.ledger import Ledger
from retina_otel.pipeline.points import EventsReader, MetricsReader

__all__ = [
    "Encoded",
    "EventsRoute",
    "MetricsRoute",
    "Outcome",
    "Packed",
    "PlainSender",
    "Push",
    "Result",
    "RetryPolicy",
    "Sender",
]
"""What the module of an exporter is made of."""


class PushContext(Protocol):
    """The part of a component's context that delivery uses."""

    @property
    def id(self) -> str: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def logger(self) -> logging.Logger: ...

    @property
    def ledger(self) -> Ledger: ...

    @property
    def sharing(self) -> Sharing: ...

    @property
    def degraded(self) -> Callable[[str], None]: ...

    @property
    def operated(self) -> Operated: ...


class Push:
    """One destination. `start` and `stop` are what an Exporter's must do."""

    def __init__(
        self,
        context: PushContext,
        retry: RetryPolicy | None = None,
        metrics: MetricsRoute | None = None,
        events: EventsRoute | None = None,
        *,
        at_once: bool = False,
        spool: SpoolPlace | None = None,
    ) -> None:
        """A signal without a route is not taken. `at_once`: the first export need not wait for the
        moment at which all exporters of the agent begin. `spool`: where events wait, if not in
        memory."""
        self._context = context
        self._retry = retry or RetryPolicy()
        self._metrics = metrics
        self._events = events
        self._at_once = at_once
        self._spool_place = spool
        self._spooling: SpoolLane | None = None
        routes = [route for route in (metrics, events) if route is not None]
        self._senders = list({id(route.sender): route.sender for route in routes}.values())
        self._report = DeliveryReport(
            context.ledger, context.logger, context.clock, context.degraded, context.operated
        )
        self._worker: Worker | None = None

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        """Raises ConfigError if the directory of the spool can't be used."""
        context = self._context
        options = LaneOptions(
            clock=context.clock,
            report=self._report,
            retry=self._retry,
            sharing=context.sharing,
            aligned=not self._at_once,
        )
        lanes: list[Lane[Any]] = []
        if self._metrics is not None:
            for number, reader in enumerate(metrics):
                lanes.append(MetricsLane(f"metrics {number}", reader, self._metrics, options))
        if self._events is not None and self._spool_place is not None and events:
            spool = self._spool_place.open(context.clock, self._report.damaged)
            self._spooling = SpoolLane("events", events, self._events, options, spool)
            lanes.append(self._spooling)
        elif self._events is not None:
            for number, events_reader in enumerate(events):
                lanes.append(EventsLane(f"events {number}", events_reader, self._events, options))
        self._worker = Worker(
            context.id,
            lanes,
            clock=context.clock,
            logger=context.logger,
            abort=self._abort,
            close=self._end,
        )
        self._worker.start()

    def stop(self, deadline_ns: int) -> None:
        """Sends what is left until the monotonic deadline, then closes the senders."""
        if self._worker is None:
            self._close()
        else:
            self._worker.stop(deadline_ns)

    def _abort(self) -> None:
        for sender in self._senders:
            sender.abort()

    def _end(self) -> None:
        if self._spooling is not None:
            self._spooling.close()
        self._report.ended()
        self._close()

    def _close(self) -> None:
        for sender in self._senders:
            sender.close()
