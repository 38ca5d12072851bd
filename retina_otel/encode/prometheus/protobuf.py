"""Points as delimited io.prometheus.client.MetricFamily messages, in chunks.

A family is one message however many series it has, so its length is summed up before its first
byte is written. Values are packed by numpy, bytes of labels are cached by set.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from retina_otel.encode import protobuf
from retina_otel.encode.prometheus.escaping import Naming
from retina_otel.encode.prometheus.families import TARGET_INFO, Families, Family, Rows, scope_labels
from retina_otel.encode.prometheus.labels import label_pairs
from retina_otel.encode.prometheus.names import unit_word
from retina_otel.model.batches import AttributeValue, Histogram
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.points import PointBlock

_TYPE = {Kind.COUNTER: 0, Kind.GAUGE: 1, Kind.UPDOWN: 1, Kind.HISTOGRAM: 4}
_VALUE_FIELD = {Kind.COUNTER: 3, Kind.GAUGE: 2, Kind.UPDOWN: 2, Kind.HISTOGRAM: 7}
_CREATED_FIELD = {Kind.COUNTER: 3, Kind.HISTOGRAM: 15}
_METRIC = b"\x22"
_STEP = 4096
"""Series written at a time: about 2 MB."""

_Objects = npt.NDArray[np.object_]
_Sizes = npt.NDArray[np.int64]


class _Messages:
    """Field 4 of one family for n series, as columns of pieces that make it when joined."""

    def __init__(self, n: int) -> None:
        self.sizes: _Sizes = np.zeros(n, np.int64)
        self._columns: list[_Objects | bytes] = []

    def add(self, pieces: _Objects | bytes, sizes: _Sizes | int) -> None:
        self._columns.append(pieces)
        self.sizes += sizes

    def put_first(self, tag: bytes) -> None:
        """Makes what is there so far a field."""
        heads, rows = np.unique(self.sizes, return_inverse=True)
        texts = _objects([tag + protobuf.varint(size) for size in heads.tolist()])
        self._columns.insert(0, texts[rows])
        self.sizes += protobuf.varint_widths(self.sizes) + len(tag)

    def take(self, other: _Messages) -> None:
        """What `other` has, behind what is there."""
        self._columns += other._columns
        self.sizes += other.sizes

    def chunks(self) -> Iterator[bytes]:
        for low in range(0, len(self.sizes), _STEP):
            some = slice(low, low + _STEP)
            pieces = np.empty((len(self.sizes[some]), len(self._columns)), object)
            for place, column in enumerate(self._columns):
                pieces[:, place] = column if isinstance(column, bytes) else column[some]
            yield b"".join(pieces.ravel().tolist())


class ProtobufRenderer:
    """Renders scrapes. Keeps bytes of attribute sets only; one thread at a time."""

    def __init__(
        self, resource: Mapping[str, AttributeValue], naming: Naming | None = None
    ) -> None:
        self.families = Families(resource, naming or Naming(), label_pairs)

    def chunks(self, blocks: Iterable[PointBlock]) -> Iterator[bytes]:
        """A scrape, about 2 MB at a time. Blocks must be cumulative; ValueError if one is not."""
        if self.families.target:
            yield self._target_info()
        for family in self.families.of(blocks):
            yield from self._family(family)

    def _target_info(self) -> bytes:
        labels = label_pairs(self.families.target)
        body = _head(TARGET_INFO, "Target metadata", Kind.GAUGE)
        body += protobuf.delimited(4, labels + protobuf.delimited(2, _double(1, 1.0)))
        return protobuf.varint(len(body)) + body

    def _family(self, family: Family) -> Iterator[bytes]:
        head = _head(family.name, family.metric.brief, family.metric.kind)
        unit = unit_word(family.metric.unit, family.metric.kind)
        tail = protobuf.string(5, unit) if family.stem.endswith(f"_{unit}") else b""
        messages = [self._messages(block, rows) for block, rows in self.families.rows(family)]
        size = len(head) + len(tail) + sum(int(each.sizes.sum()) for each in messages)
        yield protobuf.varint(size) + head
        for each in messages:
            yield from each.chunks()
        yield tail

    def _messages(self, block: PointBlock, rows: Rows) -> _Messages:
        kind = block.metric.kind
        out = _Messages(len(rows))
        if isinstance(block.values, Histogram):
            _add_histograms(out, block.metric, block.values, rows)
        else:
            out.add(_doubles(1, block.values[rows]), 9)
        if kind in _CREATED_FIELD:
            out.add(*_created(_CREATED_FIELD[kind], block.start_ns[rows]))
        out.put_first(bytes((_VALUE_FIELD[kind] << 3 | 2,)))
        labels, lengths = self.families.parts(block, rows)
        scope = label_pairs(scope_labels(block.metric.scope))
        out.add(scope, len(scope))
        out.add(labels[0], lengths)
        for part in labels[1:]:
            out.add(part, 0)
        out.put_first(_METRIC)
        return out


def _head(name: str, brief: str, kind: Kind) -> bytes:
    kind_field = b"\x18" + protobuf.varint(_TYPE[kind])
    return protobuf.string(1, name) + protobuf.string(2, brief) + kind_field


def _add_histograms(out: _Messages, metric: Metric, values: Histogram, rows: Rows) -> None:
    """The bucket without a bound is left out: the count says it."""
    counts = np.cumsum(values.counts[rows], axis=1)
    out.add(*_integers(b"\x08", counts[:, -1], b""))
    out.add(_doubles(2, values.sums[rows]), 9)
    for bucket, bound in enumerate(metric.boundaries):
        column, sizes = _integers(b"\x08", counts[:, bucket], _double(2, bound))
        bodies = _Messages(len(rows))
        bodies.add(column, sizes)
        bodies.put_first(b"\x1a")
        out.take(bodies)


def _double(number: int, value: float) -> bytes:
    return bytes((number << 3 | 1,)) + struct.pack("<d", value)


def _doubles(number: int, values: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> _Objects:
    packed = np.empty((len(values), 9), np.uint8)
    packed[:, 0] = number << 3 | 1
    packed[:, 1:] = values.astype("<f8").view(np.uint8).reshape(-1, 8)
    return _objects(protobuf.split(packed))


def _integers(tag: bytes, values: npt.NDArray[np.int64], after: bytes) -> tuple[_Objects, _Sizes]:
    """A varint field for each of `values`, and `after` behind it."""
    values = np.ascontiguousarray(values)
    widths = protobuf.varint_widths(values)
    out = np.empty(len(values), object)
    for width in np.unique(widths).tolist():
        rows = np.flatnonzero(widths == width)
        packed = np.frombuffer(bytearray((tag + bytes(width) + after) * len(rows)), np.uint8)
        packed = packed.reshape(len(rows), -1)
        packed[:, len(tag) : len(tag) + width] = protobuf.varint_bytes(values[rows], width)
        out[rows] = protobuf.split(packed)
    return out, widths + len(tag) + len(after)


def _created(number: int, times_ns: npt.NDArray[np.int64]) -> tuple[_Objects, _Sizes]:
    """Timestamps as field `number`: many series share a start, so each is written once."""
    times, rows = np.unique(times_ns, return_inverse=True)
    texts = _objects([protobuf.delimited(number, _timestamp(time)) for time in times.tolist()])
    sizes = np.array(list(map(len, texts)), np.int64)
    return texts[rows], sizes[rows]


def _timestamp(time_ns: int) -> bytes:
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    out = b"\x08" + protobuf.varint(seconds) if seconds else b""
    return out + (b"\x10" + protobuf.varint(nanoseconds) if nanoseconds else b"")


def _objects(texts: list[bytes]) -> _Objects:
    out = np.empty(len(texts), object)
    out[:] = texts
    return out
