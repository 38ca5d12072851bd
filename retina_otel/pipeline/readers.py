"""SnapshotReader: an exporter's view of an accumulator, as MetricsReader has it.

Two numbers say all that a reader knows: A1, the snapshot acknowledged last, and A0, the one that
had been acknowledged when that export was taken. A series born after A1 is new to the backend: a
zero point at its start comes first. One that ended after A1 is due with its final value; one that
ended after A0 and up to A1 had its final value acknowledged, and is now marked stale; one that
ended up to A0 had its marker acknowledged too and is of no interest any more.

So readers of one kind with the same two numbers are given the same export, made once.

A reader that lingers has A1 follow what is acknowledged by so long: others, that it does not know
of, come for the final values too.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retina_otel.model.batches import Histogram, Values
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.columns import frozen
from retina_otel.pipeline.points import MetricsExport, PointBlock, Temporality
from retina_otel.pipeline.snapshots import LIVE, Snapshot, TableSnapshot

_MS = 1_000_000

_DELTA_KINDS = {
    Temporality.CUMULATIVE: (),
    Temporality.DELTA: (Kind.COUNTER, Kind.HISTOGRAM),
    Temporality.LOWMEMORY: (Kind.HISTOGRAM,),
}

_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a reader needs of a snapshot to acknowledge it; the rest may go."""

    sequence: int
    time_ns: int
    before: int
    """The snapshot that had been acknowledged when this one was taken."""
    baseline: tuple[TableSnapshot, ...]
    """Empty for cumulative readers."""


