"""OTLP/JSON, one request a line, as the Collector's file exporter writes it.

64-bit integers are strings, enumerations numbers, names camelCase, fields with default values left
out, in the Collector's order. NaN and infinities are the strings of proto3's JSON mapping, which
the Collector reads too.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from retina_otel.encode.event_body import bodies
from retina_otel.encode.otlp.encoder import OtlpLogsEncoder, OtlpMetricsEncoder
from retina_otel.encode.protobuf import INT64_MAX, INT64_MIN, utf8
from retina_otel.encode.requests import Assembler, Envelope, Rows, Scopes
from retina_otel.encode.scopes import EntityRef, entities_of, scope_identity
from retina_otel.encode.set_cache import SetCache, SetTable
from retina_otel.model.attribute_sets import AttributeSet, AttributeSets
from retina_otel.model.batches import AttributeValue, Histogram
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.points import EventBlock, PointBlock, Temporality

_DATA = {
    Kind.GAUGE: "gauge",
    Kind.COUNTER: "sum",
    Kind.UPDOWN: "sum",
    Kind.HISTOGRAM: "histogram",
}
_TEMPORALITY = {Temporality.DELTA: 1, Temporality.CUMULATIVE: 2}
_STEP = 4096
"""Rows built at a time: bounds what a large block costs in memory."""
_BEFORE_RESOURCE = b'{"resource":'
_END = b"]}\n"


def _write_envelope(metric: Metric, temporality: Temporality) -> Envelope:
    fields = [
        _optional(name, text)
        for name, text in (
            ("name", metric.name),
            ("description", metric.brief),
            ("unit", metric.unit),
        )
        if text
    ]
    head = "{" + ",".join([*fields, f'"{_DATA[metric.kind]}":{{"dataPoints":['])
    tail = "]"
    if metric.kind is not Kind.GAUGE:
        tail += f',"aggregationTemporality":{_TEMPORALITY[temporality]}'
    if metric.monotonic:
        tail += ',"isMonotonic":true'
    return Envelope(utf8(head), b"", utf8(tail + "}},"))


def _write_resource(attributes: AttributeSet, *, entity_refs: bool) -> bytes:
    """A Resource object; with `entity_refs` it says which entities it stands for."""
    listed = _attributes(attributes)
    fields = [f'"attributes":[{listed[1:]}]'] if listed else []
    refs = entities_of(attributes) if entity_refs else ()
    if refs:
        fields.append(f'"entityRefs":[{",".join(map(_entity_ref, refs))}]')
    return utf8("{" + ",".join(fields) + "}")


class JsonMetricsEncoder(OtlpMetricsEncoder):
    """Lines `{"resourceMetrics":[...]}`, each ending in a newline."""

    _resource = staticmethod(_write_resource)
    _envelope = staticmethod(_write_envelope)

    @functools.cached_property
    def _sets(self) -> SetCache[SetTable]:
        return SetCache(_make_table)

    @staticmethod
    def _assembler_of(resource: bytes, schema_url: str) -> Assembler:
        return _JsonAssembler("Metrics", "metrics", resource, schema_url)

    def _rows(self, block: PointBlock) -> Iterator[Rows]:
        for low in range(0, len(block.source), _STEP):
            rows = slice(low, low + _STEP)
            yield _JsonRows(_points(block, self._sets.table(block.sets), rows))


class JsonLogsEncoder(OtlpLogsEncoder):
    """Lines `{"resourceLogs":[...]}`, each ending in a newline."""

    step = _STEP

    _resource = staticmethod(_write_resource)

    @functools.cached_property
    def _sets(self) -> SetCache[SetTable]:
        return SetCache(_make_table)

    @staticmethod
    def _assembler_of(resource: bytes, schema_url: str) -> Assembler:
        return _JsonAssembler("Logs", "logRecords", resource, schema_url)

    def _rows(self, block: EventBlock, low: int, high: int) -> Rows:
        return _JsonRows(_records(block, self._sets.table(block.sets), low, high))


class _JsonRows:
    """Rows as `requests.Rows`, each with the comma that may follow it."""

    def __init__(self, rows: Iterable[str]) -> None:
        self._rows = [utf8(row) + b"," for row in rows]
        self.sizes: npt.NDArray[np.int64] = np.fromiter(map(len, self._rows), np.int64)

    def pieces(self, low: int, high: int) -> list[bytes]:
        return self._rows[low:high]


class _JsonAssembler:
    """Lines with one array of resources."""

    def __init__(self, signal: str, items: str, resource: bytes, schema_url: str) -> None:
        self._start = utf8(f'{{"resource{signal}":[')
        self._resource = resource
        self._head = utf8(f',"scope{signal}":[')
        self._tail = utf8("]" + _optional("schemaUrl", schema_url, before=True) + "}")
        self._items = items
        self._scopes: dict[str, tuple[bytes, bytes]] = {}

    def around_resource(self, resource: bytes | None) -> int:
        resource = self._resource if resource is None else resource
        around = len(self._start) + len(_BEFORE_RESOURCE) + len(self._head) + len(self._tail)
        return around + len(resource) + len(_END)

    def around_scope(self, scope: str) -> int:
        return sum(map(len, self._scope(scope))) + 1

    def around_group(self, envelope: Envelope) -> int:
        return len(envelope.head) + len(envelope.tail) + 1

    def assemble(self, resources: list[tuple[bytes | None, Scopes]]) -> bytes:
        parts = [self._start]
        for resource, scopes in resources:
            parts += (_BEFORE_RESOURCE, self._resource if resource is None else resource)
            parts.append(self._head)
            for scope, groups in scopes:
                head, tail = self._scope(scope)
                parts.append(head)
                for group in groups:
                    parts.append(group.envelope.head)
                    parts += group.pieces
                    if group.envelope.tail:
                        parts[-1] = parts[-1][:-1]
                        parts.append(group.envelope.tail)
                parts[-1] = parts[-1][:-1]
                parts += (tail, b",")
            parts[-1] = self._tail
            parts.append(b",")
        parts[-1] = _END
        return b"".join(parts)

    def _scope(self, scope: str) -> tuple[bytes, bytes]:
        known = self._scopes.get(scope)
        if known is None:
            version, schema_url = scope_identity(scope)
            identity = _optional("name", scope) + _optional("version", version, before=bool(scope))
            head = f'{{"scope":{{{identity}}},"{self._items}":['
            tail = "]" + _optional("schemaUrl", schema_url, before=True) + "}"
            known = self._scopes[scope] = (utf8(head), utf8(tail))
        return known


def _points(block: PointBlock, table: SetTable, rows: slice) -> Iterator[str]:
    columns = [ids[rows] for ids in (block.source, block.destination, block.own)]
    table.refresh(*columns)
    sets = (table.blobs[ids].tolist() for ids in columns)
    numbers = zip(
        block.start_ns[rows].tolist(),
        block.time_ns[rows].tolist(),
        _values(block, rows),
        block.no_value[rows].tolist(),
        strict=True,
    )
    gauge = block.metric.kind is Kind.GAUGE
    for pairs, (start, time, value, ended) in zip(zip(*sets, strict=True), numbers, strict=True):
        fields = []
        attributes = b"".join(pairs).decode()
        if attributes:
            fields.append(f'"attributes":[{attributes[1:]}]')
        if start and not gauge:
            fields.append(f'"startTimeUnixNano":"{start}"')
        if time:
            fields.append(f'"timeUnixNano":"{time}"')
        if value[ended]:
            fields.append(value[ended])
        if ended:
            fields.append('"flags":1')
        yield "{" + ",".join(fields) + "}"


def _values(block: PointBlock, rows: slice) -> Iterator[tuple[str, str]]:
    """For each point the fields of its value, and those it has when the series has ended."""
    values = block.values
    if isinstance(values, Histogram):
        zeros = ",".join(['"0"'] * (len(block.metric.boundaries) + 1))
        bounds = ",".join(map(_double, block.metric.boundaries))
        bounds = f',"explicitBounds":[{bounds}]' if bounds else ""
        ended = f'"bucketCounts":[{zeros}]{bounds}'
        for counts, total in zip(
            values.counts[rows].tolist(), values.sums[rows].tolist(), strict=True
        ):
            buckets = ",".join(f'"{count}"' for count in counts)
            n = sum(counts)
            count = f'"count":"{n}",' if n else ""
            yield f'{count}"sum":{_double(total)},"bucketCounts":[{buckets}]{bounds}', ended
    elif block.metric.integer:
        for integer in values[rows].astype(np.int64, copy=False).tolist():
            yield f'"asInt":"{integer}"', ""
    else:
        for number in values[rows].astype(np.float64, copy=False).tolist():
            yield f'"asDouble":{_double(number)}', ""


def _records(block: EventBlock, table: SetTable, low: int, high: int) -> Iterator[str]:
    columns = [ids[low:high] for ids in (block.own, block.source, block.destination)]
    table.refresh(*columns)
    sets = (table.blobs[ids].tolist() for ids in columns)
    severity = f'"severityNumber":{block.event.severity},' if block.event.severity else ""
    observed = f'"observedTimeUnixNano":"{block.observed_ns}",' if block.observed_ns else ""
    end = _optional("eventName", block.event.name, before=True) + "}"
    keys = [_text(key) for key in block.integers]
    integers: Iterable[tuple[int, ...]] = zip(
        *(values[low:high].tolist() for values in block.integers.values()), strict=True
    )
    if not keys:
        integers = [()] * (high - low)
    texts = bodies(block, low, high) if block.body else [""] * (high - low)
    for time, text, pairs, numbers in zip(
        block.time_ns[low:high].tolist(), texts, zip(*sets, strict=True), integers, strict=True
    ):
        attributes = b"".join(pairs).decode() + "".join(
            f',{{"key":{key},"value":{{"intValue":"{number}"}}}}'
            for key, number in zip(keys, numbers, strict=True)
        )
        body = f'{{"stringValue":{_text(text)}}}' if block.body else "{}"
        listed = f',"attributes":[{attributes[1:]}]' if attributes else ""
        stamp = f'"timeUnixNano":"{time}",' if time else ""
        yield f'{{{stamp}{observed}{severity}"body":{body}{listed}{end}'


def _entity_ref(ref: EntityRef) -> str:
    fields = [f'"type":{_text(ref.type)}']
    for name, keys in (("idKeys", ref.id_keys), ("descriptionKeys", ref.description_keys)):
        if keys:
            fields.append(f'"{name}":[{",".join(map(_text, keys))}]')
    return "{" + ",".join(fields) + "}"


def _attributes(pairs: AttributeSet) -> str:
    """`pairs` as KeyValue objects, each after a comma."""
    return "".join(
        f',{{{_optional("key", key, after=True)}"value":{_any_value(value)}}}'
        for key, value in pairs
    )


def _any_value(value: AttributeValue) -> str:
    if isinstance(value, bool):
        return '{"boolValue":true}' if value else '{"boolValue":false}'
    if isinstance(value, int):
        if INT64_MIN <= value <= INT64_MAX:
            return f'{{"intValue":"{value}"}}'
        return f'{{"stringValue":"{value}"}}'
    if isinstance(value, float):
        return f'{{"doubleValue":{_double(value)}}}'
    return f'{{"stringValue":{_text(value)}}}'


def _double(value: float) -> str:
    """The shortest digits, without exponent from 1e-6 up to 1e21, as the Collector writes them."""
    if not math.isfinite(value):
        return '"NaN"' if math.isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'
    text = repr(value)
    if "e" in text and 1e-6 <= abs(value) < 1e21:
        return np.format_float_positional(value, trim="-")
    return text.removesuffix(".0")


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _optional(name: str, text: str, *, before: bool = False, after: bool = False) -> str:
    """A string field, nothing if it is empty; with a comma `before` or `after` it."""
    if not text:
        return ""
    return f'{"," if before else ""}"{name}":{_text(text)}{"," if after else ""}'


def _make_table(sets: AttributeSets) -> SetTable:
    return SetTable(sets, lambda pairs: utf8(_attributes(pairs)))
