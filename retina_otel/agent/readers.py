"""The readers that exporters take from. One outlives the exporter it was made for: the next
exporter of the same id goes on with it, so that nothing is sent twice or missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retina_otel.agent.exporting import RunningExporter
from retina_otel.agent.routes import Route, RouteKey
from retina_otel.pipeline.accumulator import Accumulator
from retina_otel.pipeline.points import Temporality
from retina_otel.pipeline.preview import PreviewEvents, PreviewMetrics, PreviewSets

_Kind = tuple[str, Temporality, bool, bool, int]


class Readers:
    """Used by the tick thread only."""

    def __init__(self) -> None:
        self._readers: dict[tuple[RouteKey, _Kind, int], Any] = {}
        self._renamed: dict[RouteKey, PreviewSets] = {}

    def of(self, route: Route, exporter: RunningExporter) -> list[Any]:
        """The readers of a route for an exporter, as many as it wants; made if there are none."""
        return [self._reader(route, exporter, number) for number in _numbers(route.key, exporter)]

    def _reader(self, route: Route, exporter: RunningExporter, number: int) -> Any:
        key = (route.key, _kind(exporter), number)
        if key not in self._readers:
            if isinstance(route.end, Accumulator):
                self._readers[key] = route.end.reader(
                    exporter.key[1],
                    temporality=exporter.temporality,
                    zero_points=exporter.zero_points,
                    stale_markers=exporter.stale_markers,
                    linger_ns=exporter.linger_ns,
                )
            else:
                self._readers[key] = route.end.reader(exporter.key[1])
        reader = self._readers[key]
        if not route.key.preview:
            return reader
        if route.key not in self._renamed:
            self._renamed[route.key] = PreviewSets(route.end.sets)
        wrap = PreviewMetrics if isinstance(route.end, Accumulator) else PreviewEvents
        return wrap(reader, self._renamed[route.key])

    def keep(
        self,
        exporters: Mapping[str, RunningExporter],
        fed: Mapping[str, Sequence[RouteKey]],
        routes: Mapping[RouteKey, Route],
    ) -> None:
        """Forgets those that no exporter has: nothing is kept for them any more."""
        used: set[tuple[RouteKey, _Kind, int]] = set()
        for id_, exporter in exporters.items():
            for key in fed.get(id_, ()):
                used.update((key, _kind(exporter), n) for n in _numbers(key, exporter))
        for unused in self._readers.keys() - used:
            reader = self._readers.pop(unused)
            if unused[0] in routes:
                routes[unused[0]].end.remove(reader)
        self._renamed = {key: sets for key, sets in self._renamed.items() if key in routes}


def _numbers(key: RouteKey, exporter: RunningExporter) -> range:
    return range(1 if key.signal == "logs" else exporter.readers)


def _kind(exporter: RunningExporter) -> _Kind:
    return (
        exporter.key[1],
        exporter.temporality,
        exporter.zero_points,
        exporter.stale_markers,
        exporter.linger_ns,
    )
