"""Accumulator: the end of a metrics pipeline. Owns every series, publishes snapshots, serves
readers.

The tick thread adds batches and publishes; exporter threads read through `reader()`. They share one
lock, held only while a snapshot changes hands: what a reader has taken nobody changes. Times of
snapshots grow even if the wall clock steps back, and no point is older than its series' start.

Safety of set ids: a series' ids go back to AttributeSets under the number of the newest snapshot,
which may still show them, and are given to other sets only when every reader has let go of that
snapshot. A reader lets go by `acknowledge()` or by its next `take()`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.batches import MetricBatch, Values
from retina_otel.model.signals import Metric
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.overlay import Overlay
from retina_otel.pipeline.points import Temporality
from retina_otel.pipeline.readers import SnapshotReader
from retina_otel.pipeline.series.attribute_costs import MetricCardinality, cardinality
from retina_otel.pipeline.series.folding import Folding, weights
from retina_otel.pipeline.series.projection import Choice, ProjectedRows, Projection, patterns_for
from retina_otel.pipeline.series.table import REPLACED, Increments, SeriesTable, Terms
from retina_otel.pipeline.series.talkers import TalkerSettings
from retina_otel.pipeline.snapshots import Snapshot, Totals, totals

_MINUTE = 60_000_000_000
_NEVER_NS = 1 << 62

TIME_STEP_NS = 2_000_000
"""Between a start and the zero point, the first point, and a stale marker lies half of this: 1 ms
is the finest that Prometheus tells apart."""


@dataclass(frozen=True, slots=True)
class AccumulatorSettings:
    """What an accumulator is told by configuration."""

    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By metric name (exact, or a pattern), patterns over attribute names; see `projection`. A
    metric that none matches has the default attributes."""
    pod_uids: bool = False
    """One-ended metrics have a pod's UID beside its name."""
    cardinality_limit: int = 20_000
    """Live series of one metric."""
    cardinality_per_namespace: int | None = None
    """Of them, those that a namespace is sure of as long as it wants them."""
    cardinality_burst: float = 0.05
    """Share of the limit that may be replaced by heavier series at once."""
    idle_ns: int = 10 * _MINUTE
    """A series without an increment for so long ends."""
    release_ns: int = 30 * _MINUTE
    """An ended series is freed after so long, acknowledged or not."""


