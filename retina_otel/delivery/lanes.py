"""The two kinds of lanes: metrics and events.

Metrics: each interval the newest snapshot; an export that got nowhere gives way to a newer one, so
that an outage loses no counts. Events: all of them, in order, until a bound of age.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from retina_otel.delivery.lane import Lane, LaneOptions, Route
from retina_otel.delivery.sharing import Encoded
from retina_otel.pipeline.points import (
    EventBlock,
    EventsExport,
    EventsReader,
    MetricsExport,
    MetricsReader,
    PointBlock,
    Temporality,
)

_FIRST_SNAPSHOT_NS = 10**9
"""How soon to look again while there is no snapshot yet."""

EncodeMetrics = Callable[[Sequence[PointBlock], int], Iterator[Encoded]]
EncodeEvents = Callable[[Sequence[EventBlock], int], Iterator[Encoded]]
"""As `sharing.Encode`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsRoute(Route):
    encode: Callable[[], EncodeMetrics]
    temporality: Temporality = Temporality.CUMULATIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsRoute(Route):
    """`interval_s` is the longest time that an event waits."""

    encode: Callable[[], EncodeEvents]


class MetricsLane(Lane[MetricsExport]):
    """The newest snapshot of one accumulator, once an interval."""

    unit = "points"

    def __init__(
        self,
        name: str,
        reader: MetricsReader,
        route: MetricsRoute,
        options: LaneOptions,
    ) -> None:
        super().__init__(name, route, options)
        self._reader = reader
        self._temporality = route.temporality
        self._last_sequence: int | None = None

    def _take(self) -> MetricsExport | None:
        export = self._reader.take()
        if export is not None and (
            export.sequence != self._last_sequence
            or (self._deadline_ns is not None and _only_ends(export))
        ):
            return export
        self.finished = self._deadline_ns is not None
        self.due_ns = self._tick_ns
        if export is None:
            soon = self._clock.monotonic_ns() + _FIRST_SNAPSHOT_NS
            self.due_ns = min(self._tick_ns, soon)
        return None

    def _size(self, export: MetricsExport) -> int:
        return export.n_points

    def _without_blocks(self, export: MetricsExport) -> MetricsExport:
        self._reader.let_go()
        return MetricsExport(export.sequence, ())

    def _acknowledge(self, export: MetricsExport) -> None:
        self._last_sequence = export.sequence
        self._reader.acknowledge(export)

    def _gives_way(self, now: int) -> bool:
        late = now >= self._tick_ns or self._deadline_ns is not None
        return late and self._again()

    def _again(self) -> bool:
        """Whether what is left of an export may be given up, because newer points hold it too.

        A delta of which a part has arrived is tried however long an outage is: taken anew, that
        part would count twice. Meanwhile the next delta grows. Cumulative values may always be sent
        again."""
        untouched = self._accepted == 0 and not self._lost.total()
        return untouched or self._temporality is Temporality.CUMULATIVE

    def _overdue(self, now: int) -> None:
        if self._again():
            self._settle(superseded=True)
            self.due_ns = max(self.due_ns, self._tick_ns)

    def _after_export(self, now: int) -> int:
        return self._tick_ns if self._deadline_ns is None else now

    def give_up(self) -> None:
        if self._export is not None:
            self._settle(unsent="shutdown")
        self.finished = True


def _only_ends(export: MetricsExport) -> bool:
    """Whether all that is left of a pipeline is to say that its series have ended."""
    return bool(export.blocks) and all(block.no_value.all() for block in export.blocks)


class EventsLane(Lane[EventsExport]):
    """The events of one buffer, in order, as they come; `interval_s` passes when there are none."""

    unit = "events"
    may_lose = (*Lane.may_lose, "shed")

    def __init__(
        self,
        name: str,
        reader: EventsReader,
        route: EventsRoute,
        options: LaneOptions,
    ) -> None:
        super().__init__(name, route, options)
        self._reader = reader
        self._shed = 0

    def step(self) -> None:
        self._book_shed()
        super().step()

    def _take(self) -> EventsExport | None:
        export = self._reader.take(self.max_bytes)
        self._book_shed()
        if export is None:
            self.finished = self._deadline_ns is not None
            self.due_ns = self._tick_ns
        return export

    def _size(self, export: EventsExport) -> int:
        return export.n_events

    def _without_blocks(self, export: EventsExport) -> EventsExport:
        self._reader.let_go()
        return EventsExport(export.sequence, ())

    def _acknowledge(self, export: EventsExport) -> None:
        self._reader.acknowledge(export)

    def _gives_way(self, now: int) -> bool:
        return False

    def _overdue(self, now: int) -> None:
        self._settle(unsent="expired")

    def _after_export(self, now: int) -> int:
        return now

    def _book_shed(self) -> None:
        shed = self._reader.shed
        if shed > self._shed:
            self._report.settle("events", accepted=0, lost=Counter(shed=shed - self._shed))
            self._shed = shed

    def give_up(self) -> None:
        while True:
            if self._export is not None:
                self._settle(unsent="shutdown")
            self._export = self._reader.take(self.max_bytes)
            self._book_shed()
            if self._export is None:
                break
            self._n_items = self._size(self._export)
        self.finished = True
