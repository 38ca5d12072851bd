"""Reads native histograms of remote write 2.0, as strictly as the specification is written.

Only those of integers with custom buckets: nothing else is made of a histogram with boundaries.
"""

from __future__ import annotations

import itertools
import math
import struct
from dataclasses import dataclass
from typing import Any

from retina_otel.testing.remote_write_fields import (
    NotRemoteWrite,
    fields,
    packed,
    signed,
    zigzag,
)

STALE = 0x7FF0000000000002
"""Bits of the value that ends a series."""
_HISTOGRAM_FIELDS = {
    **dict.fromkeys((1, 4, 6), int),  # count, schema, count around zero
    **dict.fromkeys((14, 15, 17), int),  # reset hint, time, start
    **dict.fromkeys((3, 5), float),  # sum, threshold of zero
    **dict.fromkeys((8, 9, 11, 12), bytes),  # spans and deltas, negative and positive
    16: bytes,  # custom values
}
"""Counts that are floats are not among them."""


@dataclass(frozen=True, slots=True)
class NativeHistogram:
    """One of integers, with custom buckets: version 2.0's."""

    time_ms: int
    start_ms: int
    bits: int
    """Of the sum."""
    boundaries: tuple[float, ...]
    counts: tuple[int, ...]
    """Of each bucket, also of the empty ones: one more than boundaries."""

    @property
    def sum(self) -> float:
        return float_of(self.bits)

    @property
    def stale(self) -> bool:
        return self.bits == STALE


def float_of(bits: int) -> float:
    """The double that has these bits."""
    out: float = struct.unpack("<d", bits.to_bytes(8, "little"))[0]
    return out


def read_histogram(raw: bytes) -> NativeHistogram:
    told: dict[int, Any] = {}
    spans = []
    for number, value in fields(raw, _HISTOGRAM_FIELDS):
        if number == 11:
            span = dict(fields(value, {1: int, 2: int}))
            spans.append((zigzag(span.get(1, 0)), span.get(2, 0)))
        elif number in told:
            raise NotRemoteWrite(f"field {number} of a histogram is repeated")
        else:
            told[number] = value
    if zigzag(told.get(4, 0)) != -53:
        raise NotRemoteWrite(f"the schema is not that of custom buckets: {told.get(4, 0)}")
    if 1 not in told:
        raise NotRemoteWrite("count is missing")
    if told.get(5, 0) or told.get(6, 0) or 8 in told or 9 in told:
        raise NotRemoteWrite("custom buckets have no zero bucket and no negative ones")
    if told.get(14, 0) > 3:
        raise NotRemoteWrite(f"no such reset hint: {told[14]}")
    doubles = told.get(16, b"")
    if len(doubles) % 8:
        raise NotRemoteWrite(f"custom_values are {len(doubles)} bytes")
    boundaries = struct.unpack(f"<{len(doubles) // 8}d", doubles)
    ascending = all(low < high for low, high in itertools.pairwise(boundaries))
    if not ascending or any(math.isnan(each) or each == math.inf for each in boundaries):
        raise NotRemoteWrite(f"custom_values do not ascend to below infinity: {boundaries}")
    bits = told.get(3, 0)
    counts = _buckets(spans, list(packed(told.get(12, b""))), len(boundaries) + 1)
    if sum(counts) != told[1]:
        raise NotRemoteWrite(f"the count is {told[1]}, that of all buckets {sum(counts)}")
    return NativeHistogram(
        signed(told.get(15, 0)), signed(told.get(17, 0)), bits, boundaries, counts
    )


def _buckets(spans: list[tuple[int, int]], deltas: list[int], n: int) -> tuple[int, ...]:
    """The count of each of `n` buckets."""
    places: list[int] = []
    end = 0
    for offset, length in spans:
        if offset < 0 or not length:
            raise NotRemoteWrite(f"a span of {length} buckets, {offset} after the one before")
        places += range(end + offset, end + offset + length)
        end += offset + length
    if end > n:
        raise NotRemoteWrite(f"spans reach to bucket {end} of {n}")
    if len(places) != len(deltas):
        raise NotRemoteWrite(f"spans have {len(places)} buckets, deltas {len(deltas)}")
    out = [0] * n
    for place, count in zip(places, itertools.accumulate(map(zigzag, deltas)), strict=True):
        if count < 0:
            raise NotRemoteWrite(f"a bucket has the count {count}")
        out[place] = count
    return tuple(out)