class SnapshotReader:
    """One thread at a time takes and acknowledges; the tick thread reads `done` and `holds`."""

    def __init__(
        self,
        name: str,
        lock: threading.Lock,
        newest: Callable[[], Snapshot | None],
        *,
        temporality: Temporality,
        zero_points: bool,
        stale_markers: bool,
        linger_ns: int = 0,
    ) -> None:
        self.name = name
        self.temporality = temporality
        self.holds: int | None = None
        """Number of the snapshot whose set ids somebody may be reading."""
        self._lock = lock
        self._newest = newest
        self._delta = _DELTA_KINDS[temporality]
        self._zero_points = zero_points
        self._stale_markers = stale_markers
        self._linger_ns = linger_ns
        self._lingering: deque[tuple[int, int]] = deque()
        """Time and number of snapshots that were acknowledged, and are not past yet."""
        self._acknowledged = 0
        self._before = 0
        self._acknowledged_ns = 0
        self._baseline: tuple[TableSnapshot, ...] = ()
        self._taken: _Taken | None = None

    @property
    def done(self) -> int:
        """Series that ended in this snapshot or before need not be kept for this reader."""
        return self._before if self._stale_markers else self._acknowledged

    def hold(self) -> Snapshot | None:
        """The newest snapshot as it is. Its ids keep their meaning until the next `hold`, `take`,
        `let_go` or `acknowledge`, or until the reader is removed."""
        with self._lock:
            snapshot = self._newest()
            self.holds = snapshot.sequence if snapshot is not None else None
        return snapshot

    def take(self) -> MetricsExport | None:
        """The newest snapshot as points; None before the first one. Lets go of the one before."""
        snapshot = self.hold()
        if snapshot is None:
            return None
        baseline = snapshot.tables if self._delta else ()
        self._taken = _Taken(snapshot.sequence, snapshot.time_ns, self._acknowledged, baseline)
        kind = (self._delta, self._zero_points, self._stale_markers)
        cursor = (self._acknowledged, self._acknowledged_ns, self._before)
        return snapshot.once.get((kind, cursor), lambda: self._export(snapshot))

    def _export(self, snapshot: Snapshot) -> MetricsExport:
        blocks = [
            block
            for table in snapshot.tables
            for block in self._blocks(snapshot, table)
            if len(block.source)
        ]
        return MetricsExport(snapshot.sequence, blocks)

    def let_go(self) -> None:
        """The blocks of what was taken are read no more; it may still be acknowledged."""
        with self._lock:
            self.holds = None

    def acknowledge(self, export: MetricsExport) -> None:
        """Of the newest `take()` only: an older export's acknowledgement changes nothing, so that
        what it held is sent again."""
        taken = self._taken
        if taken is None or taken.sequence != export.sequence:
            return
        self._taken = None
        self._baseline = taken.baseline
        with self._lock:
            self._before = taken.before
            self._lingering.append((taken.time_ns, taken.sequence))
            while self._lingering and self._lingering[0][0] <= taken.time_ns - self._linger_ns:
                _, self._acknowledged = self._lingering.popleft()
            self._acknowledged_ns = taken.time_ns
            self.holds = None

    def _blocks(self, snapshot: Snapshot, table: TableSnapshot) -> Iterator[PointBlock]:
        born = table.keys.born
        due = (born > 0) & (table.ended > self._acknowledged)
        new = due & (born > self._acknowledged)
        ended = (table.ended > self._before) & (table.ended <= self._acknowledged)
        final_ns = np.where(table.ended == LIVE, snapshot.time_ns, table.ended_ns)
        for metric, column in table.columns.items():
            temporality = Temporality.CUMULATIVE
            values = column.values
            shown = due & column.present
            if metric.kind in self._delta:
                temporality = Temporality.DELTA
                values = self._since_acknowledged(metric, table, values)
                shown &= _not_zero(values)
            elif metric.kind in (Kind.COUNTER, Kind.HISTOGRAM) and self._zero_points:
                rows = np.flatnonzero(new & column.present)
                yield self._block(
                    snapshot,
                    table,
                    metric,
                    temporality=temporality,
                    rows=rows,
                    time_ns=table.keys.start_ns[rows] + _MS,
                    values=_zeros(values, rows),
                )
            rows = np.flatnonzero(shown)
            yield self._block(
                snapshot,
                table,
                metric,
                temporality=temporality,
                rows=rows,
                time_ns=final_ns[rows],
                values=_at(values, rows),
            )
            if self._stale_markers and temporality is Temporality.CUMULATIVE:
                rows = np.flatnonzero(ended & column.present)
                yield self._block(
                    snapshot,
                    table,
                    metric,
                    temporality=temporality,
                    rows=rows,
                    time_ns=np.maximum(snapshot.time_ns, table.ended_ns[rows] + _MS),
                    values=_zeros(values, rows),
                    no_value=True,
                )

    def _block(
        self,
        snapshot: Snapshot,
        table: TableSnapshot,
        metric: Metric,
        *,
        temporality: Temporality,
        rows: _Rows,
        time_ns: npt.NDArray[np.int64],
        values: Values,
        no_value: bool = False,
    ) -> PointBlock:
        keys = table.keys
        start_ns = keys.start_ns[rows]
        if temporality is Temporality.DELTA:
            start_ns = np.maximum(start_ns, self._acknowledged_ns)
        return PointBlock(
            metric=metric,
            temporality=temporality,
            source=frozen(keys.source[rows]),
            destination=frozen(keys.destination[rows]),
            own=frozen(keys.own[rows]),
            start_ns=frozen(start_ns),
            time_ns=frozen(time_ns),
            values=values,
            no_value=frozen(np.full(len(rows), no_value)),
            sets=snapshot.sets,
        )

    def _since_acknowledged(self, metric: Metric, table: TableSnapshot, values: Values) -> Values:
        """What was added since the snapshot acknowledged last. A row that was given to another
        series since then counts from zero. A metric may be in another table by now: its rows are
        the same."""
        baseline = self._baseline
        known = next((one.columns[metric] for one in baseline if metric in one.columns), None)
        if known is None:
            return values
        before = known.values
        common = len(known.present)
        same = table.keys.born[:common] <= self._acknowledged
        if isinstance(values, Histogram) and isinstance(before, Histogram):
            counts, sums = values.counts.copy(), values.sums.copy()
            counts[:common] -= np.where(same[:, np.newaxis], before.counts, 0)
            sums[:common] -= np.where(same, before.sums, 0.0)
            return Histogram(counts, sums)
        assert not isinstance(values, Histogram)
        assert not isinstance(before, Histogram)
        delta = values.copy()
        delta[:common] -= np.where(same, before, 0)
        return delta


def _not_zero(values: Values) -> npt.NDArray[np.bool_]:
    changed = values.counts.any(axis=1) if isinstance(values, Histogram) else values != 0
    return np.asarray(changed, np.bool_)


def _at(values: Values, rows: _Rows) -> Values:
    if isinstance(values, Histogram):
        return Histogram(frozen(values.counts[rows]), frozen(values.sums[rows]))
    return frozen(values[rows])


def _zeros(values: Values, rows: _Rows) -> Values:
    if isinstance(values, Histogram):
        buckets = values.counts.shape[1]
        return Histogram(
            frozen(np.zeros((len(rows), buckets), np.int64)),
            frozen(np.zeros(len(rows), np.float64)),
        )
    return frozen(np.zeros(len(rows), values.dtype))