class Accumulator:
    """See the module's docstring. `add` and `snapshot` belong to the tick thread."""

    def __init__(
        self, endpoints: EndpointTable, settings: AccumulatorSettings | None = None
    ) -> None:
        self.settings = settings or AccumulatorSettings()
        self.sets = AttributeSets()
        self.released_unacknowledged = 0
        """Ended series that were freed before every reader had their final value acknowledged."""
        self._endpoints = endpoints
        self.folding = Folding(endpoints, self.sets)
        """What there was no room for."""
        self._overlay = Overlay()
        self._projections: dict[Choice, Projection] = {}
        self._tables: list[SeriesTable] = []
        self._table_of: dict[Metric, SeriesTable] = {}
        self._lock = threading.Lock()
        self._readers: list[SnapshotReader] = []
        self._snapshot: Snapshot | None = None
        self._sequence = 0
        self._time_ns = 0
        self._latest_start_ns = 0

    @property
    def n_live(self) -> int:
        """Live series over all metrics, overflow not counted."""
        return sum(table.n_live * len(table.metrics) for table in self._tables)

    def add(self, batch: MetricBatch) -> None:
        """Credits every row of every metric of `batch` to a series."""
        if len(batch) == 0:
            return
        start_ns = max(batch.window.start_ns, self._time_ns)
        self._latest_start_ns = max(self._latest_start_ns, start_ns)
        groups: dict[SeriesTable, dict[Metric, Values]] = {}
        for metric, values in batch.values.items():
            if metric.name in self._overlay.exclude:
                continue
            table = self._table_of.get(metric) or self._make_table(metric, batch)
            groups.setdefault(table, {})[metric] = values
        projected: dict[Projection, ProjectedRows] = {}
        weighed = weights(batch)
        namespaces = functools.partial(self.folding.namespaces, batch)
        for table, metrics in groups.items():
            if table.projection not in projected:
                projected[table.projection] = table.projection.project(batch)
            folded = table.add(
                Increments(
                    projected[table.projection],
                    metrics,
                    weighed,
                    namespaces,
                    self._sequence + 1,
                    start_ns,
                )
            )
            if folded is not None:
                self.folding.note(metrics, batch, folded)

    def lay_over(self, overlay: Overlay) -> None:
        """Reports some metrics otherwise from now on. What they have measured so far ends with the
        window that runs, but for series that go on alike; other metrics notice nothing."""
        if overlay == self._overlay:
            return
        self._overlay = overlay
        for table in list(self._tables):
            groups: dict[Terms, list[Metric]] = {}
            for metric in table.metrics:
                groups.setdefault(self._terms(metric), []).append(metric)
            staying = table.terms if table.terms in groups else next(iter(groups))
            for terms, metrics in groups.items():
                part = table
                if terms != staying:
                    part = table.split(metrics)
                    self._tables.append(part)
                    self._table_of.update(dict.fromkeys(metrics, part))
                if terms != part.terms:
                    part.change(terms)
        used = {table.projection for table in self._tables}
        for choice, projection in list(self._projections.items()):
            if projection not in used:
                self._projections.pop(choice).release()

    def doubt(self, endpoints: npt.NDArray[np.int32]) -> None:
        """Ends the series of endpoints, by row, with this window unless it adds something."""
        for table in self._tables:
            table.doubt(endpoints)

    def snapshot(self, end_ns: int) -> Snapshot:
        """Ends the window, and what ends with it, and publishes. Called once a tick, after
        `add`."""
        self._endpoints.advance(end_ns)
        self.folding.end_window()
        time_ns = self._next_time(end_ns)
        sequence = self._sequence + 1
        for table in self._tables:
            table.end(sequence, time_ns)
        return self._publish(sequence, time_ns)

    def end_all(self, end_ns: int) -> Snapshot:
        """Publishes the final values of every series: the projection changes, or the agent stops
        serving this pipeline. Readers still take and acknowledge as usual."""
        time_ns = self._next_time(end_ns)
        sequence = self._sequence + 1
        for table in self._tables:
            table.end_all(sequence, time_ns)
        return self._publish(sequence, time_ns)

    def begin_after(self, time_ns: int) -> None:
        """No series starts before: one of the same attributes may have ended elsewhere then."""
        self._time_ns = max(self._time_ns, time_ns)

    def reader(
        self,
        name: str,
        *,
        temporality: Temporality = Temporality.CUMULATIVE,
        zero_points: bool = True,
        stale_markers: bool = True,
        linger_ns: int = 0,
    ) -> SnapshotReader:
        """A new reader, for one exporter. Any thread. Final values of series that have ended are
        given for `linger_ns` after they were acknowledged."""
        reader = SnapshotReader(
            name,
            self._lock,
            lambda: self._snapshot,
            temporality=temporality,
            zero_points=zero_points,
            stale_markers=stale_markers,
            linger_ns=linger_ns,
        )
        with self._lock:
            self._readers.append(reader)
        return reader

    def remove(self, reader: SnapshotReader) -> None:
        """Series are kept for `reader` no longer. It must not be used after this. Any thread."""
        with self._lock:
            self._readers.remove(reader)

    @property
    def newest(self) -> Snapshot | None:
        """The snapshot that readers take now. Any thread; don't read its set ids without a
        reader."""
        return self._snapshot

    def cardinality(self) -> tuple[MetricCardinality, ...]:
        """What each attribute costs, by the newest snapshot. Any thread; takes its time."""
        reader = self.reader("cardinality")
        try:
            snapshot = reader.hold()
            if snapshot is None:
                return ()
            return cardinality(snapshot, self.settings.cardinality_limit, self.folding.series)
        finally:
            self.remove(reader)

    def totals(self) -> dict[Metric, Totals]:
        """Where all that was added is, by the newest snapshot. Any thread."""
        snapshot = self._snapshot
        return totals(snapshot) if snapshot is not None else {}

    def _next_time(self, end_ns: int) -> int:
        earliest = max(self._time_ns, self._latest_start_ns) + TIME_STEP_NS
        return max(end_ns, earliest)

    def _publish(self, sequence: int, time_ns: int) -> Snapshot:
        tables = tuple(table.publish() for table in self._tables)
        snapshot = Snapshot(sequence, time_ns, tables, self.sets)
        with self._lock:
            self._snapshot = snapshot
            readers = tuple(self._readers)
            done = min((reader.done for reader in readers), default=sequence)
            held = [reader.holds for reader in readers if reader.holds is not None]
        self._sequence, self._time_ns = sequence, time_ns
        self.sets.generation = sequence
        for table in self._tables:
            self.released_unacknowledged += table.free(done, time_ns - self.settings.release_ns)
        self.sets.reclaim(min([sequence, *held]))
        return snapshot

    def _make_table(self, metric: Metric, batch: MetricBatch) -> SeriesTable:
        """Counters and histograms that come in one batch and choose the same attributes share the
        table of their series; a reading lives and dies with its own reports."""
        replaced = metric.kind in REPLACED
        terms = self._terms(metric)
        beside = (
            self._table_of[other]
            for other in batch.values
            if other in self._table_of and other.kind not in REPLACED
        )
        shared = None if replaced else next((t for t in beside if t.terms == terms), None)
        if shared is None:
            talkers = TalkerSettings(
                limit=self.settings.cardinality_limit,
                half_life_ns=self.settings.idle_ns,
                burst=self.settings.cardinality_burst,
                per_namespace=self.settings.cardinality_per_namespace,
            )
            shared = SeriesTable(terms, self.sets, talkers, replaced=replaced)
            self._tables.append(shared)
        shared.include(metric)
        self._table_of[metric] = shared
        return shared

    def _terms(self, metric: Metric) -> Terms:
        chosen = self._overlay.attributes.get(metric.name)
        choice = Choice.of(
            metric,
            chosen or patterns_for(metric, self.settings.attributes),
            pod_uids=self.settings.pod_uids,
        )
        projection = self._projections.get(choice)
        if projection is None:
            projection = Projection(self._endpoints, self.sets, choice)
            self._projections[choice] = projection
        idle_s = self._overlay.expiry.get(metric.name)
        idle_ns = self.settings.idle_ns if idle_s is None else int(min(idle_s * 1e9, _NEVER_NS))
        return Terms(projection, idle_ns, metric.name in self._overlay.exclude)
