"""Remote write 1.0 and 2.0 are read by a strict decoder to the points that went in."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retina_otel import __version__
from retina_otel.encode import remote_write, remote_write_2
from retina_otel.encode.prometheus_names import TranslationStrategy
from retina_otel.encode.remote_write_requests import RemoteWriteEncoder
from retina_otel.encode.remote_write_series import SeriesOptions
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.points import PointBlock, Temporality
from retina_otel.testing.points import Point, point_block
from retina_otel.testing.remote_write import (
    NORMAL_NAN,
    STALE,
    V1,
    V2,
    Metadata,
    NotRemoteWrite,
    WriteRequest,
    check_order,
    decode_body,
)

SCOPE = "retina_otel.receivers.flows"
SCOPE_LABELS = {"otel_scope_name": SCOPE, "otel_scope_version": __version__}
RESOURCE = {
    "service.namespace": "kube-system",
    "service.name": "retina-otel",
    "service.instance.id": "0e3c1c1e",
    "service.version": "1.2",
    "k8s.node.name": "node-0",
    "k8s.cluster.name": "prod",
}
RESOURCE_LABELS = {
    "job": "kube-system/retina-otel",
    "instance": "0e3c1c1e",
    "k8s_node_name": "node-0",
    "k8s_cluster_name": "prod",
}
TIMES: dict[str, Any] = {
    "start_ns": 1_790_000_000_123_456_789,
    "time_ns": 1_790_000_015_000_000_000,
}
START_MS, TIME_MS = 1_790_000_000_123, 1_790_000_015_000
ENCODERS: dict[str, Callable[[SeriesOptions], RemoteWriteEncoder]] = {
    V1: remote_write.encoder,
    V2: remote_write_2.encoder,
}
VERSIONS = pytest.mark.parametrize("version", ENCODERS)
MOST = 1 << 20

Labels = frozenset[tuple[str, str]]


class Encoding:
    """An encoder of a version, and what a receiver makes of its requests."""

    def __init__(self, version: str, resource: Mapping[str, Any] = RESOURCE, **options: Any):
        self.version = version
        self.encoder = ENCODERS[version](SeriesOptions(resource, **options))
        strategy = options.get("strategy", TranslationStrategy.UNDERSCORE_ESCAPING_WITH_SUFFIXES)
        self._utf8 = not strategy.escapes

    def requests(self, blocks: Iterable[PointBlock], max_bytes: int = MOST) -> list[WriteRequest]:
        encoded = list(self.encoder.requests(blocks, max_bytes))
        found = [decode_body(each.body, self.version, utf8_names=self._utf8) for each in encoded]
        check_order(found)
        return found

    def values(self, blocks: Iterable[PointBlock]) -> dict[Labels, float]:
        """The last value of each series, without `target_info`."""
        return {
            frozenset(series.labels): series.samples[-1].value
            for request in self.requests(blocks)
            for series in request.series
            if series.name != "target_info"
        }


def key(name: str, **labels: str) -> Labels:
    return frozenset({**RESOURCE_LABELS, **SCOPE_LABELS, **labels, "__name__": name}.items())


@VERSIONS
def test_counters_gauges_and_amounts_are_named_labelled_and_told_as_the_collector_does(
    version: str,
) -> None:
    told = (
        ("retina.flow.io", Kind.COUNTER, "By", True, 2**53 - 1),
        ("retina.flow.packets", Kind.COUNTER, "{packet}", True, 7),
        ("retina.coverage", Kind.GAUGE, "1", False, 0.5),
        ("retina.up", Kind.UPDOWN, "1", True, -1),
        ("link.speed", Kind.GAUGE, "By/s", True, 125),
    )
    blocks = [
        point_block(
            Metric(name, kind, unit, "Help.", scope=SCOPE, integer=integer),
            [Point(value, {"source.k8s.pod.name": "a"}, own={"zone": "1"}, **TIMES)],
        )
        for name, kind, unit, integer, value in told
    ]
    (request,) = Encoding(version).requests(blocks)
    labels = {"source_k8s_pod_name": "a", "zone": "1"}
    assert {
        frozenset(series.labels): [(sample.time_ms, sample.value) for sample in series.samples]
        for series in request.series
        if series.name != "target_info"
    } == {
        key("retina_flow_io_bytes_total", **labels): [(TIME_MS, 2**53 - 1)],
        key("retina_flow_packets_total", **labels): [(TIME_MS, 7)],
        key("retina_coverage_ratio", **labels): [(TIME_MS, 0.5)],
        key("retina_up", **labels): [(TIME_MS, -1)],
        key("link_speed_bytes_per_second", **labels): [(TIME_MS, 125)],
    }
    assert request.metadata == {
        "retina_flow_io_bytes_total": Metadata("counter", "Help.", "bytes"),
        "retina_flow_packets_total": Metadata("counter", "Help."),
        "retina_coverage_ratio": Metadata("gauge", "Help."),
        "retina_up": Metadata("gauge", "Help."),
        "link_speed_bytes_per_second": Metadata("gauge", "Help.", "bytes_per_second"),
        "target_info": Metadata("gauge", "Target metadata"),
    }
    starts = {series.name: series.samples[0].start_ms for series in request.series}
    assert starts == {
        **dict.fromkeys(starts, 0),
        **(
            dict.fromkeys(("retina_flow_io_bytes_total", "retina_flow_packets_total"), START_MS)
            if version == V2
            else {}
        ),
    }


@VERSIONS
def test_the_resource_is_job_instance_chosen_labels_and_target_info(version: str) -> None:
    metric = Metric("m", Kind.GAUGE, "", "", scope=SCOPE)
    encoding = Encoding(
        version, promoted=("service.version", "absent"), external_labels={"region": "eu"}
    )
    block = point_block(metric, [Point(3, own={"region": "mine"}, **TIMES), Point(4, **TIMES)])
    (request,) = encoding.requests([block])
    common = {
        "job": "kube-system/retina-otel",
        "instance": "0e3c1c1e",
    }
    promoted = {**common, **SCOPE_LABELS, "service_version": "1.2", "__name__": "m"}
    target_info = {
        **common,
        "__name__": "target_info",
        "region": "eu",
        "service_version": "1.2",
        "k8s_node_name": "node-0",
        "k8s_cluster_name": "prod",
    }
    assert dict(request.series[0].labels) == target_info
    assert {
        dict(series.labels)["region"]: dict(series.labels) for series in request.series[1:]
    } == {
        "mine": {**promoted, "region": "mine"},
        "eu": {**promoted, "region": "eu"},
    }
    (sample,) = request.series[0].samples
    assert (sample.time_ms, sample.value) == (TIME_MS, 1)


@VERSIONS
@pytest.mark.parametrize(
    "resource",
    [
        {"k8s.node.name": "nobody can tell whose"},
        {"service.name": "x", "service.instance.id": "y"},
        {},
    ],
)
def test_there_is_no_target_info_without_identity_or_without_anything_to_tell(
    version: str, resource: dict[str, str]
) -> None:
    block = point_block(Metric("m", Kind.GAUGE, "", "", scope=SCOPE), [Point(1, **TIMES)])
    (request,) = Encoding(version, resource).requests([block])
    assert [series.name for series in request.series] == ["m"]


@VERSIONS
def test_target_info_does_not_go_back_in_time(version: str) -> None:
    metric = Metric("m", Kind.GAUGE, "", "", scope=SCOPE)
    encoding = Encoding(version)

    def told(time_ns: int) -> list[str]:
        (request,) = encoding.requests([point_block(metric, [Point(1, time_ns=time_ns)])])
        return [series.name for series in request.series]

    assert told(5_000_000) == ["target_info", "m"]
    assert told(5_999_999) == ["target_info", "m"]
    assert told(4_000_000) == ["m"]
    assert told(6_000_000) == ["target_info", "m"]


@VERSIONS
def test_histograms_are_cumulative_buckets_with_count_and_sum(version: str) -> None:
    metric = Metric(
        "rtt", Kind.HISTOGRAM, "s", "Help.", scope=SCOPE, boundaries=(1e-07, 0.005, 2.0, 1e6)
    )
    block = point_block(
        metric,
        [
            Point(9.5, {"a": "b"}, buckets=(1, 2, 4, 0, 8), **TIMES),
            Point(0, {"a": "c"}, buckets=(0, 0, 0, 0, 0), no_value=True, **TIMES),
        ],
    )
    (request,) = Encoding(version, {}).requests([block])
    bounds = {"0.0000001": 1, "0.005": 3, "2": 7, "1000000": 7, "+Inf": 15}

    def expected(name: str, who: str, **labels: str) -> Labels:
        return frozenset({**SCOPE_LABELS, "a": who, **labels, "__name__": name}.items())

    names = {
        **{("rtt_seconds_bucket", le): value for le, value in bounds.items()},
        ("rtt_seconds_count", ""): 15,
        ("rtt_seconds_sum", ""): 9.5,
    }
    found = {frozenset(series.labels): series.samples[0] for series in request.series}
    assert {labels: sample.value for labels, sample in found.items() if not sample.stale} == {
        expected(name, "b", **({"le": le} if le else {})): value
        for (name, le), value in names.items()
    }
    assert {labels for labels, sample in found.items() if sample.stale} == {
        expected(name, "c", **({"le": le} if le else {})) for name, le in names
    }
    assert request.metadata == {"rtt_seconds": Metadata("histogram", "Help.", "seconds")}


@VERSIONS
def test_an_ended_series_gets_the_stale_value_and_no_other_nan_has_its_bits(version: str) -> None:
    counter = Metric("c", Kind.COUNTER, "", "", scope=SCOPE)
    gauge = Metric("g", Kind.GAUGE, "", "", scope=SCOPE, integer=False)
    stale = struct.unpack("<d", STALE.to_bytes(8, "little"))[0]
    blocks = [
        point_block(counter, [Point(3, {"a": "x"}, no_value=True), Point(3, {"a": "y"})]),
        point_block(gauge, [Point(stale), Point(math.nan, {"a": "y"})]),
    ]
    (request,) = Encoding(version, {}).requests(blocks)
    bits = [series.samples[0].bits for series in request.series]
    three = int.from_bytes(struct.pack("<d", 3.0), "little")
    assert bits == [STALE, three, NORMAL_NAN, NORMAL_NAN]


@VERSIONS
def test_a_zero_point_before_a_new_series_comes_first(version: str) -> None:
    metric = Metric("m", Kind.COUNTER, "", "", scope=SCOPE)
    sets = AttributeSets()
    blocks = [
        point_block(metric, [Point(0, {"a": "x"}, time_ns=1_001_000_000)], sets=sets),
        point_block(metric, [Point(5, {"a": "x"}), Point(6, {"a": "y"})], sets=sets),
    ]
    (request,) = Encoding(version, {}).requests(blocks)
    assert [
        (dict(series.labels)["a"], sample.time_ms, sample.value)
        for series in request.series
        for sample in series.samples
    ] == [("x", 1001, 0), ("x", 2000, 5), ("y", 2000, 6)]


@VERSIONS
def test_labels_of_all_sets_are_sorted_into_each_other(version: str) -> None:
    """Uppercase letters come before `__name__`, and sets are cut where labels of others go."""
    metric = Metric("m", Kind.COUNTER, "", "", scope=SCOPE)
    block = point_block(
        metric,
        [
            Point(1, {"A": "1", "m": "2", "z": "3"}, {"b": "4", "n": "5"}, {"B": "6", "zz": "7"}),
            Point(2, {"A": "1", "m": "2", "z": "4"}, {"b": "4", "n": "5"}, {"B": "6", "zz": "7"}),
            Point(3, {"m": "2"}, {"n": "5"}, {"B": "6", "zz": "7"}),
        ],
    )
    assert Encoding(version).values([block]) == {
        key("m_total", A="1", m="2", z="3", b="4", n="5", B="6", zz="7"): 1,
        key("m_total", A="1", m="2", z="4", b="4", n="5", B="6", zz="7"): 2,
        key("m_total", m="2", n="5", B="6", zz="7"): 3,
    }


@VERSIONS
def test_of_an_attribute_and_a_label_of_the_resource_with_one_name_the_right_one_wins(
    version: str,
) -> None:
    metric = Metric("m", Kind.COUNTER, "", "", scope=SCOPE)
    block = point_block(
        metric,
        [
            Point(1, {"k8s.node.name": "mine", "job": "mine", "x": "1"}),
            Point(2, own={"k8s.node.name": "mine", "instance": "mine"}),
            Point(3, {"k8s.node.name": "a"}, own={"k8s.node.name": "b"}),
        ],
    )
    assert Encoding(version).values([block]) == {
        key("m_total", k8s_node_name="mine", x="1"): 1,
        key("m_total", k8s_node_name="mine"): 2,
        key("m_total", k8s_node_name="a;b"): 3,
    }


@VERSIONS
def test_attributes_of_one_series_that_become_one_label_are_joined_in_key_order(
    version: str,
) -> None:
    metric = Metric("m", Kind.COUNTER, "", "", scope=SCOPE)
    block = point_block(
        metric,
        [
            Point(1, {"a.b": "2", "a-b": "1"}),
            Point(2, {"a_b": "3"}, own={"a.b": "2", "c": "4"}),
            Point(3, {"a_b": "3"}, own={"c": "4", "empty": ""}),
        ],
    )
    assert Encoding(version).values([block]) == {
        key("m_total", a_b="1;2"): 1,
        key("m_total", a_b="2;3", c="4"): 2,
        key("m_total", a_b="3", c="4"): 3,
    }


@VERSIONS
def test_of_points_whose_attributes_become_the_same_labels_the_newest_is_told(
    version: str,
) -> None:
    metric = Metric("m", Kind.COUNTER, "", "", scope=SCOPE)
    sets = AttributeSets()
    encoding = Encoding(version)
    blocks = [
        point_block(
            metric,
            [Point(1, {"a.b": "x"}, time_ns=9_000_000), Point(2, {"a_b": "x"}, time_ns=8_000_000)],
            sets=sets,
        ),
        point_block(
            metric,
            [Point(3, own={"a-b": "x"}, time_ns=10_000_000), Point(4, own={"a-b": "y"})],
        ),
        point_block(metric, [Point(5, {"a.b": "x", "empty": ""}, time_ns=1_000_000)]),
    ]
    assert encoding.values(blocks) == {key("m_total", a_b="x"): 3, key("m_total", a_b="y"): 4}
    assert encoding.encoder.duplicates == 3
    encoding.requests(blocks[:1])
    assert encoding.encoder.duplicates == 1


@VERSIONS
def test_a_name_taken_by_another_type_is_left_out_and_said(version: str) -> None:
    encoding = Encoding(version)

    def block(name: str, kind: Kind) -> PointBlock:
        boundaries = (1.0,) if kind is Kind.HISTOGRAM else ()
        metric = Metric(name, kind, "", "", scope=SCOPE, boundaries=boundaries)
        return point_block(metric, [Point(1, own={"kind": kind.value + name})])

    values = encoding.values(
        [
            block("a.b", Kind.COUNTER),
            block("a.b.total", Kind.UPDOWN),
            block("a-b", Kind.COUNTER),
            block("h", Kind.HISTOGRAM),
            block("h.count", Kind.GAUGE),
            block("target.info", Kind.GAUGE),
            block("äö", Kind.GAUGE),
        ]
    )
    assert encoding.encoder.conflicts == {
        "a.b.total": "a_b_total is already another metric",
        "h.count": "h_count is already another metric",
        "target.info": "target_info is already another metric",
        "äö": "no character of its name can stand in Prometheus",
    }
    kinds = [dict(labels) for labels in values]
    assert sorted(each["kind"] for each in kinds if each["__name__"] == "a_b_total") == [
        "countera-b",
        "countera.b",
    ]


@VERSIONS
def test_delta_points_cannot_be_written(version: str) -> None:
    metric = Metric("m", Kind.COUNTER, "", "", scope=SCOPE)
    block = point_block(metric, [Point(1)], temporality=Temporality.DELTA)
    with pytest.raises(ValueError, match="remote write has no delta temporality"):
        Encoding(version).requests([block])


def test_names_in_utf8_go_as_they_are_in_version_2() -> None:
    metric = Metric("retina.größe", Kind.COUNTER, "By", "", scope=SCOPE)
    encoding = Encoding(V2, strategy=TranslationStrategy.NO_TRANSLATION)
    (request,) = encoding.requests([point_block(metric, [Point(1, {"k8s.pod.name": "ä"})])])
    assert dict(request.series[1].labels) == {
        **SCOPE_LABELS,
        "job": "kube-system/retina-otel",
        "instance": "0e3c1c1e",
        "k8s.node.name": "node-0",
        "k8s.cluster.name": "prod",
        "k8s.pod.name": "ä",
        "__name__": "retina.größe",
    }


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
