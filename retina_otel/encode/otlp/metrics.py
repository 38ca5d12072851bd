"""Points to ExportMetricsServiceRequest bytes: attributes cached by set, the rest packed by numpy.

A point is a fixed-width head (times and value) followed by the bytes of its three attribute sets,
so an export costs a join and no message objects.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_otel.encode import protobuf
from retina_otel.encode.otlp.encoder import OtlpMetricsEncoder
from retina_otel.encode.otlp.frame import ProtobufAssembler, resource_message
from retina_otel.encode.requests import Envelope, Rows
from retina_otel.encode.set_cache import SetCache, SetTable
from retina_otel.model.attribute_sets import AttributeSet, AttributeSets
from retina_otel.model.batches import Histogram
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.points import PointBlock, Temporality

_DATA_FIELD = {Kind.GAUGE: 5, Kind.COUNTER: 7, Kind.UPDOWN: 7, Kind.HISTOGRAM: 9}
_TEMPORALITY = {Temporality.DELTA: 1, Temporality.CUMULATIVE: 2}
_NUMBER_ATTRIBUTES, _HISTOGRAM_ATTRIBUTES = 7, 9
_NO_RECORDED_VALUE = 1


class MetricsEncoder(OtlpMetricsEncoder):
    """ExportMetricsServiceRequest as protobuf."""

    _resource = staticmethod(resource_message)
    _assembler_of = ProtobufAssembler

    @functools.cached_property
    def _numbers(self) -> SetCache[SetTable]:
        return SetCache(_table_maker(_NUMBER_ATTRIBUTES))

    @functools.cached_property
    def _histograms(self) -> SetCache[SetTable]:
        return SetCache(_table_maker(_HISTOGRAM_ATTRIBUTES))

    @staticmethod
    def _envelope(metric: Metric, temporality: Temporality) -> Envelope:
        head = protobuf.string(1, metric.name)
        head += protobuf.string(2, metric.brief) + protobuf.string(3, metric.unit)
        tail = b""
        if metric.kind is not Kind.GAUGE:
            tail += b"\x10" + protobuf.varint(_TEMPORALITY[temporality])
        if metric.monotonic:
            tail += b"\x18\x01"
        return Envelope(head, protobuf.varint(_DATA_FIELD[metric.kind] << 3 | 2), tail)

    def _rows(self, block: PointBlock) -> Iterator[Rows]:
        cache = self._histograms if block.metric.kind is Kind.HISTOGRAM else self._numbers
        yield PointRows(block, cache.table(block.sets))


class PointRows:
    """The points of one block as `requests.Rows`."""

    def __init__(self, block: PointBlock, table: SetTable) -> None:
        table.refresh(block.source, block.destination, block.own)
        self._block = block
        self._columns = [
            ids for ids in (block.source, block.destination, block.own) if ids.any()
        ] or [block.own]
        self._table = table
        attributes = table.lengths[self._columns[0]].astype(np.int64)
        for ids in self._columns[1:]:
            attributes += table.lengths[ids]
        ended = block.no_value
        fixed = np.where(ended, _head_size(block, True), _head_size(block, False))
        self._bodies = fixed + attributes
        widths = protobuf.varint_widths(self._bodies)
        self.sizes: npt.NDArray[np.int64] = self._bodies + widths + 1
        self._forms = widths << 1 | ended

    def pieces(self, low: int, high: int) -> list[bytes]:
        out = np.empty((high - low, 1 + len(self._columns)), object)
        forms = self._forms[low:high]
        if (forms == forms[0]).all():
            out[:, 0] = self._heads(slice(low, high), high - low, int(forms[0]))
        else:
            for form in np.unique(forms).tolist():
                rows = np.flatnonzero(forms == form)
                out[rows, 0] = self._heads(rows + low, len(rows), form)
        for place, ids in enumerate(self._columns, 1):
            out[:, place] = self._table.blobs[ids[low:high]]
        return out.ravel().tolist()

    def _heads(self, rows: slice | npt.NDArray[np.intp], n: int, form: int) -> list[bytes]:
        """Tag, length and fixed-width fields of `rows`, which all have the same form."""
        block = self._block
        width, ended = form >> 1, bool(form & 1)
        template, offsets = _head(block.metric, ended)
        packed = np.frombuffer(bytearray((b"\x0a" + bytes(width) + template) * n), np.uint8)
        packed = packed.reshape(n, -1)
        packed[:, 1 : 1 + width] = protobuf.varint_bytes(self._bodies[rows], width)

        def put(name: str, column: npt.NDArray[Any], dtype: str) -> None:
            offset = offsets[name] + 1 + width
            cells = np.ascontiguousarray(column, dtype).reshape(n, -1).view(np.uint8)
            packed[:, offset : offset + cells.shape[1]] = cells

        put("time", block.time_ns[rows], "<i8")
        if "start" in offsets:
            put("start", block.start_ns[rows], "<i8")
        if not ended:
            values = block.values
            if isinstance(values, Histogram):
                put("count", values.counts[rows].sum(axis=1), "<i8")
                put("sum", values.sums[rows], "<f8")
                put("buckets", values.counts[rows], "<i8")
            else:
                put("value", values[rows], "<i8" if block.metric.integer else "<f8")
        return protobuf.split(packed)


@functools.lru_cache(maxsize=1024)
def _head(metric: Metric, ended: bool) -> tuple[bytes, dict[str, int]]:
    """Fixed-width fields of a point with zeros for values, and where each value goes.

    A point of an ended histogram keeps its bounds and zero buckets: without them a Prometheus
    remote-write exporter can't mark the series of its buckets stale.
    """
    out = bytearray()
    offsets: dict[str, int] = {}

    def room(tag: bytes, name: str, size: int = 8) -> None:
        out.extend(tag)
        offsets[name] = len(out)
        out.extend(bytes(size))

    if metric.kind is not Kind.GAUGE:
        room(b"\x11", "start")
    room(b"\x19", "time")
    if metric.kind is Kind.HISTOGRAM:
        room(b"\x21", "count")
        if not ended:
            room(b"\x29", "sum")
        buckets = 8 * (len(metric.boundaries) + 1)
        room(b"\x32" + protobuf.varint(buckets), "buckets", buckets)
        if metric.boundaries:
            bounds = np.array(metric.boundaries, "<f8").tobytes()
            out.extend(protobuf.delimited(7, bounds))
        if ended:
            out.extend((0x50, _NO_RECORDED_VALUE))
    elif ended:
        out.extend((0x40, _NO_RECORDED_VALUE))
    else:
        room(b"\x31" if metric.integer else b"\x21", "value")
    return bytes(out), offsets


def _head_size(block: PointBlock, ended: bool) -> int:
    return len(_head(block.metric, ended)[0])


def _table_maker(number: int) -> Any:
    def build(pairs: AttributeSet) -> bytes:
        return protobuf.attributes(number, pairs)

    def make(sets: AttributeSets) -> SetTable:
        return SetTable(sets, build)

    return make
