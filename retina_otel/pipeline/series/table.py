"""SeriesTable: the series of metrics that share a projection, their lives and their values.

A series is a row: found by its key, (source set, destination set, own set) packed into 64 bits;
born with the first increment; ended when it is idle, displaced or its endpoint is gone; revived if
its key comes back; freed when no reader needs it any more. At most `limit` series are live at a
time: of counters and histograms the top talkers, of readings those that came first. What finds no
series goes to row 0, the overflow series. Every increment is credited to exactly one row, and stays
there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import EMPTY_SET, AttributeSets
from retina_otel.model.batches import Values
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.columns import ValueColumn, column_for, frozen, grown
from retina_otel.pipeline.hash_index import MISSING, HashIndex
from retina_otel.pipeline.series.folding import Folded
from retina_otel.pipeline.series.keys import OVERFLOW_KEY, pack, unpack
from retina_otel.pipeline.series.projection import ProjectedRows, Projection
from retina_otel.pipeline.series.talkers import Contenders, Talkers, TalkerSettings
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
_TurnedAway = tuple[_Keys, _Longs]
"""Distinct keys that got no series, and a row of the batch for each."""

_FIRST_CAPACITY = 256
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)

REPLACED = frozenset({Kind.GAUGE, Kind.UPDOWN})
"""Kinds whose value is the newest reading: a series that is not in the newest report has ended."""


@dataclass(frozen=True, slots=True)
class Increments:
    """The rows of a batch, as a table credits them."""

    sets: ProjectedRows
    metrics: Mapping[Metric, Values]
    weights: npt.NDArray[np.float64]
    """By row: how much it weighs where not all can have a series."""
    namespaces: Callable[[_Longs], _Ids]
    """The attribute sets of the namespaces to which some of the rows count, EMPTY_SET for none."""
    sequence: int
    """The number of the snapshot to come."""
    start_ns: int
    """The start of series that are new."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What metrics must have in common to share a table."""

    projection: Projection
    idle_ns: int
    excluded: bool = False


