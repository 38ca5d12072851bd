"""Remote write 1.0 and 2.0 are read by a strict decoder to the points that went in."""

from __future__ import annotations

import math
import struct

import pytest

from retina_otel.encode.prometheus.names import TranslationStrategy
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.points import PointBlock, Temporality
from retina_otel.testing.points import Point, point_block
from retina_otel.testing.remote_write import NORMAL_NAN, STALE, V2, Metadata
from tests.contract.remote_write_parts import (
    SCOPE,
    SCOPE_LABELS,
    START_MS,
    TIME_MS,
    TIMES,
    VERSIONS,
    Encoding,
    Labels,
    key,
)


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
def test_points_that_differ_in_what_the_resource_overrides_are_one_series(version: str) -> None:
    metric = Metric("m", Kind.COUNTER, "", "", scope=SCOPE)
    ends = [
        Point(1, {"job": "a"}, {"instance": "b"}, time_ns=8_000_000),
        Point(2, {"job": "c"}, time_ns=9_000_000),
        Point(3, own={"job": "d"}, time_ns=7_000_000),
    ]
    encoding = Encoding(version)
    assert encoding.values([point_block(metric, ends)]) == {key("m_total"): 2}
    assert encoding.encoder.duplicates == 2


@VERSIONS
def test_of_metrics_whose_names_become_one_the_newest_point_of_each_series_is_told(
    version: str,
) -> None:
    """Both have the very same attribute sets, and a zero point before the first."""
    sets = AttributeSets()
    zero = {**TIMES, "time_ns": TIMES["start_ns"]}
    blocks = [
        point_block(
            Metric(name, Kind.COUNTER, "By", "", scope=SCOPE),
            [Point(0, {"pod": "p"}, **zero), Point(value, {"pod": "p"}, **TIMES)],
            sets=sets,
        )
        for name, value in (("a.b", 3), ("a_b", 5))
    ]
    encoding = Encoding(version)
    assert encoding.values(blocks) == {key("a_b_bytes_total", pod="p"): 5}
    assert encoding.encoder.duplicates == 3


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
