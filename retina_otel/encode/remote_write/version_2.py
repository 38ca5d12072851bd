"""Remote write 2.0: points as `io.prometheus.write.v2.Request`, whose strings are numbers.

What a string's number is differs from request to request, so what is kept of an attribute set is
its strings' numbers in a table of the encoder's own; each request numbers the strings that it uses
anew, and writes the references of each set once.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retina_otel.encode import protobuf
from retina_otel.encode.remote_write import histograms
from retina_otel.encode.remote_write.labels import Build, Labels, Stretch
from retina_otel.encode.remote_write.requests import RemoteWriteEncoder
from retina_otel.encode.remote_write.series import TARGET_INFO, Family, Run, Samples, SeriesOptions
from retina_otel.encode.set_cache import SetTable
from retina_otel.model.attribute_sets import AttributeSets

_SYMBOL, _SERIES = 4, 5
_REFERENCES, _SAMPLE, _METADATA = 1, 2, 5
_SERIES_TAG, _REFERENCES_TAG = b"\x2a", b"\x0a"
_AROUND_SERIES = 64
"""Bytes of a series at most, but for its references."""
_WIDEST_REFERENCE = 3
"""Bytes of a reference in a request of sensible size: two million strings."""
_LEAST_ADDED = 512
"""A request that has no room for so many more points of a run is full: to fill its last bytes costs
more than another request."""
_STRINGS_KEPT = 1 << 17
_Objects = npt.NDArray[np.object_]
_Numbers = npt.NDArray[np.int64]


def encoder(options: SeriesOptions) -> RemoteWriteEncoder:
    return RemoteWriteEncoder(options, _Format)


class _Strings:
    """All strings of the encoder, numbered, the empty one first; of each the field that it is in a
    request."""

    def __init__(self) -> None:
        self._number_of: dict[str, int] = {}
        self._requests = 0
        self.fields: _Objects = np.empty(64, object)
        self.sizes: _Numbers = np.zeros(64, np.int64)
        self.used = np.zeros(64, bool)
        """Which were in a request since `outgrown` was asked."""
        self.number("")

    def __len__(self) -> int:
        return len(self._number_of)

    def number(self, text: str) -> int:
        known = len(self._number_of)
        number = self._number_of.setdefault(text, known)
        if number == known:
            if number == len(self.fields):
                self.fields = np.concatenate([self.fields, np.empty_like(self.fields)])
                self.sizes = np.concatenate([self.sizes, np.zeros_like(self.sizes)])
                self.used = np.concatenate([self.used, np.zeros_like(self.used)])
            field = protobuf.delimited(_SYMBOL, protobuf.utf8(text))
            self.fields[number] = field
            self.sizes[number] = len(field)
        return number

    def next_request(self) -> int:
        self._requests += 1
        return self._requests

    def outgrown(self) -> bool:
        """Whether most of them, and many, are in no request any more."""
        n_used = int(self.used.sum())
        self.used[:] = False
        return len(self) > max(_STRINGS_KEPT, 2 * n_used)

    def numbers(self, labels: Labels) -> bytes:
        """Names and values in turn, as int64."""
        return np.array([self.number(text) for pair in labels for text in pair], np.int64).tobytes()


class _References(SetTable):
    """Of each set the numbers of its strings, and the references that they are in a request."""

    def __init__(self, sets: AttributeSets, labels_of: Build, strings: _Strings) -> None:
        super().__init__(sets, lambda attributes: strings.numbers(labels_of(attributes)))
        self.references: _Objects = np.empty(0, object)
        self.sizes: _Numbers = np.empty(0, np.int64)
        self._written_in: _Numbers = np.empty(0, np.int64)

    def grow(self, size: int) -> None:
        super().grow(size)
        self.references = np.resize(self.references, size)
        self.sizes = np.resize(self.sizes, size)
        self._written_in = np.full(size, -1)

    def missing(self, ids: npt.NDArray[np.int32], request: int) -> npt.NDArray[np.intp]:
        """Of these sets, those whose references were not written in this request yet."""
        used = np.zeros(len(self.blobs), bool)
        used[ids] = True
        return np.flatnonzero(used & (self._written_in != request))

    def numbers(self, sets: npt.NDArray[np.intp]) -> _Numbers:
        """The numbers of the sets' strings, all in a row."""
        return np.frombuffer(b"".join(self.blobs[sets].tolist()), np.int64)

    def write(self, sets: npt.NDArray[np.intp], values: _Numbers, request: int) -> None:
        """Writes the references of sets: `values` are those of all their strings, in a row."""
        if not len(sets):
            return
        ends = np.cumsum(protobuf.varint_widths(values))
        ends = ends[np.cumsum(self.lengths[sets] // 8) - 1]
        text = protobuf.varints(values)
        bounds = [0, *ends.tolist()]
        self.references[sets] = [text[low:high] for low, high in itertools.pairwise(bounds)]
        self.sizes[sets] = np.diff(bounds)
        self._written_in[sets] = request


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What points `low` to `high` of a run add to a request."""

    low: int
    high: int
    strings: npt.NDArray[np.intp]
    sets: list[tuple[_References, npt.NDArray[np.intp], _Numbers]]
    """Sets whose references are to be written, with the numbers of their strings."""


_NOTHING = _Wanted(0, 0, np.empty(0, np.intp), [])


class _Format:
    def __init__(self) -> None:
        self._strings = _Strings()

    def writer(self) -> _Writer:
        return _Writer(self._strings)

    def outgrown(self) -> bool:
        return self._strings.outgrown()


class _Writer:
    """Requests of version 2.0."""

    def __init__(self, strings: _Strings) -> None:
        self._strings = strings
        self._begin_request()

    def _begin_request(self) -> None:
        self.empty = True
        self._request = self._strings.next_request()
        self._local = np.zeros(len(self._strings), np.int64)
        self._symbols: list[bytes] = [protobuf.delimited(_SYMBOL, b"")]
        self._pieces: list[bytes] = []
        self._size = len(self._symbols[0])
        self._looked = _NOTHING

    def begin(self, run: Run) -> None:
        self._run = run
        self._looked = _NOTHING
        self._tables: dict[Stretch, tuple[_References, npt.NDArray[np.int32]]] = {}
        bounds = np.full(len(run), _AROUND_SERIES * len(run.samples), np.int64)
        self._histograms: histograms.Fields | None = None
        for samples in run.samples:
            if samples.buckets is not None:
                assert run.start_ms is not None
                self._histograms = histograms.fields(
                    samples.buckets, samples.values, run.time_ms, run.start_ms
                )
                bounds += self._histograms.sizes
            for stretch in samples.layout:
                if stretch.fixed:
                    bounds += 2 * len(stretch.fixed) * _WIDEST_REFERENCE
                    continue
                if stretch not in self._tables:
                    column, ids = run.columns[stretch.column], run.ids[stretch.column]
                    table = column.stretch(stretch.low, stretch.high, self._make)
                    table.refresh(ids)
                    self._tables[stretch] = table, ids
                table, ids = self._tables[stretch]
                bounds += table.lengths[ids] // 8 * _WIDEST_REFERENCE
        self._bounds = np.cumsum(bounds)
        strings = {run.family.unit, run.family.help}
        strings.update(*(pair for each in run.samples for pair in each.fixed.items()))
        self._fixed = np.array([self._strings.number(text) for text in strings], np.int64)
        missing = len(self._strings) - len(self._local)
        self._local = np.concatenate([self._local, np.zeros(missing, np.int64)])

    def _look(self, low: int, high: int) -> _Wanted:
        """What points `low` to `high` need that the request does not have yet."""
        if (self._looked.low, self._looked.high) == (low, high):
            return self._looked
        used = np.zeros(len(self._local), bool)
        used[self._fixed] = True
        sets = []
        for table, ids in self._tables.values():
            missing = table.missing(ids[low:high], self._request)
            numbers = table.numbers(missing)
            used[numbers] = True
            sets.append((table, missing, numbers))
        used[0] = False
        self._looked = _Wanted(low, high, np.flatnonzero(used & (self._local == 0)), sets)
        return self._looked

    def room(self, low: int, max_bytes: int) -> int:
        left = max_bytes - self._size
        done = int(self._bounds[low - 1]) if low else 0
        high = int(np.searchsorted(self._bounds, done + left, side="right"))
        least = 1 if self.empty else min(len(self._run) - low, _LEAST_ADDED)
        while high - low >= least:
            strings = int(self._strings.sizes[self._look(low, high).strings].sum())
            if int(self._bounds[high - 1]) - done + strings <= left:
                return high
            high = low + (high - low) // 2
        return low

    def add(self, low: int, high: int) -> None:
        self.empty = False
        wanted = self._look(low, high)
        self._looked = _NOTHING
        self._number(wanted.strings)
        for table, sets, numbers in wanted.sets:
            table.write(sets, self._local[numbers], self._request)
        columns: list[_Objects | bytes] = []
        sizes = 0
        for samples in self._run.samples:
            series, size = self._series(samples, low, high)
            columns += series
            sizes += size
        rows = np.empty((high - low, len(columns)), object)
        for place, column in enumerate(columns):
            rows[:, place] = column
        self._pieces += rows.ravel().tolist()
        self._size += sizes

    def add_target_info(self, labels: Labels, time_ms: int) -> None:
        self.empty = False
        numbers = np.frombuffer(self._strings.numbers(labels), np.int64)
        told = np.array([self._strings.number(TARGET_INFO.help)])
        self._local = np.zeros(len(self._strings), np.int64)
        self._number(np.unique(np.concatenate([numbers, told])))
        sample = b"\x09" + np.float64(1.0).tobytes() + b"\x10" + protobuf.varint(time_ms)
        series = protobuf.delimited(_REFERENCES, protobuf.varints(self._local[numbers]))
        series += protobuf.delimited(_SAMPLE, sample) + self._metadata(TARGET_INFO)
        self._pieces.append(protobuf.delimited(_SERIES, series))
        self._size += len(self._pieces[-1])

    def finish(self) -> bytes:
        body = b"".join([*self._symbols, *self._pieces])
        self._begin_request()
        return body

    def _make(self, sets: AttributeSets, labels_of: Build) -> _References:
        return _References(sets, labels_of, self._strings)

    def _number(self, new: npt.NDArray[np.intp]) -> None:
        """Adds strings to the request's table."""
        self._local[new] = np.arange(len(self._symbols), len(self._symbols) + len(new))
        self._symbols += self._strings.fields[new].tolist()
        self._size += int(self._strings.sizes[new].sum())
        self._strings.used[new] = True

    def _series(self, samples: Samples, low: int, high: int) -> tuple[list[_Objects | bytes], int]:
        """What stands beside each other in one series of each point, and its bytes in all."""
        run, n = self._run, high - low
        columns: list[_Objects | bytes] = []
        references = np.zeros(n, np.int64)
        for stretch in samples.layout:
            if stretch.fixed:
                pairs = [(name, samples.fixed[name]) for name in stretch.fixed]
                text = protobuf.varints(
                    self._local[[self._strings.number(one) for pair in pairs for one in pair]]
                )
                columns.append(text)
                references += len(text)
            else:
                table, ids = self._tables[stretch]
                columns.append(table.references[ids[low:high]])
                references += table.sizes[ids[low:high]]
        metadata = self._metadata(run.family)
        tail, tail_size = self._tail(samples, low, high, metadata)
        bodies = 1 + protobuf.varint_widths(references) + references
        bodies += tail_size + len(metadata)
        head: list[protobuf.Part] = [_SERIES_TAG, bodies, _REFERENCES_TAG, references]
        first = columns[0]
        if isinstance(first, bytes):
            head.append(first)
            del columns[0]
        columns = [protobuf.records(n, head), *columns, *tail]
        return columns, int((bodies + protobuf.varint_widths(bodies) + 1).sum())

    def _tail(
        self, samples: Samples, low: int, high: int, metadata: bytes
    ) -> tuple[list[_Objects | bytes], _Numbers]:
        """Sample or histogram of each point with the metadata, and its bytes without them."""
        run, n = self._run, high - low
        if self._histograms is not None:
            found = self._histograms
            heads, deltas = found.heads[low:high], found.deltas[low:high]
            return [heads, deltas, found.bounds + metadata], found.sizes[low:high]
        values = samples.values[low:high].view(np.uint8).reshape(n, 8)
        time_ms = run.time_ms[low:high]
        sample = 10 + protobuf.varint_widths(time_ms)
        parts: list[protobuf.Part] = [b"\x12", sample, b"\x09", values, b"\x10", time_ms]
        if run.start_ms is not None:
            start_ms = run.start_ms[low:high]
            sample += 1 + protobuf.varint_widths(start_ms)
            parts += [b"\x18", start_ms]
        parts.append(metadata)
        return [protobuf.records(n, parts)], 1 + protobuf.varint_widths(sample) + sample

    def _metadata(self, family: Family) -> bytes:
        told = b"\x08" + protobuf.varint(family.type)
        for field, text in ((b"\x18", family.help), (b"\x20", family.unit)):
            if text:
                told += field + protobuf.varint(int(self._local[self._strings.number(text)]))
        return protobuf.delimited(_METADATA, told)
