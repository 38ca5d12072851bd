"""SeriesTable: the series of metrics that share a projection, their lives and their values.

A series is a row: found by its key, (source set, destination set, own set) packed into 64 bits;
born with the first increment; ended when it is idle or its endpoint is gone; revived if its key
comes back; freed when no reader needs it any more. At most `limit` series are live at a time; what
finds no series goes to row 0, the overflow series. Every increment is credited to exactly one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import EMPTY_SET, AttributeSets
from retina_otel.model.batches import Values
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.columns import ValueColumn, column_for, frozen, grown
from retina_otel.pipeline.hash_index import MISSING, HashIndex
from retina_otel.pipeline.projection import ProjectedRows, Projection
from retina_otel.pipeline.snapshots import (
    LIVE,
    OVERFLOW_ROW,
    OVERFLOW_SET,
    PublishedColumn,
    SeriesKeys,
    TableSnapshot,
)

_Ids = npt.NDArray[np.int32]
_Longs = npt.NDArray[np.int64]
_Keys = npt.NDArray[np.uint64]

_ID_BITS = 21
"""Bits of a set id in a key. A process with two million attribute sets has other worries; ids
beyond go to overflow."""
_OVERFLOW_KEY = np.uint64((1 << 64) - 1)
_FIRST_CAPACITY = 256

REPLACED = frozenset({Kind.GAUGE, Kind.UPDOWN})
"""Kinds whose value is the newest reading: a series that is not in the newest report has ended."""


class SeriesTable:
    """Tick thread only; `publish` makes what others may see."""

    def __init__(
        self, projection: Projection, sets: AttributeSets, limit: int, *, replaced: bool
    ) -> None:
        self.projection = projection
        self.limit = limit
        self.n_live = 0
        self.latest_start_ns = 0
        self._replaced = replaced
        self._sets = sets
        self._columns: dict[Metric, ValueColumn] = {}
        self._used = 1
        self._free: _Longs = np.zeros(0, np.int64)
        self._n_ended = 0
        self._reported = 0
        self._allocate(_FIRST_CAPACITY)
        overflow = sets.intern(OVERFLOW_SET)
        sets.retain(overflow)
        self._own[OVERFLOW_ROW] = overflow
        self._key[OVERFLOW_ROW] = _OVERFLOW_KEY
        self._index = self._built_index()
        self._published_keys: SeriesKeys | None = None

    @property
    def metrics(self) -> Sequence[Metric]:
        return tuple(self._columns)

    def include(self, metric: Metric) -> None:
        """Makes room for the values of a metric."""
        self._columns[metric] = column_for(metric, len(self._key))

    def add(
        self,
        sets: ProjectedRows,
        metrics: Mapping[Metric, Values],
        sequence: int,
        start_ns: int,
    ) -> None:
        """Credits the rows of a batch. `sequence` is the number of the snapshot to come, `start_ns`
        the start of series that are new."""
        self._reported = sequence
        rows = self._rows_of(_pack(*sets), sequence, start_ns)
        self._touched[rows] = sequence
        for metric, values in metrics.items():
            self._columns[metric].add(rows, values, sequence)

    def end(self, sequence: int, time_ns: int, idle_ns: int) -> None:
        """Ends what is idle, what has lost its endpoint, and readings that were not repeated."""
        used = slice(0, self._used)
        touched = self._touched[used] == sequence
        self._last_seen_ns[used][touched] = time_ns
        idle = time_ns - self._last_seen_ns[used] >= idle_ns
        source_alive, destination_alive = self.projection.alive()
        gone = ~source_alive[self._source[used]] | ~destination_alive[self._destination[used]]
        if self._replaced and self._reported == sequence:
            gone[:] = True
        self._end_rows((idle | gone) & ~touched, sequence, time_ns)

    def end_all(self, sequence: int, time_ns: int) -> None:
        """Ends every series: what they measured is measured otherwise from now on."""
        self._end_rows(np.ones(self._used, np.bool_), sequence, time_ns)

    def publish(self) -> TableSnapshot:
        count = self._used
        if self._published_keys is None:
            self._published_keys = SeriesKeys(
                source=frozen(self._source[:count].copy()),
                destination=frozen(self._destination[:count].copy()),
                own=frozen(self._own[:count].copy()),
                start_ns=frozen(self._start_ns[:count].copy()),
                born=frozen(self._born[:count].copy()),
            )
        return TableSnapshot(
            keys=self._published_keys,
            ended=frozen(self._ended[:count].copy()),
            ended_ns=frozen(self._ended_ns[:count].copy()),
            columns={
                metric: PublishedColumn(
                    values=column.publish(count),
                    present=frozen(column.present[:count].copy()),
                    sums=column.sums,
                )
                for metric, column in self._columns.items()
            },
        )

    def free(self, done: int, ended_before_ns: int) -> int:
        """Frees series that ended in snapshot `done` or earlier, or before a time, or beyond
        `limit` of them, oldest first. Returns how many of them were freed though not `done`."""
        if self._n_ended == 0:
            return 0
        ended = np.flatnonzero(self._ended[: self._used] != LIVE)
        wanted = (self._ended[ended] <= done) | (self._ended_ns[ended] < ended_before_ns)
        excess = int(np.count_nonzero(~wanted)) - self.limit
        if excess > 0:
            left = np.flatnonzero(~wanted)
            oldest = np.argsort(self._ended_ns[ended[left]], kind="stable")[:excess]
            wanted[left[oldest]] = True
        rows = ended[wanted]
        if rows.size == 0:
            return 0
        early = int(np.count_nonzero(self._ended[rows] > done))
        for column in self._columns.values():
            column.retire(rows)
        for ids in (self._source, self._destination, self._own):
            self._sets.release_all(ids[rows])
            ids[rows] = EMPTY_SET
        self._born[rows] = 0
        self._ended[rows] = LIVE
        self._n_ended -= len(rows)
        self._free = np.concatenate([self._free, rows])
        self._index = self._built_index()
        self._published_keys = None
        return early

    def _rows_of(self, keys: _Keys, sequence: int, start_ns: int) -> _Ids:
        rows = self._index.find(keys)
        missing = np.flatnonzero(rows == MISSING)
        if missing.size:
            rows[missing] = OVERFLOW_ROW
            if self.n_live < self.limit:
                wanted = keys[missing]
                _, first = np.unique(wanted, return_index=True)
                first = np.sort(first)[: self.limit - self.n_live]
                self._create(wanted[first], sequence, start_ns)
                found = self._index.find(wanted)
                rows[missing] = np.where(found == MISSING, np.int32(OVERFLOW_ROW), found)
        if self._n_ended:
            back = rows[self._ended[rows] != LIVE]
            if back.size:
                self._revive(np.unique(back)[: self.limit - self.n_live])
                rows[self._ended[rows] != LIVE] = OVERFLOW_ROW
        if self._born[OVERFLOW_ROW] == 0 and len(rows) and int(rows.min()) == OVERFLOW_ROW:
            self._bear(np.array([OVERFLOW_ROW]), sequence, start_ns)
        return rows

    def _create(self, keys: _Keys, sequence: int, start_ns: int) -> None:
        reused, self._free = self._free[: len(keys)], self._free[len(keys) :]
        added = len(keys) - len(reused)
        if self._used + added > len(self._key):
            self._allocate(max(len(self._key) * 3 // 2, self._used + added))
        rows = np.concatenate([reused, np.arange(self._used, self._used + added)])
        self._used += added
        self._key[rows] = keys
        mask = np.uint64((1 << _ID_BITS) - 1)
        self._source[rows] = keys >> np.uint64(2 * _ID_BITS)
        self._destination[rows] = (keys >> np.uint64(_ID_BITS)) & mask
        self._own[rows] = keys & mask
        for ids in (self._source, self._destination, self._own):
            self._sets.retain_all(ids[rows])
        self._index.insert(keys, rows.astype(np.int32))
        self.n_live += len(rows)
        self._bear(rows, sequence, start_ns)

    def _bear(self, rows: _Longs, sequence: int, start_ns: int) -> None:
        self._born[rows] = sequence
        self._start_ns[rows] = start_ns
        self.latest_start_ns = max(self.latest_start_ns, start_ns)
        self._published_keys = None

    def _revive(self, rows: _Ids) -> None:
        self._ended[rows] = LIVE
        self._n_ended -= len(rows)
        self.n_live += len(rows)

    def _end_rows(self, wanted: npt.NDArray[np.bool_], sequence: int, time_ns: int) -> None:
        used = slice(0, self._used)
        wanted &= (self._ended[used] == LIVE) & (self._born[used] > 0)
        wanted[OVERFLOW_ROW] = False
        rows = np.flatnonzero(wanted)
        self._ended[rows] = sequence
        self._ended_ns[rows] = time_ns
        self._n_ended += len(rows)
        self.n_live -= len(rows)

    def _allocate(self, capacity: int) -> None:
        if capacity == _FIRST_CAPACITY:
            self._key: _Keys = np.zeros(capacity, np.uint64)
            self._source: _Ids = np.zeros(capacity, np.int32)
            self._destination: _Ids = np.zeros(capacity, np.int32)
            self._own: _Ids = np.zeros(capacity, np.int32)
            self._start_ns: _Longs = np.zeros(capacity, np.int64)
            self._born: _Longs = np.zeros(capacity, np.int64)
            self._ended: _Longs = np.full(capacity, LIVE, np.int64)
            self._ended_ns: _Longs = np.zeros(capacity, np.int64)
            self._touched: _Longs = np.zeros(capacity, np.int64)
            self._last_seen_ns: _Longs = np.zeros(capacity, np.int64)
            return
        self._key = grown(self._key, capacity)
        self._source = grown(self._source, capacity)
        self._destination = grown(self._destination, capacity)
        self._own = grown(self._own, capacity)
        self._start_ns = grown(self._start_ns, capacity)
        self._born = grown(self._born, capacity)
        before = len(self._ended)
        self._ended = grown(self._ended, capacity)
        self._ended[before:] = LIVE
        self._ended_ns = grown(self._ended_ns, capacity)
        self._touched = grown(self._touched, capacity)
        self._last_seen_ns = grown(self._last_seen_ns, capacity)
        for column in self._columns.values():
            column.grow(capacity)

    def _built_index(self) -> HashIndex:
        held = np.flatnonzero(self._born[: self._used] > 0)
        held = np.union1d(held, [OVERFLOW_ROW])
        return HashIndex.of(self._key[held], held.astype(np.int32))


def _pack(source: _Ids, destination: _Ids, own: _Ids) -> _Keys:
    keys = source.astype(np.uint64)
    keys <<= np.uint64(_ID_BITS)
    keys |= destination.astype(np.uint64)
    keys <<= np.uint64(_ID_BITS)
    keys |= own.astype(np.uint64)
    if len(keys):
        beyond = np.maximum(np.maximum(source, destination), own) >= 1 << _ID_BITS
        if beyond.any():
            keys[beyond] = _OVERFLOW_KEY
    return keys
