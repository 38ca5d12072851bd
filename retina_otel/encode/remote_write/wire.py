"""Looks into requests of remote write that our encoders wrote: cuts them, counts, rewrites.

Needed only where a backend did not take a request as it was, so it is plain Python: about 10 us a
series.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from retina_otel.encode import protobuf

_SERIES_1, _METADATA_1 = 1, 3
_SYMBOL_2, _SERIES_2 = 4, 5
_HISTOGRAM = 3


@dataclass(frozen=True, slots=True)
class _Series:
    """A series as it stands in its request, and what has to be known of it."""

    name: bytes
    has_le: bool
    field: bytes
    references: list[int]
    """Of version 2.0: names and values of labels, then help and unit; empty in 1.0."""
    sample: bytes = b""
    type: int = 0


def is_version_2(body: bytes) -> bool:
    """Whether a request is of version 2.0, which begins with its symbols."""
    return body[:1] == b"\x22"


def count_samples(body: bytes) -> int:
    """Samples in a request: one in each of its series."""
    wanted = _SERIES_2 if is_version_2(body) else _SERIES_1
    return sum(number == wanted for number, _, _ in _fields(body))


def split(body: bytes) -> tuple[bytes, bytes] | None:
    """Two requests of n // 2 and n - n // 2 points, in order; None for a single point."""
    symbols, series, metadata = _parsed(body)
    ends = [place + 1 for place in _ends_of_points(series)]
    if len(ends) < 2:
        return None
    middle = ends[len(ends) // 2 - 1]
    first, second = series[:middle], series[middle:]
    if is_version_2(body):
        return _request_2(symbols, first), _request_2(symbols, second)
    return _request_1(first, metadata), _request_1(second, metadata)


def without_zero_points(body: bytes) -> tuple[bytes, int] | None:
    """A request of version 1.0 without the points of value 0 that are older than its newest, and
    with how many points less; None if it has none, or has nothing else. A histogram's point stays
    whole: it is 0 if all of its series are."""
    _, series, metadata = _parsed(body)
    samples = [_sample_1(each.field) for each in series]
    newest = max(time for time, _ in samples)
    old_zero = [time < newest and value == bytes(8) for time, value in samples]
    kept: list[_Series] = []
    low = missing = 0
    for end in _ends_of_points(series):
        if series[low].name == b"target_info":
            kept.append(series[low])
            low += 1
        if all(old_zero[low : end + 1]):
            missing += 1
        else:
            kept += series[low : end + 1]
        low = end + 1
    return (_request_1(kept, metadata), missing) if missing else None


def as_version_1(body: bytes) -> bytes:
    """A request of version 2.0 as one of 1.0: the same labels, values, times and metadata."""
    symbols, series, _ = _parsed(body)
    out = []
    metadata: dict[bytes, bytes] = {}
    for each in series:
        *labels, help_text, unit = (symbols[reference] for reference in each.references)
        pairs = zip(labels[::2], labels[1::2], strict=True)
        text = b"".join(
            protobuf.delimited(1, protobuf.delimited(1, name) + protobuf.delimited(2, value))
            for name, value in pairs
        )
        sample = b"".join(field for number, _, field in _fields(each.sample) if number < 3)
        out.append(protobuf.delimited(_SERIES_1, text + protobuf.delimited(2, sample)))
        family = _family(each.name, each.type)
        if family not in metadata:
            told = b"\x08" + protobuf.varint(each.type) + protobuf.delimited(2, family)
            told += protobuf.delimited(4, help_text) if help_text else b""
            told += protobuf.delimited(5, unit) if unit else b""
            metadata[family] = protobuf.delimited(_METADATA_1, told)
    return b"".join([*out, *metadata.values()])


def _ends_of_points(series: Sequence[_Series]) -> Iterator[int]:
    """Where each point's last series is: a histogram's is its sum. `target_info` is no point."""
    in_histogram = False
    for place, each in enumerate(series):
        if each.has_le:
            in_histogram = True
        elif in_histogram and each.name.endswith(b"_count"):
            continue
        elif in_histogram or each.name != b"target_info":
            in_histogram = False
            yield place


def _family(name: bytes, kind: int) -> bytes:
    if kind == _HISTOGRAM:
        for suffix in (b"_bucket", b"_count", b"_sum"):
            if name.endswith(suffix):
                return name.removesuffix(suffix)
    return name


def _parsed(body: bytes) -> tuple[list[bytes], list[_Series], dict[bytes, bytes]]:
    """Symbols, series, and metadata by family."""
    symbols: list[bytes] = []
    series: list[_Series] = []
    metadata: dict[bytes, bytes] = {}
    for number, payload, field in _fields(body):
        if is_version_2(body):
            if number == _SYMBOL_2:
                symbols.append(payload)
            else:
                series.append(_series_2(payload, field, symbols))
        elif number == _SERIES_1:
            labels = dict(_label(each) for kind, each, _ in _fields(payload) if kind == 1)
            series.append(_Series(labels[b"__name__"], b"le" in labels, field, []))
        else:
            metadata[{kind: each for kind, each, _ in _fields(payload)}[2]] = field
    return symbols, series, metadata


def _sample_1(field: bytes) -> tuple[int, bytes]:
    """Time in ms and bytes of the value of the series in a field."""
    ((_, payload, _),) = _fields(field)
    (sample,) = (each for number, each, _ in _fields(payload) if number == 2)
    found = {number: whole for number, _, whole in _fields(sample)}
    return _varint(found[2], 1)[0], found[1][1:]


def _label(payload: bytes) -> tuple[bytes, bytes]:
    pair = {number: text for number, text, _ in _fields(payload)}
    return pair[1], pair[2]


def _series_2(payload: bytes, field: bytes, symbols: Sequence[bytes]) -> _Series:
    references: list[int] = []
    sample = b""
    told = {1: 0, 3: 0, 4: 0}
    for number, inner, _ in _fields(payload):
        if number == 1:
            position = 0
            while position < len(inner):
                reference, position = _varint(inner, position)
                references.append(reference)
        elif number == 2:
            sample = inner
        else:
            told |= {each: _varint(whole, 1)[0] for each, _, whole in _fields(inner)}
    labels = {symbols[references[at]]: references[at + 1] for at in range(0, len(references), 2)}
    name = symbols[labels[b"__name__"]]
    references += [told[3], told[4]]
    return _Series(name, b"le" in labels, field, references, sample, told[1])


def _request_1(series: Sequence[_Series], metadata: dict[bytes, bytes]) -> bytes:
    """Series with the metadata of their families."""
    names = {each.name for each in series}
    names |= {_family(name, _HISTOGRAM) for name in names}
    told = [field for family, field in metadata.items() if family in names]
    return b"".join([*(each.field for each in series), *told])


def _request_2(symbols: Sequence[bytes], series: Sequence[_Series]) -> bytes:
    """Series with the symbols that they use."""
    new = {0: 0}
    out = []
    for each in series:
        references = [new.setdefault(reference, len(new)) for reference in each.references]
        *labels, help_text, unit = references
        told = b"\x08" + protobuf.varint(each.type)
        told += b"\x18" + protobuf.varint(help_text) if help_text else b""
        told += b"\x20" + protobuf.varint(unit) if unit else b""
        text = protobuf.delimited(1, protobuf.varints(np.array(labels, np.int64)))
        text += protobuf.delimited(2, each.sample) + protobuf.delimited(5, told)
        out.append(protobuf.delimited(_SERIES_2, text))
    return b"".join([*(protobuf.delimited(_SYMBOL_2, symbols[old]) for old in new), *out])


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, payload (empty where it is a number) and the whole of each field."""
    position = 0
    while position < len(message):
        start = position
        tag, position = _varint(message, position)
        payload = b""
        if tag & 7 == 2:
            length, position = _varint(message, position)
            payload = message[position : position + length]
            position += length
        elif tag & 7 == 1:
            position += 8
        else:
            _, position = _varint(message, position)
        yield tag >> 3, payload, message[start:position]


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
