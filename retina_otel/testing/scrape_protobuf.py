"""Reads a scrape in protobuf strictly: what io.prometheus.client's schema does not say is an error.

Also what Prometheus asks of any page: no family and no series twice, values of the family's type,
buckets that rise. Written from the schema, with no code of ours that writes it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from retina_otel.errors import RetinaError
from retina_otel.testing.scrape import Sample

_VARINT, _FIXED64, _BYTES = 0, 1, 2
_COUNTER, _GAUGE, _HISTOGRAM = 0, 1, 4
_TYPES = {_COUNTER: "counter", _GAUGE: "gauge", _HISTOGRAM: "histogram"}
_FIELD_OF = {_COUNTER: 3, _GAUGE: 2, _HISTOGRAM: 7}
_NAME, _HELP, _TYPE, _METRIC, _UNIT = range(1, 6)

_Value = int | bytes


@dataclass(frozen=True, slots=True)
class Series:
    labels: dict[str, str]
    value: float
    """The sum, of a histogram."""
    created_ns: int | None = None
    count: int = 0
    buckets: tuple[tuple[float, int], ...] = ()
    """Upper bound and cumulative count of each, +Inf not among them."""


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    type: str
    help: str
    unit: str
    series: list[Series] = field(default_factory=list)


def families(page: bytes) -> list[Family]:
    """All families of a page. Raises RetinaError for what is against the rules."""
    found: dict[str, Family] = {}
    offset = 0
    while offset < len(page):
        size, offset = _varint(page, offset)
        _demand(offset + size <= len(page), "a family is cut off")
        family = _family(page[offset : offset + size])
        _demand(family.name not in found, f"{family.name} is there twice")
        found[family.name] = family
        offset += size
    return list(found.values())


def samples(page: bytes) -> Iterator[Sample]:
    """What Prometheus makes of a page: a histogram is buckets, a count and a sum."""
    for family in families(page):
        for series in family.series:
            if family.type != "histogram":
                yield Sample(family.name, series.labels, series.value)
                continue
            for bound, count in (*series.buckets, (math.inf, series.count)):
                le = "+Inf" if bound == math.inf else repr(bound)
                yield Sample(f"{family.name}_bucket", {**series.labels, "le": le}, count)
            yield Sample(f"{family.name}_count", series.labels, series.count)
            yield Sample(f"{family.name}_sum", series.labels, series.value)


def _family(message: bytes) -> Family:
    fields = _message(
        message,
        {_NAME: _BYTES, _HELP: _BYTES, _TYPE: _VARINT, _METRIC: _BYTES, _UNIT: _BYTES},
        repeated=(_METRIC,),
    )
    number = _integer(fields, _TYPE)
    _demand(number in _TYPES, f"no type {number} is expected")
    name = _text(fields, _NAME)
    _demand(bool(name), "a family has no name")
    family = Family(name, _TYPES[number], _text(fields, _HELP), _text(fields, _UNIT))
    identities = set()
    for metric in fields.get(_METRIC, []):
        series = _series(_bytes(metric), number)
        identity = frozenset(series.labels.items())
        _demand(identity not in identities, f"{name}{series.labels} is there twice")
        identities.add(identity)
        family.series.append(series)
    _demand(bool(family.series), f"{name} has no series")
    return family


def _series(message: bytes, kind: int) -> Series:
    value_field = _FIELD_OF[kind]
    fields = _message(message, {1: _BYTES, value_field: _BYTES}, repeated=(1,))
    labels: dict[str, str] = {}
    for pair in fields.get(1, []):
        pair_fields = _message(_bytes(pair), {1: _BYTES, 2: _BYTES})
        name = _text(pair_fields, 1)
        _demand(bool(name), "a label has no name")
        _demand(name not in labels, f"label {name} is there twice")
        labels[name] = _text(pair_fields, 2)
        _demand(bool(labels[name]), f"label {name} is empty")
    _demand(value_field in fields, "a series has no value of its type")
    value = _bytes(fields[value_field][0])
    if kind == _HISTOGRAM:
        return _histogram(labels, value)
    schema = {1: _FIXED64, 3: _BYTES} if kind == _COUNTER else {1: _FIXED64}
    inner = _message(value, schema)
    return Series(labels, _double(inner, 1), _created(inner, 3))


def _histogram(labels: dict[str, str], message: bytes) -> Series:
    schema = {1: _VARINT, 2: _FIXED64, 3: _BYTES, 15: _BYTES}
    fields = _message(message, schema, repeated=(3,))
    buckets = []
    for bucket in fields.get(3, []):
        inner = _message(_bytes(bucket), {1: _VARINT, 2: _FIXED64})
        buckets.append((_double(inner, 2), _integer(inner, 1)))
    count = _integer(fields, 1)
    bounds = [bound for bound, _ in buckets]
    counts = [count for _, count in buckets] + [count]
    _demand(bounds == sorted(set(bounds)), "bounds of buckets do not rise")
    _demand(math.inf not in bounds, "the bucket without a bound is spelt out")
    _demand(counts == sorted(counts), "counts of buckets fall")
    return Series(labels, _double(fields, 2), _created(fields, 15), count, tuple(buckets))


def _created(fields: dict[int, list[_Value]], number: int) -> int | None:
    if number not in fields:
        return None
    inner = _message(_bytes(fields[number][0]), {1: _VARINT, 2: _VARINT})
    nanoseconds = _integer(inner, 2) if 2 in inner else 0
    _demand(nanoseconds < 1_000_000_000, "a time has more than a second of nanoseconds")
    return (_integer(inner, 1) if 1 in inner else 0) * 1_000_000_000 + nanoseconds


def _message(
    message: bytes, schema: dict[int, int], repeated: tuple[int, ...] = ()
) -> dict[int, list[_Value]]:
    """Values by field number; strict about numbers, wire types and how often each is there."""
    out: dict[int, list[_Value]] = {}
    offset = 0
    while offset < len(message):
        tag, offset = _varint(message, offset)
        number, wire_type = tag >> 3, tag & 7
        _demand(schema.get(number) == wire_type, f"no field {number} of type {wire_type} here")
        _demand(number in repeated or number not in out, f"field {number} is there twice")
        if wire_type == _VARINT:
            value: _Value
            value, offset = _varint(message, offset)
        else:
            size = 8
            if wire_type == _BYTES:
                size, offset = _varint(message, offset)
            value = message[offset : offset + size]
            offset += size
            _demand(len(value) == size, f"field {number} is cut off")
        out.setdefault(number, []).append(value)
    return out


def _varint(message: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        _demand(offset < len(message) and shift < 64, "a varint does not end")
        byte = message[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            _demand(byte > 0 or shift == 7, "a varint is longer than it need be")
            return value, offset


def _bytes(value: _Value) -> bytes:
    assert isinstance(value, bytes)
    return value


def _integer(fields: dict[int, list[_Value]], number: int) -> int:
    _demand(number in fields, f"field {number} is missing")
    value = fields[number][0]
    assert isinstance(value, int)
    return value


def _double(fields: dict[int, list[_Value]], number: int) -> float:
    _demand(number in fields, f"field {number} is missing")
    (value,) = struct.unpack("<d", _bytes(fields[number][0]))
    assert isinstance(value, float)
    return value


def _text(fields: dict[int, list[_Value]], number: int) -> str:
    try:
        return _bytes(fields[number][0]).decode() if number in fields else ""
    except UnicodeDecodeError as error:
        raise RetinaError(f"text is not UTF-8: {error}") from error


def _demand(good: bool, otherwise: str) -> None:
    if not good:
        raise RetinaError(f"not a page of Prometheus: {otherwise}")
