"""Looks into requests of remote write that our encoders wrote: cuts them, counts, rewrites.

Needed only where a backend did not take a request as it was, so it is plain Python: about 10 us a
series.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retina_otel.encode import protobuf
from retina_otel.encode.remote_write.labels import bound
from retina_otel.encode.remote_write.series import STALE

_SERIES_1, _METADATA_1 = 1, 3
_SYMBOL_2, _SERIES_2 = 4, 5
_HISTOGRAM = 3
"""As a type in metadata, and as the field of a series of version 2.0 for a native one."""
_STALE = STALE.tobytes()


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
    native: bool = False
    """The sample is a native histogram."""


def is_version_2(body: bytes) -> bool:
    """Whether a request is of version 2.0, which begins with its symbols."""
    return body[:1] == b"\x22"


def count_samples(body: bytes) -> int:
    """Samples and native histograms in a request: one in each of its series."""
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
    """A request of version 2.0 as one of 1.0: the same labels, values, times and metadata. 1.0 has
    no custom buckets, so a native histogram becomes series of buckets, count and sum."""
    symbols, series, _ = _parsed(body)
    out: list[bytes] = []
    metadata: dict[bytes, bytes] = {}
    for each in series:
        *labels, help_text, unit = (symbols[reference] for reference in each.references)
        pairs = list(zip(labels[::2], labels[1::2], strict=True))
        if each.native:
            out += _classic(each, dict(pairs))
        else:
            sample = b"".join(field for number, _, field in _fields(each.sample) if number < 3)
            out.append(_series_of_1(pairs, sample))
        family = each.name if each.native else _family(each.name, each.type)
        if family not in metadata:
            told = b"\x08" + protobuf.varint(each.type) + protobuf.delimited(2, family)
            told += protobuf.delimited(4, help_text) if help_text else b""
            told += protobuf.delimited(5, unit) if unit else b""
            metadata[family] = protobuf.delimited(_METADATA_1, told)
    return b"".join([*out, *metadata.values()])


def _series_of_1(pairs: Iterable[tuple[bytes, bytes]], sample: bytes) -> bytes:
    text = b"".join(
        protobuf.delimited(1, protobuf.delimited(1, name) + protobuf.delimited(2, value))
        for name, value in pairs
    )
    return protobuf.delimited(_SERIES_1, text + protobuf.delimited(2, sample))


def _classic(series: _Series, labels: Mapping[bytes, bytes]) -> Iterator[bytes]:
    """The series of version 1.0 that a native histogram is."""
    found = {number: (payload, whole) for number, payload, whole in _fields(series.sample)}
    boundaries = np.frombuffer(found[16][0] if 16 in found else b"", "<f8").tolist()
    counts = np.zeros(len(boundaries) + 1, np.int64)
    if 11 in found:
        low, length = (_varint(whole, 1)[0] for _, _, whole in _fields(found[11][0]))
        deltas = (value >> 1 ^ -(value & 1) for value in _packed(found[12][0]))
        counts[low // 2 : low // 2 + length] = list(itertools.accumulate(deltas))
    total = found[3][1][1:]
    time = b"\x10" + found[15][1][1:]
    below = np.cumsum(counts).astype("<f8")
    told = [
        (b"_bucket", {b"le": bound(upper).encode()}, count.tobytes())
        for upper, count in zip((*boundaries, np.inf), below, strict=True)
    ]
    told += [(b"_count", {}, below[-1].tobytes()), (b"_sum", {}, total)]
    for suffix, le, value in told:
        pairs = {**labels, **le, b"__name__": series.name + suffix}
        sample = b"\x09" + (total if total == _STALE else value) + time
        yield _series_of_1(sorted(pairs.items()), sample)


def _ends_of_points(series: Sequence[_Series]) -> Iterator[int]:
    """Where each point's last series is: that of a histogram with buckets is its sum.
    `target_info` is no point."""
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
    sample, native = b"", False
    told = {1: 0, 3: 0, 4: 0}
    for number, inner, _ in _fields(payload):
        if number == 1:
            references += _packed(inner)
        elif number in (2, _HISTOGRAM):
            sample, native = inner, number == _HISTOGRAM
        else:
            told |= {each: _varint(whole, 1)[0] for each, _, whole in _fields(inner)}
    labels = {symbols[references[at]]: references[at + 1] for at in range(0, len(references), 2)}
    name = symbols[labels[b"__name__"]]
    references += [told[3], told[4]]
    return _Series(name, b"le" in labels, field, references, sample, told[1], native)


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
        text += protobuf.delimited(_HISTOGRAM if each.native else 2, each.sample)
        text += protobuf.delimited(5, told)
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


def _packed(payload: bytes) -> Iterator[int]:
    position = 0
    while position < len(payload):
        value, position = _varint(payload, position)
        yield value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