class SeriesTable:
    """Tick thread only; `publish` makes what others may see."""

    def __init__(
        self,
        terms: Terms,
        sets: AttributeSets,
        talkers: TalkerSettings,
        *,
        replaced: bool,
    ) -> None:
        self.terms = terms
        self.limit = talkers.limit
        self.n_live = 0
        self.latest_start_ns = 0
        self._replaced = replaced
        self._sets = sets
        self._columns: dict[Metric, ValueColumn] = {}
        self._used = 1
        self._free: _Longs = np.zeros(0, np.int64)
        self._n_ended = 0
        self._reported = 0
        self._doubted: _Longs = np.zeros(0, np.int64)
        self._talkers = None if replaced else Talkers(talkers, _FIRST_CAPACITY)
        self._allocate(_FIRST_CAPACITY)
        overflow = sets.intern(OVERFLOW_SET)
        sets.retain(overflow)
        self._own[OVERFLOW_ROW] = overflow
        self._key[OVERFLOW_ROW] = OVERFLOW_KEY
        self._index = self._built_index()
        self._published_keys: SeriesKeys | None = None

    @property
    def metrics(self) -> Sequence[Metric]:
        return tuple(self._columns)

    @property
    def projection(self) -> Projection:
        return self.terms.projection

    def change(self, terms: Terms) -> None:
        """Goes on under other terms: series to which nothing is added under these end."""
        self.terms = terms
        self._doubted = np.arange(self._used)
        for column in self._columns.values():
            column.present[OVERFLOW_ROW] &= not terms.excluded

    def split(self, metrics: Sequence[Metric]) -> SeriesTable:
        """Some of the metrics in a table of their own, with all they have measured."""
        part = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(part, name, value.copy())
        part._talkers = copy.deepcopy(self._talkers)
        part._columns = {metric: self._columns.pop(metric) for metric in metrics}
        part._index = part._built_index()
        for ids in (part._source, part._destination, part._own):
            self._sets.retain_all(ids[: self._used])
        return part

    def doubt(self, endpoints: _Ids) -> None:
        """Ends the series of endpoints, by row, with this window unless it adds something."""
        source, destination = self.projection.having(endpoints)
        used = slice(0, self._used)
        found = source[self._source[used]] | destination[self._destination[used]]
        self._doubted = np.union1d(self._doubted, np.flatnonzero(found))

    def include(self, metric: Metric) -> None:
        """Makes room for the values of a metric."""
        self._columns[metric] = column_for(metric, len(self._key))

    def add(self, increments: Increments) -> Folded | None:
        """Credits the rows of a batch. Returns what there was no room for."""
        self._reported = increments.sequence
        rows, turned_away = self._rows_of(increments)
        self._touched[rows] = increments.sequence
        for metric, values in increments.metrics.items():
            self._columns[metric].add(rows, values, increments.sequence)
        if turned_away is None:
            return None
        return Folded(np.flatnonzero(rows == OVERFLOW_ROW), *turned_away)

    def end(self, sequence: int, time_ns: int) -> None:
        """Ends what is idle or in doubt, what has lost its endpoint, and readings that were not
        repeated."""
        used = slice(0, self._used)
        self._ended_ns[used][self._ended[used] == sequence] = time_ns
        if self._talkers is not None:
            self._talkers.pass_time(time_ns)
        touched = self._touched[used] == sequence
        self._last_seen_ns[used][touched] = time_ns
        idle = time_ns - self._last_seen_ns[used] >= self.terms.idle_ns
        source_alive, destination_alive = self.projection.alive()
        gone = ~source_alive[self._source[used]] | ~destination_alive[self._destination[used]]
        if self._replaced and self._reported == sequence:
            gone[:] = True
        gone[self._doubted] = True
        self._doubted = self._doubted[:0]
        self._end_rows((idle | gone) & ~touched, sequence, time_ns)

    def end_all(self, sequence: int, time_ns: int) -> None:
        """Ends every series: what they measured is measured otherwise from now on."""
        self._ended_ns[: self._used][self._ended[: self._used] == sequence] = time_ns
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

    def _rows_of(self, increments: Increments) -> tuple[_Ids, _TurnedAway | None]:
        keys = pack(*increments.sets)
        rows = self._index.find(keys)
        without = rows == MISSING
        if self._n_ended:
            without |= self._ended[rows] != LIVE
        missing = np.flatnonzero(without)
        turned_away = None
        if self._talkers is not None:
            living = ~without if missing.size else slice(None)
            self._talkers.heard(rows[living], increments.weights[living])
        if missing.size:
            rows[missing], turned_away = self._places(increments, keys, rows, missing)
        if self._born[OVERFLOW_ROW] == 0 and len(rows) and int(rows.min()) == OVERFLOW_ROW:
            self._bear(np.array([OVERFLOW_ROW]), increments.sequence, increments.start_ns)
        return rows, turned_away

    def _places(
        self, increments: Increments, keys: _Keys, rows: _Ids, missing: _Longs
    ) -> tuple[_Ids, _TurnedAway | None]:
        """Rows for those that have no live series: one of their own for whom there is room."""
        wanted, first, place = np.unique(keys[missing], return_index=True, return_inverse=True)
        first = missing[first]
        known = rows[first]
        if self._talkers is None:
            admitted = np.zeros(len(wanted), np.bool_)
            admitted[np.argsort(first)[: self.limit - self.n_live]] = True
            found = self._seated(wanted, first, known, admitted, increments)
        else:
            contenders = Contenders(
                self._digests(wanted),
                self._sets.digests(increments.namespaces(first))
                if self._talkers.settings.per_namespace is not None
                else np.zeros(len(first), np.uint64),
                np.bincount(place, increments.weights[missing], len(wanted)).astype(np.float64),
            )
            verdict = self._talkers.judge(contenders, self._live_rows())
            admitted = verdict.admitted
            self._displace(verdict.displaced, increments.sequence)
            found = self._seated(wanted, first, known, admitted, increments)
            self._talkers.seat(
                found[admitted], verdict.estimates[admitted], contenders.namespaces[admitted]
            )
        turned_away = None if admitted.all() else (wanted[~admitted], first[~admitted])
        return found[place], turned_away

    def _seated(
        self,
        wanted: _Keys,
        first: _Longs,
        known: _Ids,
        admitted: npt.NDArray[np.bool_],
        increments: Increments,
    ) -> _Ids:
        """By wanted key, the row of its series, made or revived if it is admitted."""
        self._revive(known[admitted & (known != MISSING)])
        new = np.flatnonzero(admitted & (known == MISSING))
        new = new[np.argsort(first[new])]
        rows: _Ids = np.where(admitted, known, np.int32(OVERFLOW_ROW))
        rows[new] = self._create(wanted[new], increments.sequence, increments.start_ns)
        return rows

    def _digests(self, keys: _Keys) -> _Keys:
        """What keys say, whatever the ids of their sets are at present."""
        source, destination, own = (self._sets.digests(ids) for ids in unpack(keys))
        mixed: _Keys = source * _MULTIPLIERS[0]
        mixed ^= mixed >> np.uint64(31)
        mixed += destination
        mixed *= _MULTIPLIERS[1]
        mixed ^= mixed >> np.uint64(29)
        mixed += own
        mixed *= _MULTIPLIERS[0]
        mixed ^= mixed >> np.uint64(32)
        return mixed

    def _live_rows(self) -> _Longs:
        live = (self._born[: self._used] > 0) & (self._ended[: self._used] == LIVE)
        live[OVERFLOW_ROW] = False
        return np.flatnonzero(live)

    def _displace(self, rows: _Longs, sequence: int) -> None:
        """Ends series in favour of others; the time of their end is that of the snapshot."""
        if self._talkers is None or rows.size == 0:
            return
        self._talkers.turn_away(rows, self._digests(self._key[rows]))
        self._ended[rows] = sequence
        self._n_ended += len(rows)
        self.n_live -= len(rows)

    def _create(self, keys: _Keys, sequence: int, start_ns: int) -> _Longs:
        if len(keys) == 0:
            return np.zeros(0, np.int64)
        reused, self._free = self._free[: len(keys)], self._free[len(keys) :]
        added = len(keys) - len(reused)
        if self._used + added > len(self._key):
            self._allocate(max(len(self._key) * 3 // 2, self._used + added))
        rows = np.concatenate([reused, np.arange(self._used, self._used + added)])
        self._used += added
        self._key[rows] = keys
        self._source[rows], self._destination[rows], self._own[rows] = unpack(keys)
        for ids in (self._source, self._destination, self._own):
            self._sets.retain_all(ids[rows])
        self._index.insert(keys, rows.astype(np.int32))
        self.n_live += len(rows)
        self._bear(rows, sequence, start_ns)
        return rows

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
        if self._talkers is not None:
            self._talkers.grow(capacity)

    def _built_index(self) -> HashIndex:
        held = np.flatnonzero(self._born[: self._used] > 0)
        held = np.union1d(held, [OVERFLOW_ROW])
        return HashIndex.of(self._key[held], held.astype(np.int32))
