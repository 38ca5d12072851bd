"""Requests of remote write whatever the points, their number and their order; and the decoder that
reads them refuses what a receiver would."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retina_otel.encode.remote_write import version_2 as remote_write_2
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.signals import Kind, Metric
from retina_otel.testing.points import Point, point_block
from retina_otel.testing.remote_write import STALE, V1, V2, NotRemoteWrite, check_order, decode_body
from tests.contract.remote_write_parts import (
    MOST,
    RESOURCE_LABELS,
    SCOPE,
    SCOPE_LABELS,
    TIMES,
    VERSIONS,
    Encoding,
    key,
)

KINDS = st.sampled_from([Kind.COUNTER, Kind.GAUGE, Kind.UPDOWN, Kind.HISTOGRAM])
KEYS = st.sampled_from(["A", "a", "b.c", "b_c", "job", "k8s.pod.name", "le", "m", "z", "zz"])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
ATTRIBUTES = st.dictionaries(KEYS, TEXTS | st.integers(-5, 5) | st.booleans(), max_size=4)


def _expected_labels(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Straight from the rules, point by point."""
    out: dict[str, str] = {}
    for name, value in sorted(attributes.items()):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        label = {"le": "exported_le"}.get(name, name.replace(".", "_"))
        if text:
            out[label] = f"{out[label]};{text}" if label in out else text
    return {**RESOURCE_LABELS, **out, "job": RESOURCE_LABELS["job"], **SCOPE_LABELS}


@VERSIONS
@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_whatever_the_points_their_labels_and_values_arrive(
    version: str, data: st.DataObject
) -> None:
    encoding = Encoding(version)
    for _ in range(data.draw(st.integers(1, 3))):
        blocks, expected = [], {}
        sets = AttributeSets()
        for number in range(data.draw(st.integers(1, 3))):
            kind = data.draw(KINDS)
            boundaries = (0.5, 2.0) if kind is Kind.HISTOGRAM else ()
            metric = Metric(
                f"m.{number}", kind, "", data.draw(TEXTS), scope=SCOPE, boundaries=boundaries
            )
            points = []
            name = f"m_{number}" + ("_total" if kind is Kind.COUNTER else "")
            for attributes in data.draw(st.lists(ATTRIBUTES, min_size=1, max_size=6)):
                ends = [dict[str, Any]() for _ in range(3)]
                for one, value in attributes.items():
                    ends[data.draw(st.integers(0, 2))][one] = value
                labels = _expected_labels(attributes)
                seen = frozenset({**labels, "__name__": name}.items())
                if seen in expected:
                    continue
                value = data.draw(st.integers(-(2**53), 2**53))
                buckets = tuple(data.draw(st.integers(0, 2**50)) for _ in (*boundaries, 0))
                source, destination, own = ends
                points.append(
                    Point(value, source, destination, own, buckets=buckets if boundaries else ())
                )
                if boundaries:
                    expected[seen] = math.nan
                    for place, le in enumerate(("0.5", "2", "+Inf")):
                        bucket = {**labels, "__name__": f"{name}_bucket", "le": le}
                        expected[frozenset(bucket.items())] = sum(buckets[: place + 1])
                    count = {**labels, "__name__": f"{name}_count"}
                    expected[frozenset(count.items())] = sum(buckets)
                    total = {**labels, "__name__": f"{name}_sum"}
                    expected[frozenset(total.items())] = value
                else:
                    expected[seen] = value
            if points:
                blocks.append(point_block(metric, points, sets=sets))
        expected = {labels: value for labels, value in expected.items() if not math.isnan(value)}
        requests = encoding.requests(blocks, data.draw(st.sampled_from([1, 700, 5000, MOST])))
        found = {
            frozenset(series.labels): series.samples[0].value
            for request in requests
            for series in request.series
            if series.name != "target_info"
        }
        assert found == {labels: float(value) for labels, value in expected.items()}


@VERSIONS
@pytest.mark.parametrize("max_bytes", [3_000, 20_000, 1_000_000])
def test_requests_stay_below_their_bound_and_count_their_points(
    version: str, max_bytes: int
) -> None:
    sets = AttributeSets()
    plain = Metric("m", Kind.COUNTER, "", "Help.", scope=SCOPE)
    histogram = Metric("h", Kind.HISTOGRAM, "", "Help.", scope=SCOPE, boundaries=(1.0, 2.0))
    rows = [Point(n, {"pod": f"p{n}"}, own={"x": str(n % 3)}, **TIMES) for n in range(900)]
    many = [Point(n, {"pod": f"p{n}"}, buckets=(1, 2, n), **TIMES) for n in range(100)]
    blocks = [point_block(plain, rows, sets=sets), point_block(histogram, many, sets=sets)]
    encoding = Encoding(version)
    encoded = list(encoding.encoder.requests(blocks, max_bytes))
    assert max(len(each.body) for each in encoded) <= max_bytes
    decoded = [decode_body(each.body, version) for each in encoded]
    check_order(decoded)
    names = [[series.name for series in each.series] for each in decoded]
    points = [sum(name in ("m_total", "h_sum") for name in each) for each in names]
    assert points == [each.n_items for each in encoded]
    assert sum(points) == 1000
    assert sum(len(each) for each in names) == 900 + 100 * 5 + 1


