"""Reads requests of remote write 1.0 and 2.0 as strictly as the specifications are written.

A decoder of its own, from the published messages: it shares nothing with the encoder, refuses what
a receiver may refuse, and tells what went over the wire to the last bit. Fault texts begin with the
rule that is broken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cramjam

from retina_otel.testing.remote_write_fields import NotRemoteWrite, fields, packed, signed
from retina_otel.testing.remote_write_histograms import (
    STALE,
    NativeHistogram,
    float_of,
    read_histogram,
)

NORMAL_NAN = 0x7FF8000000000001
TYPES = {1: "counter", 2: "gauge", 3: "histogram"}
V1, V2 = "0.1.0", "2.0.0"
CONTENT_TYPES = {
    "application/x-protobuf": V1,
    "application/x-protobuf;proto=prometheus.WriteRequest": V1,
    "application/x-protobuf;proto=io.prometheus.write.v2.Request": V2,
}
_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class Metadata:
    type: str
    help: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    time_ms: int
    bits: int
    """Of the double: NaNs differ by them."""
    start_ms: int = 0

    @property
    def value(self) -> float:
        return float_of(self.bits)

    @property
    def stale(self) -> bool:
        return self.bits == STALE


@dataclass(frozen=True, slots=True)
class TimeSeries:
    labels: tuple[tuple[str, str], ...]
    samples: tuple[Sample, ...]
    metadata: Metadata | None
    """Version 2.0's, of each series."""
    histograms: tuple[NativeHistogram, ...] = ()

    @property
    def points(self) -> tuple[Sample | NativeHistogram, ...]:
        """Samples or histograms: no series has both."""
        return (*self.samples, *self.histograms)

    @property
    def name(self) -> str:
        return dict(self.labels)["__name__"]


@dataclass(frozen=True, slots=True)
class WriteRequest:
    version: str
    series: tuple[TimeSeries, ...]
    metadata: Mapping[str, Metadata]
    """By name of the family: version 1.0's beside the series, of 2.0 gathered from them."""

    @property
    def n_samples(self) -> int:
        return sum(len(each.samples) for each in self.series)

    @property
    def n_histograms(self) -> int:
        return sum(len(each.histograms) for each in self.series)


def decode(headers: Mapping[str, str], body: bytes, *, utf8_names: bool = False) -> WriteRequest:
    """A request as it came by HTTP. Raises NotRemoteWrite."""
    given = {name.lower(): value for name, value in headers.items()}
    if given.get("content-encoding") != "snappy":
        raise NotRemoteWrite(f"Content-Encoding is {given.get('content-encoding')!r}")
    version = CONTENT_TYPES.get(given.get("content-type", ""))
    if version is None:
        raise NotRemoteWrite(f"Content-Type is {given.get('content-type')!r}")
    if given.get("x-prometheus-remote-write-version") != version:
        raise NotRemoteWrite("X-Prometheus-Remote-Write-Version is not that of the message")
    if not given.get("user-agent"):
        raise NotRemoteWrite("User-Agent is missing")
    try:
        raw = bytes(cramjam.snappy.decompress_raw(body))
    except cramjam.DecompressionError as error:
        raise NotRemoteWrite(f"snappy, block format: {error}") from error
    return decode_body(raw, version, utf8_names=utf8_names)


def decode_body(raw: bytes, version: str, *, utf8_names: bool = False) -> WriteRequest:
    """A message before compression. Raises NotRemoteWrite."""
    read = _read_1 if version == V1 else _read_2
    request = read(raw)
    for series in request.series:
        _check(series, utf8_names)
    return request


def check_order(requests: Sequence[WriteRequest]) -> None:
    """Samples of each series must follow each other in time over requests that were sent one after
    the other, each time once. Raises NotRemoteWrite."""
    last: dict[tuple[tuple[str, str], ...], int] = {}
    for request in requests:
        for series in request.series:
            for sample in series.points:
                before = last.get(series.labels)
                if before is not None and sample.time_ms <= before:
                    raise NotRemoteWrite(f"order: {series.labels} at {sample.time_ms} ms")
                last[series.labels] = sample.time_ms


def _check(series: TimeSeries, utf8_names: bool) -> None:
    names = [name for name, _ in series.labels]
    if names != sorted(names, key=str.encode):
        raise NotRemoteWrite(f"labels are not sorted: {names}")
    if len(set(names)) < len(names):
        raise NotRemoteWrite(f"labels are repeated: {names}")
    if not all(name and value for name, value in series.labels):
        raise NotRemoteWrite(f"an empty label: {series.labels}")
    if "__name__" not in names:
        raise NotRemoteWrite(f"__name__ is missing: {series.labels}")
    for name in names:
        if name.startswith("__") and name != "__name__":
            raise NotRemoteWrite(f"a reserved label: {name}")
        if not utf8_names and not _LABEL_NAME.fullmatch(name):
            raise NotRemoteWrite(f"a label name that is none: {name!r}")
    if not utf8_names and not _METRIC_NAME.fullmatch(series.name):
        raise NotRemoteWrite(f"a metric name that is none: {series.name!r}")
    if series.samples and series.histograms:
        raise NotRemoteWrite(f"samples and histograms in one series: {series.labels}")
    times = [each.time_ms for each in series.points]
    if not times or times != sorted(set(times)):
        raise NotRemoteWrite(f"samples are not in the order of time: {times}")
    for each in series.points:
        value = each.value if isinstance(each, Sample) else each.sum
        if math.isnan(value) and each.bits not in (STALE, NORMAL_NAN):
            raise NotRemoteWrite(f"a NaN that has no meaning: {each.bits:#x}")


