"""Points of histograms as native histograms with custom buckets, whose boundaries are their own.

It is what Prometheus makes of a histogram with boundaries that comes by OTLP
(`convert_histograms_to_nhcb`): one series with the schema -53 instead of one for each bucket. Only
the buckets between the first and the last that counted anything are written, in one span. A series
that has ended has no buckets, and the stale NaN as its sum.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retina_otel.encode import protobuf
from retina_otel.encode.protobuf import Part

_Objects = npt.NDArray[np.object_]
_Numbers = npt.NDArray[np.int64]

_TAG = b"\x1a"
_COUNT, _SUM, _TIME, _START = b"\x08", b"\x19", b"\x78", b"\x88\x01"
_SPAN, _OFFSET, _LENGTH, _DELTAS = b"\x5a", b"\x08", b"\x10", b"\x62"
_SCHEMA_AND_ZERO_COUNT = b"\x20\x69\x30\x00"
"""-53, and none in a bucket around zero, which custom buckets do not have."""
_CUSTOM_VALUES = 16
_widths = protobuf.varint_widths


@dataclass(frozen=True, slots=True)
class Buckets:
    """What each of n points has in its buckets: counts, and their boundaries."""

    boundaries: tuple[float, ...]
    counts: _Numbers
    """(n, len(boundaries) + 1); nothing in those of a series that has ended."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Of each of n points the field in which a series has its histogram: parts that stand beside
    each other, and its bytes in all."""

    heads: _Objects
    deltas: _Objects
    bounds: bytes
    """The same in all."""
    sizes: _Numbers


def fields(
    buckets: Buckets, sums: npt.NDArray[np.float64], time_ms: _Numbers, start_ms: _Numbers
) -> Fields:
    """Boundaries come last, since they are the same bytes in each; readers take any order."""
    n, n_buckets = buckets.counts.shape
    used = buckets.counts != 0
    some = used.any(axis=1)
    first = used.argmax(axis=1)
    lengths = np.where(some, n_buckets - used[:, ::-1].argmax(axis=1) - first, 0)
    totals = buckets.counts.sum(axis=1)
    deltas, deltas_size = _deltas(buckets.counts, first, lengths)
    bounds = _custom_values(buckets.boundaries)
    offsets = first * 2
    span_size = 2 + _widths(offsets) + _widths(lengths)
    spans_size = 2 + _widths(span_size) + span_size + _widths(deltas_size) + deltas_size
    sizes = 13 + len(_SCHEMA_AND_ZERO_COUNT) + len(bounds) + np.where(some, spans_size, 0)
    sizes += _widths(totals) + _widths(time_ms) + _widths(start_ms)
    head: list[Part] = [_TAG, sizes, _COUNT, totals, _SUM, sums.view(np.uint8).reshape(n, 8)]
    head += [_SCHEMA_AND_ZERO_COUNT, _TIME, time_ms, _START, start_ms]
    spans: list[Part] = [_SPAN, span_size, _OFFSET, offsets, _LENGTH, lengths]
    spans += [_DELTAS, deltas_size]
    heads = np.empty(n, object)
    for rows, parts in ((np.flatnonzero(some), head + spans), (np.flatnonzero(~some), head)):
        if len(rows):
            chosen = [part if isinstance(part, bytes) else part[rows] for part in parts]
            heads[rows] = protobuf.records(len(rows), chosen)
    return Fields(heads, deltas, bounds, 1 + _widths(sizes) + sizes)


def _deltas(counts: _Numbers, first: _Numbers, lengths: _Numbers) -> tuple[_Objects, _Numbers]:
    """What each bucket of a point's span has more than the one before it, packed, and the bytes
    of all of a point."""
    places = np.arange(counts.shape[1])
    inside = (places >= first[:, None]) & (places < (first + lengths)[:, None])
    # Nothing is in the bucket before a span, so its first difference is the count itself.
    chosen = np.diff(counts, axis=1, prepend=0)[inside]
    zigzag = chosen << 1 ^ chosen >> 63
    ends = np.concatenate([[0], np.cumsum(_widths(zigzag))])
    bounds = ends[np.concatenate([[0], np.cumsum(lengths)])]
    text = protobuf.varints(zigzag)
    out = np.empty(len(lengths), object)
    out[:] = [text[low:high] for low, high in itertools.pairwise(bounds.tolist())]
    return out, np.diff(bounds)


@functools.lru_cache(maxsize=256)
def _custom_values(boundaries: tuple[float, ...]) -> bytes:
    packed = np.array(boundaries, "<f8").tobytes()
    return protobuf.delimited(_CUSTOM_VALUES, packed) if packed else b""
