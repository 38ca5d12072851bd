"""From the pipelines of a configuration to those that run: who feeds them, who reads them.

Pipelines that have the same receivers, processors and projection are one, so that a second exporter
with a pipeline of its own costs no second copy of the series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from retina_otel.component import Collected
from retina_otel.config.load import Configuration
from retina_otel.config.settings import PipelineSettings
from retina_otel.model.batches import EventBatch, MetricBatch
from retina_otel.pipeline.accumulator import TIME_STEP_NS, Accumulator, AccumulatorSettings
from retina_otel.pipeline.classic import ClassicMetrics
from retina_otel.pipeline.events import EventBuffer, EventBufferSettings
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.identity.late import LateIdentity
from retina_otel.pipeline.identity.selection import View
from retina_otel.pipeline.overlay import Overlay
from retina_otel.pipeline.pipeline import LogsPipeline, MetricsPipeline
from retina_otel.pipeline.points import ResourceModel
from retina_otel.pipeline.series.attribute_costs import MetricCardinality
from retina_otel.pipeline.series.folding import Folding

OWN = "own"
"""Name of the pipeline of the agent's own metrics, and of what feeds it."""
_IDENTITY = "identity"
_OF_THE_END = {"attributes", "cardinality", "event_buffer", "expiry"}
"""Settings of a pipeline with which its series, or its buffer, begin anew."""


class AnyProcessor(Protocol):
    def process_metrics(self, batch: MetricBatch) -> MetricBatch | None: ...

    def process_events(self, batch: EventBatch) -> EventBatch | None: ...


@dataclass(frozen=True, slots=True)
class RouteKey:
    """What makes two pipelines one."""

    signal: str
    receivers: frozenset[str]
    processors: tuple[str, ...]
    settings: str
    """JSON of what the accumulator or buffer is told."""
    pod_uids: bool = False
    """One-ended metrics have the UIDs of pods: an exporter makes resources of them."""
    classic: bool = False
    """It reports Retina's metrics instead of ours."""
    preview: bool = False
    """Exporters are told the names of the conventions' draft."""


def resolves_identity(key: RouteKey) -> bool:
    """Whether the ends of what the route reports are known."""
    return any(id_.partition("/")[0] == _IDENTITY for id_ in key.processors)


@dataclass(slots=True)
class Route:
    """A running pipeline, and the names and exporters that the configuration gives it."""

    key: RouteKey
    pipeline: MetricsPipeline | LogsPipeline
    names: list[str]
    exporters: list[str]
    classic: ClassicMetrics | None = None
    """What makes Retina's metrics, where the route reports those."""

    @property
    def name(self) -> str:
        """What it is told by: one of its names, and the same as long as the configuration has
        that one, whichever others come and go."""
        made = self.pipeline.name
        return made if made in self.names else self.names[0]

    @property
    def end(self) -> Accumulator | EventBuffer:
        """Who makes the readers."""
        if isinstance(self.pipeline, MetricsPipeline):
            return self.pipeline.accumulator
        return self.pipeline.buffer


def plan(
    configuration: Configuration,
    endpoints: EndpointTable,
    old: Mapping[RouteKey, Route],
    processor: Callable[[str], AnyProcessor],
    *,
    own_telemetry: bool,
) -> dict[RouteKey, Route]:
    """The routes of a configuration; a pipeline of `old` that is still wanted keeps its series.

    `processor(id)` stands for the processor that has that id whenever a batch comes.
    """
    routes: dict[RouteKey, Route] = {}

    def route(key: RouteKey, name: str, settings: PipelineSettings | None) -> Route:
        if key not in routes:
            classic = None
            if key in old:
                pipeline, classic = old[key].pipeline, old[key].classic
            else:
                classic = ClassicMetrics() if key.classic else None
                pipeline = _make(
                    key,
                    name,
                    settings,
                    endpoints,
                    configuration=configuration,
                    processor=processor,
                    classic=classic,
                )
            routes[key] = Route(key, pipeline, [], [], classic)
        routes[key].names.append(name)
        return routes[key]

    for name, settings in configuration.service.pipelines.items():
        key = RouteKey(
            signal=name.partition("/")[0],
            receivers=frozenset(settings.receivers),
            processors=tuple(settings.processors),
            settings=settings.model_dump_json(include=_OF_THE_END),
            preview=configuration.service.telemetry.semconv_preview,
            pod_uids=any(
                getattr(configuration.exporters[id_].settings, "resource_model", None)
                is ResourceModel.ENTITY
                for id_ in settings.exporters
            ),
        )
        found = route(key, name, settings)
        found.exporters += [id_ for id_ in settings.exporters if id_ not in found.exporters]
        classic = [
            id_
            for id_ in settings.exporters
            if getattr(configuration.exporters[id_].settings, "classic", False)
        ]
        if key.signal == "metrics" and classic:
            retinas = route(
                replace(key, classic=True, pod_uids=False, preview=False),
                f"classic/{name}",
                settings,
            )
            retinas.exporters += [id_ for id_ in classic if id_ not in retinas.exporters]
    exporters = dict.fromkeys(
        id_ for one in configuration.pipelines("metrics").values() for id_ in one.exporters
    )
    if own_telemetry and exporters:
        key = RouteKey("metrics", frozenset({OWN}), (), "")
        route(key, OWN, None).exporters += exporters
    return routes


