"""Requests of remote write that are cut in two or rewritten keep all points and texts."""

from __future__ import annotations

from typing import Any

import pytest

from retina_otel.encode.remote_write import version_1 as remote_write
from retina_otel.encode.remote_write import version_2 as remote_write_2
from retina_otel.encode.remote_write.series import SeriesOptions
from retina_otel.encode.remote_write.wire import (
    as_version_1,
    count_samples,
    is_version_2,
    split,
    without_zero_points,
)
from retina_otel.encode.requests import Request
from retina_otel.model.signals import Kind, Metric
from retina_otel.testing.points import Point, point_block
from retina_otel.testing.remote_write import V1, V2, TimeSeries, decode_body

RESOURCE = {"service.name": "retina-otel", "k8s.node.name": "node-0"}
ENCODERS = {V1: remote_write.encoder, V2: remote_write_2.encoder}
FORMS = pytest.mark.parametrize(("version", "native"), [(V1, False), (V2, False), (V2, True)])
BOUNDARIES = (-0.5, 0.0, 2.0, 1e6)
TIMES: dict[str, Any] = {"start_ns": 1_790_000_000_123_456_789, "time_ns": 1_790_000_015 * 10**9}


def request(version: str, n: int = 7, *, native: bool = False) -> Request:
    """n points of each of three metrics, one a histogram, one named as a histogram's sum is. The
    first of each has ended."""
    histogram = Metric("h", Kind.HISTOGRAM, "s", "How long.", scope="a", boundaries=BOUNDARIES)
    blocks = [
        point_block(
            metric,
            [
                Point(
                    k / 2,
                    {"pod": f"p{k}", "LE": "x", "zz": "y"},
                    buckets=[k % 3 * each for each in buckets],
                    no_value=not k,
                    **TIMES,
                )
                for k in range(n)
            ],
        )
        for metric, buckets in (
            (Metric("m", Kind.COUNTER, "By", "What it is.", scope="a"), ()),
            (histogram, (0, 2, 1, 200, 0)),
            (Metric("other.sum", Kind.GAUGE, "", "", scope="a"), ()),
        )
    ]
    options = SeriesOptions(RESOURCE, native_histograms=native)
    (found,) = ENCODERS[version](options).requests(blocks, 1 << 20)
    assert found.n_items == 3 * n
    return found


def points(series: tuple[TimeSeries, ...]) -> int:
    names = ("m_bytes_total", "h_seconds_sum", "h_seconds", "other_sum")
    return sum(each.name in names for each in series)


@FORMS
def test_halves_hold_half_of_the_points_each_in_order_with_their_metadata(
    version: str, native: bool
) -> None:
    whole = request(version, native=native)
    original = decode_body(whole.body, version)
    waiting = [(whole.body, whole.n_items)]
    found: list[TimeSeries] = []
    while waiting:
        body, n_items = waiting.pop(0)
        decoded = decode_body(body, version)
        assert points(decoded.series) == n_items
        assert {
            family: decoded.metadata[family] == told
            for family, told in original.metadata.items()
            if any(each.name.startswith(family) for each in decoded.series)
        } == dict.fromkeys(decoded.metadata, True)
        halves = split(body)
        if halves is None:
            assert n_items == 1
            found += decoded.series
        else:
            first, second = halves
            waiting[:0] = [(first, n_items // 2), (second, n_items - n_items // 2)]
    assert found == list(original.series)


def test_a_request_of_version_2_can_be_written_as_one_of_version_1() -> None:
    second = request(V2)
    assert is_version_2(second.body)
    assert not is_version_2(request(V1).body)
    rewritten = as_version_1(second.body)
    assert decode_body(rewritten, V1) == decode_body(request(V1).body, V1)
    assert decode_body(rewritten, V1).n_samples == decode_body(second.body, V2).n_samples


def test_native_histograms_are_buckets_in_version_1() -> None:
    native = request(V2, native=True)
    assert decode_body(native.body, V2).n_histograms == 7
    rewritten = as_version_1(native.body)
    assert decode_body(rewritten, V1) == decode_body(request(V1).body, V1)


@FORMS
def test_samples_are_counted(version: str, native: bool) -> None:
    of_a_histogram = 1 if native else len(BOUNDARIES) + 3
    found = count_samples(request(version, native=native).body)
    assert found == 7 + 7 * of_a_histogram + 7 + 1


def test_zero_points_are_left_out_whole_and_no_bucket_of_another_point() -> None:
    """A histogram that ended is told at its end, which is before the newest point."""
    start = TIMES["start_ns"]
    counter = Metric("m", Kind.COUNTER, "", "", scope="a")
    histogram = Metric("h", Kind.HISTOGRAM, "s", "", scope="a", boundaries=(1.0, 2.0))
    at = [{"start_ns": start, "time_ns": start + n * 10**6} for n in range(3)]
    blocks = [
        point_block(counter, [Point(0, {"pod": "p"}, **at[0]), Point(3, {"pod": "p"}, **at[2])]),
        point_block(
            histogram,
            [
                Point(0, {"pod": "p"}, buckets=(0, 0, 0), **at[0]),
                Point(0, {"pod": "p"}, buckets=(0, 2, 3), **at[1]),
            ],
        ),
    ]
    (whole,) = remote_write.encoder(SeriesOptions(RESOURCE)).requests(blocks, 1 << 20)
    found = without_zero_points(whole.body)
    assert found is not None
    assert found[1] == 2
    original = decode_body(whole.body, V1).series
    assert original[0].name == "target_info"
    oldest = min(each.samples[0].time_ms for each in original)
    assert decode_body(found[0], V1).series == tuple(
        each for each in original if each.samples[0].time_ms > oldest
    )
    assert without_zero_points(found[0]) is None
