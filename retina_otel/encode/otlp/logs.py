"""Events to ExportLogsServiceRequest bytes, attributes cached by set, integers packed by numpy."""

from __future__ import annotations

import functools
import struct

import numpy as np
import numpy.typing as npt

from retina_otel.encode import protobuf
from retina_otel.encode.event_body import bodies
from retina_otel.encode.otlp.encoder import OtlpLogsEncoder
from retina_otel.encode.otlp.frame import ProtobufAssembler, resource_message
from retina_otel.encode.requests import Rows
from retina_otel.encode.set_cache import SetCache, SetTable
from retina_otel.model.attribute_sets import AttributeSet, AttributeSets
from retina_otel.pipeline.points import EventBlock

_ATTRIBUTES = 6


class LogsEncoder(OtlpLogsEncoder):
    """ExportLogsServiceRequest as protobuf."""

    step = 8192
    _resource = staticmethod(resource_message)
    _assembler_of = ProtobufAssembler

    @functools.cached_property
    def _sets(self) -> SetCache[SetTable]:
        return SetCache(_make_table)

    def _rows(self, block: EventBlock, low: int, high: int) -> Rows:
        return LogRows(block, self._sets.table(block.sets), low, high)


class LogRows:
    """Events [low, high) of a block as `requests.Rows`."""

    def __init__(self, block: EventBlock, table: SetTable, low: int, high: int) -> None:
        n = high - low
        columns = [ids[low:high] for ids in (block.own, block.source, block.destination)]
        table.refresh(*columns)
        parts: list[npt.NDArray[np.object_]] = []
        lengths = np.full(n, 9 + 2, np.int64)
        if block.body:
            texts = _column([_body(text) for text in bodies(block, low, high)])
            parts.append(texts)
            lengths += np.fromiter(map(len, texts), np.int64, n)
        for ids in columns:
            if ids.any():
                parts.append(table.blobs[ids])
                lengths += table.lengths[ids]
        for key, values in block.integers.items():
            objects, sizes = protobuf.integer_attributes(_ATTRIBUTES, key, values[low:high])
            parts.append(objects)
            lengths += sizes
        end = b"\x59" + struct.pack("<q", block.observed_ns) + protobuf.string(12, block.event.name)
        lengths += len(end)
        heads = _heads(block, lengths, low, high)
        self._pieces = np.empty((n, 2 + len(parts)), object)
        self._pieces[:, 0] = heads
        for place, part in enumerate(parts, 1):
            self._pieces[:, place] = part
        self._pieces[:, -1] = end
        self.sizes: npt.NDArray[np.int64] = lengths + protobuf.varint_widths(lengths) + 1

    def pieces(self, low: int, high: int) -> list[bytes]:
        return self._pieces[low:high].ravel().tolist()


def _heads(
    block: EventBlock, lengths: npt.NDArray[np.int64], low: int, high: int
) -> npt.NDArray[np.object_]:
    """Tag, length, time and severity of each record."""
    times = np.ascontiguousarray(block.time_ns[low:high], "<i8").view(np.uint8).reshape(-1, 8)
    widths = protobuf.varint_widths(lengths)
    out = np.empty(high - low, object)
    for width in np.unique(widths).tolist():
        rows = np.flatnonzero(widths == width)
        template = b"\x12" + bytes(width) + b"\x09" + bytes(8) + bytes((0x10, block.event.severity))
        packed = np.frombuffer(bytearray(template * len(rows)), np.uint8).reshape(len(rows), -1)
        packed[:, 1 : 1 + width] = protobuf.varint_bytes(lengths[rows], width)
        packed[:, 2 + width : 10 + width] = times[rows]
        out[rows] = protobuf.split(packed)
    return out


def _body(text: str) -> bytes:
    encoded = protobuf.utf8(text)
    length = len(encoded)
    if length < 126:
        return b"\x2a%c\x0a%c%b" % (length + 2, length, encoded)
    return protobuf.delimited(5, protobuf.delimited(1, encoded))


def _column(values: list[bytes]) -> npt.NDArray[np.object_]:
    out = np.empty(len(values), object)
    out[:] = values
    return out


def _build(pairs: AttributeSet) -> bytes:
    return protobuf.attributes(_ATTRIBUTES, pairs)


def _make_table(sets: AttributeSets) -> SetTable:
    return SetTable(sets, _build)