def _make(
    key: RouteKey,
    name: str,
    settings: PipelineSettings | None,
    endpoints: EndpointTable,
    *,
    configuration: Configuration,
    processor: Callable[[str], AnyProcessor],
    classic: ClassicMetrics | None,
) -> MetricsPipeline | LogsPipeline:
    processors = [processor(id_) for id_ in key.processors]
    if settings is None:
        return MetricsPipeline(name, processors, Accumulator(endpoints))
    resolvers = [
        one
        for one, id_ in zip(processors, key.processors, strict=True)
        if configuration.processors[id_].component.type == _IDENTITY
    ]
    if key.signal == "logs":
        buffer = EventBuffer(
            endpoints, EventBufferSettings(settings.attributes, settings.event_buffer)
        )
        events = (
            LateIdentity(resolvers[0].process_events, endpoints=endpoints) if resolvers else None
        )
        return LogsPipeline(name, processors, buffer, late=events)
    accumulator = Accumulator(
        endpoints,
        AccumulatorSettings(
            attributes=settings.attributes if classic is None else {},
            pod_uids=key.pod_uids,
            cardinality_limit=settings.cardinality.limit,
            cardinality_per_namespace=settings.cardinality.share,
            idle_ns=int(settings.expiry * 1e9),
        ),
    )
    late = LateIdentity(resolvers[0].process_metrics, endpoints=endpoints) if resolvers else None
    if classic is None:
        return MetricsPipeline(name, processors, accumulator, late=late)
    accumulator.lay_over(classic.change(Overlay(), View.REMOTE))
    return MetricsPipeline(name, processors, accumulator, late=late, derive=classic.derive)


def hand_over(old: Iterable[Route], new: Iterable[Route], end_ns: int) -> None:
    """Ends the series of pipelines that are no longer wanted, before any of those that follow
    begins: a backend may see the same attributes on both. Nothing is left waiting in them."""
    old = list(old)
    for route in old:
        if isinstance(route.pipeline, LogsPipeline):
            route.pipeline.drain(end_ns)
    ended_ns = [
        route.pipeline.end(end_ns).time_ns
        for route in old
        if isinstance(route.pipeline, MetricsPipeline)
    ]
    for route in new:
        if ended_ns and isinstance(route.pipeline, MetricsPipeline):
            route.pipeline.accumulator.begin_after(max(ended_ns) + TIME_STEP_NS)


def push(routes: Sequence[Route], receiver: str, collected: Collected) -> None:
    """Hands what a receiver has collected to each pipeline that it feeds."""
    for route in routes:
        if receiver not in route.key.receivers:
            continue
        if isinstance(route.pipeline, MetricsPipeline):
            route.pipeline.push(collected.metrics)
        else:
            route.pipeline.push(collected.events)


def series(routes: Sequence[Route]) -> dict[str, int]:
    """Live series by pipeline; of several that are one, once."""
    return {
        route.name: route.pipeline.accumulator.n_live
        for route in routes
        if isinstance(route.pipeline, MetricsPipeline)
    }


def folding(routes: Sequence[Route]) -> dict[str, Folding]:
    """What found no room, by pipeline; of several that are one, once."""
    return {
        route.name: route.pipeline.accumulator.folding
        for route in routes
        if isinstance(route.pipeline, MetricsPipeline)
    }


def cardinality(routes: Sequence[Route]) -> dict[str, tuple[MetricCardinality, ...]]:
    """What the attributes of each metric cost, by pipeline; of several that are one, once."""
    return {
        route.name: route.pipeline.accumulator.cardinality()
        for route in routes
        if isinstance(route.pipeline, MetricsPipeline)
    }
