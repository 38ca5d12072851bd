"""Remote write 1.0: points as `prometheus.WriteRequest`, by the bytes of cached labels.

A series is the labels of its sets with those of its metric between them, and a sample of fixed
width. Each request has the metadata of the metrics in it.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from retina_otel.encode import protobuf
from retina_otel.encode.remote_write.labels import Build, Labels, Stretch
from retina_otel.encode.remote_write.requests import RemoteWriteEncoder
from retina_otel.encode.remote_write.series import TARGET_INFO, Family, Run, Samples, SeriesOptions
from retina_otel.encode.set_cache import SetTable
from retina_otel.model.attribute_sets import AttributeSets

_SERIES, _METADATA = 1, 3
_LABEL, _SAMPLE = 1, 2
_BYTES = [bytes((size,)) for size in range(128)]
"""Lengths that are varints of one byte."""
_Objects = npt.NDArray[np.object_]


def encoder(options: SeriesOptions) -> RemoteWriteEncoder:
    if options.native_histograms:
        raise ValueError("remote write 1.0 has no custom buckets")
    return RemoteWriteEncoder(options, _Format)


class _Format:
    def writer(self) -> _Writer:
        return _Writer()

    def outgrown(self) -> bool:
        return False


class _Writer:
    """Requests of version 1.0."""

    def __init__(self) -> None:
        self.empty = True
        self._pieces: list[bytes] = []
        self._size = 0
        self._families: dict[Family, bytes] = {}
        self._run: Run | None = None
        self._rows: _Objects = np.empty((0, 0), object)
        self._ends: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def begin(self, run: Run) -> None:
        columns: list[_Objects | bytes] = []
        sizes = np.zeros(len(run), np.int64)
        for samples in run.samples:
            series, lengths = _series(run, samples)
            columns += series
            sizes += lengths
        self._rows = np.empty((len(run), len(columns)), object)
        for place, column in enumerate(columns):
            self._rows[:, place] = column
        self._ends = np.cumsum(sizes)
        self._run = run

    def room(self, low: int, max_bytes: int) -> int:
        assert self._run is not None
        left = max_bytes - self._size
        if self._run.family not in self._families:
            left -= len(_metadata(self._run.family))
        done = int(self._ends[low - 1]) if low else 0
        return max(low, int(np.searchsorted(self._ends, done + left, side="right")))

    def add(self, low: int, high: int) -> None:
        assert self._run is not None
        self._tell(self._run.family)
        self._pieces += self._rows[low:high].ravel().tolist()
        self._size += int(self._ends[high - 1]) - (int(self._ends[low - 1]) if low else 0)

    def add_target_info(self, labels: Labels, time_ms: int) -> None:
        self._tell(TARGET_INFO)
        sample = b"\x09" + np.float64(1.0).tobytes() + b"\x10" + protobuf.varint(time_ms)
        series = _encoded(labels) + protobuf.delimited(_SAMPLE, sample)
        self._pieces.append(protobuf.delimited(_SERIES, series))
        self._size += len(self._pieces[-1])

    def finish(self) -> bytes:
        body = b"".join([*self._pieces, *self._families.values()])
        self._pieces, self._families = [], {}
        self._size, self.empty = 0, True
        return body

    def _tell(self, family: Family) -> None:
        self.empty = False
        if family not in self._families:
            self._families[family] = _metadata(family)
            self._size += len(self._families[family])


def _series(run: Run, samples: Samples) -> tuple[list[_Objects | bytes], npt.NDArray[np.int64]]:
    """What stands beside each other in one series of each point, and how long that is."""
    n = len(run)
    columns: list[_Objects | bytes] = []
    sizes = np.zeros(n, np.int64)
    for stretch in samples.layout:
        if stretch.fixed:
            text = _encoded(tuple((name, samples.fixed[name]) for name in stretch.fixed))
            columns.append(text)
            sizes += len(text)
            continue
        table, ids = _table(run, stretch)
        columns.append(table.blobs[ids])
        sizes += table.lengths[ids]
    values = samples.values.view(np.uint8).reshape(n, 8)
    widths = protobuf.varint_widths(run.time_ms)
    tail: list[protobuf.Part] = [b"\x12", widths + 10, b"\x09", values, b"\x10", run.time_ms]
    sizes += widths + 12
    head: list[protobuf.Part] = [protobuf.varint(_SERIES << 3 | 2), sizes]
    first = columns[0]
    if isinstance(first, bytes):
        head.append(first)
        del columns[0]
    columns = [protobuf.records(n, head), *columns, protobuf.records(n, tail)]
    return columns, sizes + protobuf.varint_widths(sizes) + 1


def _table(run: Run, stretch: Stretch) -> tuple[SetTable, npt.NDArray[np.int32]]:
    ids = run.ids[stretch.column]
    table = run.columns[stretch.column].stretch(stretch.low, stretch.high, _make)
    table.refresh(ids)
    return table, ids


def _make(sets: AttributeSets, labels_of: Build) -> SetTable:
    return SetTable(sets, lambda attributes: _encoded(labels_of(attributes)))


def _encoded(labels: Labels) -> bytes:
    return b"".join([_label(name, text) for name, text in labels])


def _label(name: str, text: str) -> bytes:
    field, value = _name(name), protobuf.utf8(text)
    size = len(field) + 2 + len(value)
    if size < len(_BYTES):
        return b"\x0a" + _BYTES[size] + field + b"\x12" + _BYTES[len(value)] + value
    return protobuf.delimited(_LABEL, field + protobuf.delimited(2, value))


@functools.lru_cache(maxsize=4096)
def _name(name: str) -> bytes:
    return protobuf.string(1, name)


@functools.lru_cache(maxsize=1024)
def _metadata(family: Family) -> bytes:
    told = b"\x08" + protobuf.varint(family.type) + protobuf.string(2, family.name)
    told += protobuf.string(4, family.help) + protobuf.string(5, family.unit)
    return protobuf.delimited(_METADATA, told)
