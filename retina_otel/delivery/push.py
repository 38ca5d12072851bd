"""Push: what every push exporter is. A thread for each signal, a lane for each reader, the books.

An exporter's module says what is its own: settings, encoders and senders, as a route for each
signal. Each sender has a thread, so that a backend which gives no answer to one signal delays no
other. A sender that stands in both routes has one thread for both.
"""

from __future__ import annotations

import logging
import threading
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
        routes = [route for route in (metrics, events) if route is not None]
        self._senders = list({id(route.sender): route.sender for route in routes}.values())
        self._report = DeliveryReport(
            context.ledger, context.logger, context.clock, context.degraded, context.operated
        )
        self._workers: list[Worker] = []
        self._unused = self._senders
        """Nobody sends with them, so nobody else closes them."""

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
        given = [
            (self._metrics, self._metrics_lanes(metrics, options)),
            (self._events, self._events_lanes(events, options)),
        ]
        unused = []
        for sender in self._senders:
            lanes = [
                lane
                for route, own in given
                if route is not None and route.sender is sender
                for lane in own
            ]
            if lanes:
                self._workers.append(self._worker(sender, lanes))
            else:
                unused.append(sender)
        self._unused = unused
        for worker in self._workers:
            worker.start()

    def stop(self, deadline_ns: int) -> None:
        """Sends what is left until the monotonic deadline, then closes the senders."""
        # Each in a thread, so that one which waits for its backend takes no time of the other's.
        stopping = [
            threading.Thread(target=worker.stop, args=(deadline_ns,)) for worker in self._workers
        ]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        for sender in self._unused:
            sender.close()
        self._report.ended()

    def _metrics_lanes(
        self, readers: Sequence[MetricsReader], options: LaneOptions
    ) -> list[Lane[Any]]:
        route = self._metrics
        if route is None:
            return []
        return [
            MetricsLane(f"metrics {number}", reader, route, options)
            for number, reader in enumerate(readers)
        ]

    def _events_lanes(
        self, readers: Sequence[EventsReader], options: LaneOptions
    ) -> list[Lane[Any]]:
        route = self._events
        if route is None or not readers:
            return []
        if self._spool_place is not None:
            spool = self._spool_place.open(options.clock, self._report.damaged)
            return [SpoolLane("events", readers, route, options, spool)]
        return [
            EventsLane(f"events {number}", reader, route, options)
            for number, reader in enumerate(readers)
        ]

    def _worker(self, sender: Sender, lanes: Sequence[Lane[Any]]) -> Worker:
        context = self._context

        def close() -> None:
            for lane in lanes:
                if isinstance(lane, SpoolLane):
                    lane.close()
            sender.close()

        return Worker(
            " ".join([context.id, *dict.fromkeys(lane.unit for lane in lanes)]),
            lanes,
            clock=context.clock,
            logger=context.logger,
            abort=sender.abort,
            close=close,
        )