@VERSIONS
def test_an_export_may_be_left_in_the_middle_and_another_begun(version: str) -> None:
    """As happens when a newer snapshot takes the place of one that can't be sent."""
    sets = AttributeSets()
    metric = Metric("m", Kind.COUNTER, "", "", scope=SCOPE)
    blocks = [
        point_block(metric, [Point(n, {"pod": f"p{n}"}, **TIMES) for n in range(300)], sets=sets)
    ]
    encoding = Encoding(version)
    first = encoding.encoder.requests(blocks, 4000)
    begun = [next(first), next(first)]
    second = encoding.requests(blocks, 4000)
    rest = [*begun, *first]
    for requests in (second, [decode_body(each.body, version) for each in rest]):
        values = {
            dict(series.labels)["pod"]: series.samples[0].value
            for request in requests
            for series in request.series
            if series.name == "m_total"
        }
        assert values == {f"p{n}": n for n in range(300)}


def test_strings_that_nobody_uses_any_more_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_write_2, "_STRINGS_KEPT", 100)
    metric = Metric("m", Kind.COUNTER, "", "", scope=SCOPE)
    encoding = Encoding(V2)
    for round_ in range(5):
        rows = [Point(n, {"pod": f"{round_}-{n}"}, **TIMES) for n in range(60)]
        values = encoding.values([point_block(metric, rows)])
        assert values == {key("m_total", pod=f"{round_}-{n}"): n for n in range(60)}
        _, form = encoding.encoder._kept
        assert len(form._strings) < 160  # type: ignore[attr-defined]


def test_the_decoder_sees_what_a_receiver_would_refuse() -> None:
    def text(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    def label(name: bytes, value: bytes = b"x") -> bytes:
        return text(1, text(1, name) + text(2, value))

    sample = text(2, b"\x09" + struct.pack("<d", 1.0) + b"\x10\x05")
    good = label(b"__name__", b"m") + label(b"a")
    faults = {
        "labels are not sorted": label(b"a") + label(b"__name__", b"m") + sample,
        "labels are repeated": good + label(b"a") + sample,
        "an empty label": good + label(b"b", b"") + sample,
        "__name__ is missing": label(b"a") + sample,
        "a reserved label": label(b"__name__", b"m") + label(b"__x__") + sample,
        "a label name that is none": label(b"__name__", b"m") + label(b"a.b") + sample,
        "a metric name that is none": label(b"__name__", b"1m") + sample,
        "samples are not in the order of time": good + sample + sample,
        "a NaN that has no meaning": good
        + text(2, b"\x09" + struct.pack("<Q", STALE + 1) + b"\x10\x05"),
        "field 7 of wire type 2": good + sample + text(7, b"x"),
        "a varint that is longer": good
        + text(2, b"\x09" + struct.pack("<d", 1.0) + b"\x10\x85\x00"),
    }
    assert decode_body(text(1, good + sample), V1).n_samples == 1
    for fault, series in faults.items():
        with pytest.raises(NotRemoteWrite, match=fault):
            decode_body(text(1, series), V1)
    second = bytes([0x12, 0x0B, 0x09]) + struct.pack("<d", 1.0) + b"\x10\x05"
    metadata = text(5, b"\x08\x02")
    named = text(4, b"") + text(4, b"__name__") + text(4, b"m")
    series = text(1, b"\x01\x02") + second + metadata
    assert decode_body(named + text(5, series), V2).n_samples == 1
    faults = {
        "symbols do not begin": text(4, b"__name__") + text(4, b"m") + text(5, series),
        "symbols are repeated": named + text(4, b"m") + text(5, series),
        "symbols that nothing refers to": named + text(4, b"n") + text(5, series),
        "a reference beyond": named + text(5, text(1, b"\x01\x03") + second + metadata),
        "labels_refs has 1 elements": named + text(5, text(1, b"\x01") + second + metadata),
        "metadata is missing": named + text(5, text(1, b"\x01\x02") + second),
        "metadata has the type 0": named + text(5, text(1, b"\x01\x02") + second + text(5, b"")),
        "start_timestamp is missing": named
        + text(5, text(1, b"\x01\x02") + second + text(5, b"\x08\x01")),
    }
    for fault, request in faults.items():
        with pytest.raises(NotRemoteWrite, match=fault):
            decode_body(request, V2)
