"""All running components of one configuration, and how they change into those of the next one.

Owned by the tick thread. Components are compared by id and settings: what is unchanged keeps its
maps, links and series; what has changed is created first, and only then replaces the old one.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from retina_otel.agent.exporting import RunningExporter
from retina_otel.agent.logs import logger_for
from retina_otel.agent.overlays import Overlays
from retina_otel.agent.processing import UNIT as PROCESSED
from retina_otel.agent.processing import Processors
from retina_otel.agent.readers import Readers
from retina_otel.agent.receiving import RunningReceiver, describe
from retina_otel.agent.routes import OWN, Route, RouteKey, cardinality, hand_over, plan, push
from retina_otel.agent.status import Key, StatusBoard
from retina_otel.agent.telemetry import OwnTelemetry
from retina_otel.component import (
    AgentStatus,
    Clock,
    ComponentKind,
    Context,
    Extension,
    State,
    Ticking,
)
from retina_otel.config.load import Configuration, Instance
from retina_otel.delivery.sharing import Sharing
from retina_otel.errors import RetinaError
from retina_otel.model.batches import Window
from retina_otel.model.interfaces import InterfaceRegistry
from retina_otel.node.facts import NodeFacts
from retina_otel.pipeline.identity.endpoints import EndpointTable

_UNITS = {
    ComponentKind.RECEIVER: "packets",
    ComponentKind.PROCESSOR: PROCESSED,
    ComponentKind.EXPORTER: "points",
    ComponentKind.EXTENSION: "things",
}
_WITHOUT_RESOURCE = frozenset({ComponentKind.RECEIVER, ComponentKind.PROCESSOR})
REPLACED_EXPORTER_NS = 2_000_000_000
"""How long an exporter that is replaced may take to send what is left."""

Resource = Mapping[str, str | int | bool]


class Graph:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        interfaces: InterfaceRegistry,
        facts: NodeFacts,
        board: StatusBoard,
        status: Callable[[], AgentStatus],
        learned: Callable[[Resource], None] = lambda attributes: None,
    ) -> None:
        self.endpoints = EndpointTable()
        self.receivers: dict[str, RunningReceiver] = {}
        self.collecting = ""
        """The receiver that is being collected from."""
        self._clock = clock
        self._interfaces = interfaces
        self._facts = facts
        self._board = board
        for ledger in facts.ledgers:
            board.keep_ledger(ledger.name, ledger)
        self._status = status
        self._learned = learned
        self._resource: Resource = {}
        self._base: Resource = {}
        self._instances: dict[Key, Instance] = {}
        self._processors = Processors(board)
        self._exporters: dict[str, RunningExporter] = {}
        self._extensions: dict[str, Extension] = {}
        self._routes: dict[RouteKey, Route] = {}
        self._readers = Readers()
        self._sharing = Sharing()
        self._overlays = Overlays(self.endpoints)
        self._fed: dict[str, list[RouteKey]] = {}
        self._end_ns = 0
        self.telemetry: OwnTelemetry | None = None

    def apply(
        self,
        configuration: Configuration,
        resource: Resource,
        *,
        base: Resource | None = None,
        strict: bool = False,
    ) -> None:
        """Changes what runs into `configuration`. `base` is the resource without what extensions
        have learned: theirs, so that what one of them learns restarts none; None: the same.

        Raises ConfigError, before anything is changed, if a component refuses its settings. With
        `strict`, an exporter or extension that can't start raises too (the agent is starting);
        otherwise it is shown as failed.
        """
        wanted = {(instance.kind, instance.id): instance for instance in configuration.instances()}
        base = resource if base is None else base
        same = {kind: dict(resource) == dict(self._resource) for kind in ComponentKind}
        same[ComponentKind.EXTENSION] = dict(base) == dict(self._base)
        kept = {
            key
            for key, instance in wanted.items()
            if key in self._instances
            and _same(self._instances[key], instance)
            and (same[instance.kind] or instance.kind in _WITHOUT_RESOURCE)
        }
        metrics = configuration.service.telemetry.metrics
        routes = plan(
            configuration,
            self.endpoints,
            self._routes,
            self._processors.named,
            own_telemetry=metrics.enabled,
        )
        fed = {
            id_: [key for key, route in routes.items() if id_ in route.exporters]
            for id_ in configuration.exporters
        }
        kept -= {(ComponentKind.EXPORTER, id_) for id_ in fed if fed[id_] != self._fed.get(id_)}
        new = [
            instance
            for key, instance in wanted.items()
            if key not in kept and instance.kind is not ComponentKind.RECEIVER
        ]
        before = self._resource, self._base
        self._resource, self._base = dict(resource), dict(base)
        try:
            created = self._create(new)
        except RetinaError:
            self._resource, self._base = before
            raise
        hand_over(
            [route for key, route in self._routes.items() if key not in routes],
            [route for key, route in routes.items() if key not in self._routes],
            self._end_ns,
        )
        self._stop_others(kept)
        self._instances = wanted
        self._routes = routes
        self._fed = fed
        for route in routes.values():
            self._board.keep_ledger(f"pipeline/{route.name}", route.pipeline.ledger)
        self._set_up_telemetry(metrics.enabled, metrics.interval)
        self._start(wanted, created, strict=strict)
        self._readers.keep(self._exporters, self._fed, self._routes)

    def collect(self, end_ns: int, deadline_ns: int, *, last: bool = False) -> None:
        """One tick: everything since the last, through the processors, to published snapshots."""
        for id_, extension in self._extensions.items():
            if isinstance(extension, Ticking):
                self._tick_extension(id_, extension, end_ns)
        routes = list(self._routes.values())
        self._overlays.apply(routes)
        for id_, receiver in self.receivers.items():
            if not last:
                receiver.retry_if_due(end_ns)
            self.collecting = id_
            hand_on = functools.partial(push, routes, id_)
            receiver.collect(end_ns, deadline_ns, hand_on)
            if last:
                receiver.finish(end_ns, hand_on)
        self.collecting = ""
        if self.telemetry is not None:
            own = self.telemetry.collect(Window(end_ns, end_ns), now=last)
            push(routes, OWN, own)
        self._end_ns = end_ns
        self.endpoints.advance(end_ns)
        for route in routes:
            if last:
                route.pipeline.drain(end_ns)
            else:
                route.pipeline.tick(end_ns)

    def stop(self, deadline_ns: int) -> bool:
        """Exporters send what is left while receivers detach, then extensions end. False if an
        exporter did not end in time."""
        threads = self.begin_stop_of_exporters(deadline_ns)
        for receiver in self.receivers.values():
            receiver.stop()
        for thread in threads:
            thread.join(max(0.0, (deadline_ns - self._clock.monotonic_ns()) / 1e9))
        for id_, extension in self._extensions.items():
            self._stop_extension(id_, extension)
        if self.telemetry is not None:
            self.telemetry.close()
        return not any(thread.is_alive() for thread in threads)

    def begin_stop_of_exporters(self, deadline_ns: int) -> list[threading.Thread]:
        """Each in a thread of its own. Any thread may call it; the second call finds none left."""
        exporters, self._exporters = self._exporters, {}
        return [exporter.begin_stop(deadline_ns) for exporter in exporters.values()]

    def _running(self) -> list[Route]:
        """Any thread."""
        return list(self._routes.values())

    def _tick_extension(self, id_: str, extension: Ticking, end_ns: int) -> None:
        try:
            extension.tick(end_ns)
        except Exception as error:
            key = (ComponentKind.EXTENSION, id_)
            self._board.set(key, State.DEGRADED, describe(error), failed=True)

    def _create(self, instances: Iterable[Instance]) -> dict[Key, Any]:
        created: dict[Key, Any] = {}
        for instance in instances:
            context = self._context(instance)
            key = (instance.kind, instance.id)
            try:
                created[key] = instance.component.create(instance.settings, context)
            except Exception as error:
                raise _told(key, error) from error
        return created

    def _context(self, instance: Instance) -> Context:
        key = (instance.kind, instance.id)
        resource = self._base if instance.kind is ComponentKind.EXTENSION else self._resource
        return Context(
            id=instance.id,
            clock=self._clock,
            logger=logger_for(instance.kind.value, instance.id),
            ledger=self._board.ledger(_ledger_name(key), _UNITS[instance.kind]),
            identity=self.endpoints,
            interfaces=self._interfaces,
            namespaces=self._facts.namespaces,
            translations=self._facts.translations,
            sockets=self._facts.sockets,
            resource=dict(resource),
            sharing=self._sharing,
            degraded=lambda reason: self._degraded(key, reason),
            operated=functools.partial(self._operated, instance.id),
            status=self._status,
            cardinality=lambda: cardinality(self._running()),
            learned=self._learned,
            selection=self._overlays.selection,
            overlay=functools.partial(self._overlays.lay, instance.id),
        )

    def _operated(self, exporter_id: str, unit: str, seconds: float, error_type: str) -> None:
        telemetry = self.telemetry
        if telemetry is not None:
            telemetry.operated(exporter_id, unit, seconds, error_type)

    def _degraded(self, key: Key, reason: str) -> None:
        kind, id_ = key
        if kind is ComponentKind.RECEIVER and id_ in self.receivers:
            self.receivers[id_].degraded(reason)
        elif kind is ComponentKind.EXPORTER and id_ in self._exporters:
            self._exporters[id_].degraded(reason)
        else:
            self._board.set(key, State.DEGRADED if reason else State.RUNNING, reason)

    def _stop_others(self, kept: set[Key]) -> None:
        deadline_ns = self._clock.monotonic_ns() + REPLACED_EXPORTER_NS
        threads = [
            self._exporters.pop(id_).begin_stop(deadline_ns)
            for id_ in list(self._exporters)
            if (ComponentKind.EXPORTER, id_) not in kept
        ]
        for id_ in list(self.receivers):
            if (ComponentKind.RECEIVER, id_) not in kept:
                self.receivers.pop(id_).stop()
        self._processors.keep({id_ for kind, id_ in kept if kind is ComponentKind.PROCESSOR})
        for thread in threads:
            thread.join(max(0.0, (deadline_ns - self._clock.monotonic_ns()) / 1e9))
        for id_ in list(self._extensions):
            if (ComponentKind.EXTENSION, id_) not in kept:
                self._stop_extension(id_, self._extensions.pop(id_))
        for key in self._instances.keys() - kept:
            self._board.remove(key)

    def _start(
        self, wanted: Mapping[Key, Instance], created: Mapping[Key, Any], *, strict: bool
    ) -> None:
        for key, instance in wanted.items():
            kind, id_ = key
            if key not in created and not (
                kind is ComponentKind.RECEIVER and id_ not in self.receivers
            ):
                continue
            self._board.add(key, logger_for(kind.value, id_))
            try:
                if kind is ComponentKind.EXTENSION:
                    created[key].start()
                    self._extensions[id_] = created[key]
                    self._board.set(key, State.RUNNING)
                elif kind is ComponentKind.RECEIVER:
                    self._start_receiver(instance)
                elif kind is ComponentKind.PROCESSOR:
                    self._processors.put(id_, created[key])
                    self._board.set(key, State.RUNNING)
                else:
                    self._start_exporter(id_, created[key])
            except Exception as error:
                if strict:
                    raise _told(key, error) from error
                self._board.set(key, State.FAILED, describe(error), failed=True)

    def _start_receiver(self, instance: Instance) -> None:
        def create() -> Any:
            return instance.component.create(instance.settings, self._context(instance))

        def measured(receiver_id: str, seconds: float) -> None:
            if self.telemetry is not None:
                self.telemetry.measured(receiver_id, seconds)

        receiver = RunningReceiver(
            (instance.kind, instance.id), create, self._clock, self._board, measured
        )
        self.receivers[instance.id] = receiver
        receiver.start(self._clock.wall_ns())

    def _start_exporter(self, id_: str, created: Any) -> None:
        exporter = RunningExporter((ComponentKind.EXPORTER, id_), created, self._board)
        self._exporters[id_] = exporter
        metrics: list[Any] = []
        events: list[Any] = []
        for key in self._fed[id_]:
            (events if key.signal == "logs" else metrics).extend(
                self._readers.of(self._routes[key], exporter)
            )
        exporter.start(metrics, events)

    def _set_up_telemetry(self, enabled: bool, interval_s: float) -> None:
        if enabled and self.telemetry is None:
            self.telemetry = OwnTelemetry(self._board, self._running, interval_s)
        elif enabled and self.telemetry is not None:
            self.telemetry.set_interval(interval_s)
        elif self.telemetry is not None:
            self.telemetry.close()
            self.telemetry = None

    def _stop_extension(self, id_: str, extension: Extension) -> None:
        key = (ComponentKind.EXTENSION, id_)
        try:
            extension.stop()
        except Exception as error:
            self._board.set(key, State.FAILED, f"can't be stopped: {describe(error)}")
        else:
            self._board.set(key, State.STOPPED)
        self._overlays.lift(id_)


def _same(old: Instance, new: Instance) -> bool:
    return old.component is new.component and old.settings == new.settings


def _told(key: Key, error: Exception) -> RetinaError:
    """Our own errors as they are; any other with the component's name before it."""
    if isinstance(error, RetinaError):
        return error
    return RetinaError(f"the {key[0].value} '{key[1]}' can't be started: {describe(error)}")


def _ledger_name(key: Key) -> str:
    return f"{key[0].value}/{key[1]}"