def _read_1(raw: bytes) -> WriteRequest:
    series, metadata = [], {}
    for number, value in fields(raw, {1: bytes, 3: bytes}):
        if number == 1:
            series.append(_series_1(value))
        else:
            told = dict(fields(value, {1: int, 2: bytes, 4: bytes, 5: bytes}))
            family = _text(told[2])
            if family in metadata:
                raise NotRemoteWrite(f"metadata is repeated: {family}")
            metadata[family] = _metadata(told.get(1, 0), _text(told.get(4)), _text(told.get(5)))
    return WriteRequest(V1, tuple(series), metadata)


def _series_1(raw: bytes) -> TimeSeries:
    labels: list[tuple[str, str]] = []
    samples: list[Sample] = []
    for number, value in fields(raw, {1: bytes, 2: bytes}):
        if number == 1:
            if samples:
                raise NotRemoteWrite("labels come after samples")
            pair = dict(fields(value, {1: bytes, 2: bytes}))
            labels.append((_text(pair.get(1)), _text(pair.get(2))))
        else:
            told = dict(fields(value, {1: float, 2: int}))
            samples.append(Sample(signed(told.get(2, 0)), told.get(1, 0)))
    return TimeSeries(tuple(labels), tuple(samples), None)


def _read_2(raw: bytes) -> WriteRequest:
    symbols: list[str] = []
    found: list[bytes] = []
    for number, value in fields(raw, {4: bytes, 5: bytes}):
        if number == 4:
            symbols.append(_text(value))
        else:
            found.append(value)
    if not symbols or symbols[0] != "":
        raise NotRemoteWrite("symbols do not begin with the empty string")
    if len(set(symbols)) < len(symbols):
        raise NotRemoteWrite("symbols are repeated")
    used = {0}
    series = tuple(_series_2(each, symbols, used) for each in found)
    if len(used) < len(symbols):
        raise NotRemoteWrite(f"symbols that nothing refers to: {len(symbols) - len(used)}")
    metadata: dict[str, Metadata] = {}
    for each in series:
        assert each.metadata is not None
        family = family_of(each)
        if metadata.setdefault(family, each.metadata) != each.metadata:
            raise NotRemoteWrite(f"metadata of {family} differs from series to series")
    return WriteRequest(V2, series, metadata)


def _series_2(raw: bytes, symbols: Sequence[str], used: set[int]) -> TimeSeries:
    references: list[int] = []
    samples = []
    histograms = []
    metadata = None

    def symbol(reference: int) -> str:
        if reference >= len(symbols):
            raise NotRemoteWrite(f"a reference beyond the symbols: {reference}")
        used.add(reference)
        return symbols[reference]

    for number, value in fields(raw, {1: bytes, 2: bytes, 3: bytes, 5: bytes}):
        if number == 1:
            references += packed(value)
        elif number == 3:
            histograms.append(read_histogram(value))
        elif number == 2:
            told = dict(fields(value, {1: float, 2: int, 3: int}))
            times = (signed(told.get(2, 0)), signed(told.get(3, 0)))
            samples.append(Sample(times[0], told.get(1, 0), times[1]))
        else:
            told = dict(fields(value, {1: int, 3: int, 4: int}))
            texts = (symbol(told.get(3, 0)), symbol(told.get(4, 0)))
            metadata = _metadata(told.get(1, 0), *texts)
    if not references or len(references) % 2:
        raise NotRemoteWrite(f"labels_refs has {len(references)} elements")
    if metadata is None:
        raise NotRemoteWrite("metadata is missing")
    named = [symbol(reference) for reference in references]
    starts = [each.start_ms for each in samples] + [each.start_ms for each in histograms]
    if metadata.type in ("counter", "histogram") and not all(starts):
        raise NotRemoteWrite("start_timestamp is missing of what counts")
    if histograms and metadata.type != "histogram":
        raise NotRemoteWrite(f"a histogram of the type {metadata.type}")
    labels = tuple(zip(named[::2], named[1::2], strict=True))
    return TimeSeries(labels, tuple(samples), metadata, tuple(histograms))


def family_of(series: TimeSeries) -> str:
    """The name under which a series' metadata stands."""
    name = series.name
    classic = not series.histograms
    if classic and series.metadata is not None and series.metadata.type == "histogram":
        for suffix in ("_bucket", "_count", "_sum"):
            if name.endswith(suffix):
                return name.removesuffix(suffix)
    return name


def _metadata(number: int, help_text: str, unit: str) -> Metadata:
    if number not in TYPES:
        raise NotRemoteWrite(f"metadata has the type {number}")
    return Metadata(TYPES[number], help_text, unit)


def _text(value: bytes | None) -> str:
    try:
        return (value or b"").decode()
    except UnicodeDecodeError as error:
        raise NotRemoteWrite(f"a string that is no UTF-8: {error}") from error
