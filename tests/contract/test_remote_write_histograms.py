"""Native histograms of remote write 2.0 are read by a strict decoder to the points that went in."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retina_otel.encode.remote_write import version_1
from retina_otel.encode.remote_write.series import SeriesOptions
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.signals import Kind, Metric
from retina_otel.testing.points import Point, point_block
from retina_otel.testing.remote_write import (
    NORMAL_NAN,
    STALE,
    V2,
    Metadata,
    NativeHistogram,
    NotRemoteWrite,
    Sample,
    check_order,
    decode_body,
)
from tests.contract.remote_write_parts import (
    MOST,
    SCOPE,
    START_MS,
    TIME_MS,
    TIMES,
    Encoding,
    key,
)

BOUNDARIES = (-2.0, 1e-07, 0.005, 2.0, 1e6)
RTT = Metric("rtt", Kind.HISTOGRAM, "s", "Help.", scope=SCOPE, boundaries=BOUNDARIES)
COUNTS = st.just(0) | st.integers(0, 300) | st.integers(0, 2**57)


def bits(value: float) -> int:
    return int.from_bytes(struct.pack("<d", value), "little")


def encoding(**options: Any) -> Encoding:
    return Encoding(V2, native_histograms=True, **options)


def test_a_histogram_is_one_series_with_its_buckets_sum_and_start() -> None:
    rows = {
        "all": (9.5, (1, 2, 4, 1, 8, 3)),
        "first": (-3.0, (7, 0, 0, 0, 0, 0)),
        "last": (3e6, (0, 0, 0, 0, 0, 1)),
        "gap": (1.5, (0, 2**50, 0, 0, 1, 0)),
        "empty": (0.0, (0, 0, 0, 0, 0, 0)),
        "nan": (math.nan, (0, 0, 1, 0, 0, 0)),
    }
    points = [
        Point(total, own={"which": which}, buckets=buckets, **TIMES)
        for which, (total, buckets) in rows.items()
    ]
    points.append(Point(7, own={"which": "ended"}, buckets=(1,) * 6, no_value=True, **TIMES))
    gauge = Metric("other", Kind.GAUGE, "", "", scope=SCOPE)
    (request,) = encoding().requests(
        [point_block(RTT, points), point_block(gauge, [Point(4, **TIMES)])]
    )
    sums = {which: bits(total) for which, (total, _) in rows.items()} | {"nan": NORMAL_NAN}
    expected = {
        key("rtt_seconds", which=which): (
            NativeHistogram(TIME_MS, START_MS, sums[which], BOUNDARIES, buckets),
        )
        for which, (_, buckets) in rows.items()
    }
    ended = NativeHistogram(TIME_MS, START_MS, STALE, BOUNDARIES, (0,) * 6)
    expected[key("rtt_seconds", which="ended")] = (ended,)
    found = {frozenset(each.labels): each for each in request.series}
    assert {labels: each.histograms for labels, each in found.items() if each.histograms} == (
        expected
    )
    assert found[key("other")].samples == (Sample(TIME_MS, bits(4.0)),)
    assert (request.n_samples, request.n_histograms) == (2, 7)
    assert request.metadata["rtt_seconds"] == Metadata("histogram", "Help.", "seconds")
    assert request.metadata.keys() == {"rtt_seconds", "other", "target_info"}


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_whatever_the_buckets_they_arrive(data: st.DataObject) -> None:
    boundaries = tuple(
        sorted(data.draw(st.sets(st.floats(-1e300, 1e300, allow_subnormal=False), max_size=20)))
    )
    metric = Metric("h", Kind.HISTOGRAM, "", "", scope=SCOPE, boundaries=boundaries)
    n = len(boundaries) + 1
    rows = data.draw(
        st.lists(
            st.tuples(
                st.lists(COUNTS, min_size=n, max_size=n).map(tuple),
                st.floats(allow_nan=False),
                st.integers(1, 2**42),
                st.booleans(),
            ),
            min_size=1,
            max_size=12,
        )
    )
    points = [
        Point(
            total,
            own={"row": str(row)},
            buckets=buckets,
            start_ns=start_ms * 10**6,
            time_ns=(start_ms + row) * 10**6,
            no_value=ended,
        )
        for row, (buckets, total, start_ms, ended) in enumerate(rows)
    ]
    blocks = [point_block(metric, points)]
    requests = encoding().requests(blocks, data.draw(st.sampled_from([1, 700, MOST])))
    found = {
        dict(series.labels)["row"]: series.histograms
        for request in requests
        for series in request.series
        if series.name == "h"
    }
    assert found == {
        str(row): (
            NativeHistogram(
                start_ms + row,
                start_ms,
                STALE if ended else bits(total),
                boundaries,
                (0,) * n if ended else buckets,
            ),
        )
        for row, (buckets, total, start_ms, ended) in enumerate(rows)
    }


@pytest.mark.parametrize("max_bytes", [3_000, 20_000, 1_000_000])
def test_requests_with_them_stay_below_their_bound_and_count_their_points(max_bytes: int) -> None:
    sets = AttributeSets()
    boundaries = tuple(float(each) for each in range(40))
    metric = Metric("h", Kind.HISTOGRAM, "", "Help.", scope=SCOPE, boundaries=boundaries)
    plain = Metric("m", Kind.COUNTER, "", "Help.", scope=SCOPE)
    many = [
        Point(n, {"pod": f"p{n}"}, buckets=[(n * place) ** 3 for place in range(41)], **TIMES)
        for n in range(300)
    ]
    rows = [Point(n, {"pod": f"p{n}"}, **TIMES) for n in range(100)]
    blocks = [point_block(metric, many, sets=sets), point_block(plain, rows, sets=sets)]
    encoded = list(encoding().encoder.requests(blocks, max_bytes))
    assert max(len(each.body) for each in encoded) <= max_bytes
    decoded = [decode_body(each.body, V2) for each in encoded]
    check_order(decoded)
    told = [sum(each.name in ("h", "m_total") for each in one.series) for one in decoded]
    assert told == [each.n_items for each in encoded]
    assert sum(told) == 400
    assert sum(each.n_histograms for each in decoded) == 300
    assert sum(each.n_samples for each in decoded) == 101


def test_version_1_does_not_have_them() -> None:
    with pytest.raises(ValueError, match=r"1\.0 has no custom buckets"):
        version_1.encoder(SeriesOptions({}, native_histograms=True))


def test_the_decoder_sees_what_a_receiver_would_refuse_of_a_histogram() -> None:
    def field(number: int, value: bytes) -> bytes:
        tag = number << 3 | 2
        head = bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])
        return head + bytes([len(value)]) + value

    def request(histogram: bytes, type_: int = 3, more: bytes = b"") -> bytes:
        named = field(4, b"") + field(4, b"__name__") + field(4, b"m")
        metadata = field(5, bytes([8, type_]))
        return named + field(5, field(1, b"\x01\x02") + field(3, histogram) + more + metadata)

    count, total = b"\x08\x03", b"\x19" + struct.pack("<d", 1.0)
    schema, span, deltas = b"\x20\x69", field(11, b"\x08\x00\x10\x02"), field(12, b"\x02\x02")
    time, start = b"\x78\x05", b"\x88\x01\x04"
    values = field(16, struct.pack("<2d", 1.0, 2.0))
    good = count + total + schema + span + deltas + time + values + start
    (series,) = decode_body(request(good), V2).series
    assert series.histograms == (NativeHistogram(5, 4, bits(1.0), (1.0, 2.0), (1, 2, 0)),)
    faults = {
        "the schema is not that of custom buckets": good.replace(schema, b"\x20\x02"),
        "count is missing": good.replace(count, b""),
        "the count is 4, that of all buckets 3": good.replace(count, b"\x08\x04"),
        "no zero bucket": good + b"\x30\x01",
        "no such reset hint": good + b"\x70\x04",
        "field 3 of a histogram is repeated": good + total,
        "field 2 of wire type 1": good + b"\x11" + bytes(8),
        "custom_values are 9 bytes": good.replace(values, field(16, bytes(9))),
        "custom_values do not ascend": good.replace(
            values, field(16, struct.pack("<2d", 2.0, 2.0))
        ),
        "to below infinity": good.replace(values, field(16, struct.pack("<2d", 2.0, math.inf))),
        "a span of 2 buckets, -1 after": good.replace(span, field(11, b"\x08\x01\x10\x02")),
        "a span of 0 buckets": good.replace(span, field(11, b"\x08\x00")),
        "spans reach to bucket 4 of 3": good.replace(span, field(11, b"\x08\x04\x10\x02")),
        "spans have 1 buckets, deltas 2": good.replace(span, field(11, b"\x10\x01")),
        "a bucket has the count -1": good.replace(deltas, field(12, b"\x02\x03")),
        "start_timestamp is missing": good.replace(start, b""),
        "a NaN that has no meaning": good.replace(total, b"\x19" + struct.pack("<Q", STALE + 1)),
    }
    for fault, histogram in faults.items():
        with pytest.raises(NotRemoteWrite, match=fault):
            decode_body(request(histogram), V2)
    with pytest.raises(NotRemoteWrite, match="a histogram of the type gauge"):
        decode_body(request(good, 2), V2)
    sample = field(2, b"\x09" + bytes(8) + b"\x10\x09\x18\x04")
    with pytest.raises(NotRemoteWrite, match="samples and histograms in one series"):
        decode_body(request(good, more=sample), V2)
