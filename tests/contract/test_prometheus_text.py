"""Scrapes are read by Prometheus' own client parsers to the values that went in."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from retina_otel import __version__
from retina_otel.encode.prometheus.names import label_name
from retina_otel.encode.prometheus.text import PrometheusRenderer, render
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.points import PointBlock, Temporality
from retina_otel.testing.points import Point, point_block

SCOPE = "retina_otel.receivers.flows"
SCOPE_LABELS = {"otel_scope_name": SCOPE, "otel_scope_version": __version__}
RESOURCE = {"service.name": "retina-otel", "k8s.node.name": 'a "node" \\ of\nmine'}
TIMES = {"start_ns": 1_790_000_000_123_456_789, "time_ns": 1_790_000_015_000_000_000}

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: bytes, openmetrics: bool) -> dict[str, Family]:
    parse = (
        openmetrics_parser.text_string_to_metric_families
        if openmetrics
        else text_string_to_metric_families
    )
    families: Iterable[Family] = parse(text.decode())
    out: dict[str, Family] = {}
    for family in families:
        assert family.name not in out
        out[family.name] = family
    return out


def series(text: bytes, openmetrics: bool) -> Series:
    out: Series = {}
    for family in parsed(text, openmetrics).values():
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in out
            out[key] = sample.value
    return out


def expected_key(name: str, labels: dict[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset({**SCOPE_LABELS, **labels}.items())


def of(found: Series, name: str) -> Series:
    return {key: value for key, value in found.items() if key[0] == name}


@pytest.mark.parametrize("openmetrics", [False, True])
def test_counters_gauges_and_amounts_are_named_and_typed_as_the_collector_does(
    openmetrics: bool,
) -> None:
    blocks = [
        point_block(Metric(name, kind, unit, "Help.", scope=SCOPE, integer=integer), [point])
        for name, kind, unit, integer, point in (
            ("retina.flow.io", Kind.COUNTER, "By", True, Point(2**53 - 1, **TIMES)),
            ("retina.flow.packets", Kind.COUNTER, "{packet}", True, Point(7, **TIMES)),
            ("retina.coverage", Kind.GAUGE, "1", False, Point(0.5, **TIMES)),
            ("retina.up", Kind.UPDOWN, "1", True, Point(1, **TIMES)),
            ("link.speed", Kind.GAUGE, "By/s", True, Point(125, **TIMES)),
        )
    ]
    text = render(blocks, RESOURCE, openmetrics)
    families = parsed(text, openmetrics)
    types = {name: family.type for name, family in families.items() if "target" not in name}
    assert types == {
        "retina_flow_io_bytes": "counter",
        "retina_flow_packets": "counter",
        "retina_coverage_ratio": "gauge",
        "retina_up": "gauge",
        "link_speed_bytes_per_second": "gauge",
    }
    assert {f.documentation for n, f in families.items() if n in types} == {"Help."}
    if openmetrics:
        assert {name: families[name].unit for name in types} == {
            "retina_flow_io_bytes": "bytes",
            "retina_flow_packets": "",
            "retina_coverage_ratio": "ratio",
            "retina_up": "",
            "link_speed_bytes_per_second": "bytes_per_second",
        }
    found = series(text, openmetrics)
    assert found[expected_key("retina_flow_io_bytes_total", {})] == 2**53 - 1
    assert found[expected_key("retina_flow_packets_total", {})] == 7
    assert found[expected_key("retina_coverage_ratio", {})] == 0.5
    assert found[expected_key("retina_up", {})] == 1
    assert found[expected_key("link_speed_bytes_per_second", {})] == 125


def test_openmetrics_counters_say_when_they_began_to_the_nanosecond() -> None:
    metric = Metric("m", Kind.COUNTER, "By", "", scope=SCOPE)
    block = point_block(metric, [Point(3, {"a": "b"}, **TIMES)])
    text = render([block], {}, openmetrics=True, created=True).decode()
    assert 'm_bytes_created{otel_scope_name="retina_otel.receivers.flows"' in text
    assert text.splitlines()[-2].endswith(" 1790000000.123456789")
    assert text.endswith("# EOF\n")
    assert "_created" not in render([block], {}, created=True).decode()
    assert "_created" not in render([block], {}, openmetrics=True).decode()


@pytest.mark.parametrize("openmetrics", [False, True])
def test_the_resource_is_target_info(openmetrics: bool) -> None:
    text = render([], RESOURCE, openmetrics)
    (family,) = parsed(text, openmetrics).values()
    (sample,) = family.samples
    assert family.type == ("info" if openmetrics else "gauge")
    assert sample.name == "target_info"
    assert sample.value == 1
    assert sample.labels == {
        "service_name": "retina-otel",
        "k8s_node_name": 'a "node" \\ of\nmine',
    }


@pytest.mark.parametrize("openmetrics", [False, True])
def test_histograms_are_cumulative_buckets_with_count_and_sum(openmetrics: bool) -> None:
    metric = Metric("rtt", Kind.HISTOGRAM, "s", "Help.", scope=SCOPE, boundaries=(0.5, 2.0))
    block = point_block(metric, [Point(9.5, {"a": "b"}, buckets=(1, 2, 4), **TIMES)])
    text = render([block], {}, openmetrics, created=True)
    found = series(text, openmetrics)
    assert parsed(text, openmetrics)["rtt_seconds"].type == "histogram"
    expected = {
        expected_key("rtt_seconds_bucket", {"a": "b", "le": "0.5"}): 1,
        expected_key("rtt_seconds_bucket", {"a": "b", "le": "2.0"}): 3,
        expected_key("rtt_seconds_bucket", {"a": "b", "le": "+Inf"}): 7,
        expected_key("rtt_seconds_count", {"a": "b"}): 7,
        expected_key("rtt_seconds_sum", {"a": "b"}): 9.5,
    }
    created = {k: v for k, v in found.items() if k[0].endswith("_created")}
    assert {k: v for k, v in found.items() if k not in created} == expected
    assert len(created) == openmetrics


@pytest.mark.parametrize("openmetrics", [False, True])
@given(data=st.data())
@settings(deadline=None)
def test_any_label_value_and_number_survives_the_parser(
    openmetrics: bool, data: st.DataObject
) -> None:
    texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=30)
    rows = data.draw(st.dictionaries(texts, st.floats(), min_size=1, max_size=10))
    integers = data.draw(st.dictionaries(texts, st.integers(-(2**53), 2**53), min_size=1))
    doubles = Metric("d", Kind.GAUGE, "s", data.draw(texts), scope=SCOPE, integer=False)
    whole = Metric("i", Kind.UPDOWN, "", data.draw(texts), scope=SCOPE)
    blocks = [
        point_block(doubles, [Point(value, {"text": text}) for text, value in rows.items()]),
        point_block(whole, [Point(value, {"text": text}) for text, value in integers.items()]),
    ]
    found = series(render(blocks, {}, openmetrics), openmetrics)
    expected = {
        **{expected_key("d_seconds", {"text": text}): value for text, value in rows.items()},
        **{expected_key("i", {"text": text}): value for text, value in integers.items()},
    }
    assert {k: str(float(v)) for k, v in found.items()} == {
        k: str(float(v)) for k, v in expected.items()
    }


def test_an_ended_series_is_left_out_and_so_is_a_family_of_ended_series() -> None:
    one = Metric("one", Kind.COUNTER, "By", "", scope=SCOPE)
    two = Metric("two", Kind.COUNTER, "By", "", scope=SCOPE)
    blocks = [
        point_block(one, [Point(1, {"a": "x"}), Point(2, {"a": "y"}, no_value=True)]),
        point_block(two, [Point(1, no_value=True)]),
    ]
    text = render(blocks, {})
    assert series(text, False) == {expected_key("one_bytes_total", {"a": "x"}): 1}
    assert b"two" not in text


def test_of_points_whose_attributes_become_the_same_labels_the_newest_stands_there() -> None:
    metric = Metric("m", Kind.COUNTER, "By", "", scope=SCOPE)
    sets = AttributeSets()
    renderer = PrometheusRenderer({})
    blocks = [
        point_block(
            metric,
            [Point(1, {"a.b": "x"}, time_ns=9), Point(2, {"a_b": "x"}, time_ns=8)],
            sets=sets,
        ),
        point_block(metric, [Point(3, own={"a-b": "x"}, time_ns=10), Point(4, own={"a-b": "y"})]),
        point_block(metric, [Point(5, {"a.b": "x", "empty": ""}, time_ns=1)]),
    ]
    assert series(renderer.render(blocks), False) == {
        expected_key("m_bytes_total", {"a_b": "x"}): 3,
        expected_key("m_bytes_total", {"a_b": "y"}): 4,
    }
    assert renderer.families.duplicates == 3
    renderer.render(blocks[:1])
    assert renderer.families.duplicates == 1


def test_attributes_of_one_series_that_become_one_label_are_joined_in_key_order() -> None:
    metric = Metric("m", Kind.COUNTER, "By", "", scope=SCOPE)
    block = point_block(
        metric,
        [
            Point(1, {"a.b": "2", "a-b": "1"}),
            Point(2, {"a_b": "3"}, own={"a.b": "2", "c": "4"}),
            Point(3, {"a_b": "3"}, own={"c": "4"}),
        ],
    )
    assert series(render([block], {}), False) == {
        expected_key("m_bytes_total", {"a_b": "1;2"}): 1,
        expected_key("m_bytes_total", {"a_b": "2;3", "c": "4"}): 2,
        expected_key("m_bytes_total", {"a_b": "3", "c": "4"}): 3,
    }


def test_joined_labels_that_another_series_has_as_they_are_make_no_second_point() -> None:
    metric = Metric("m", Kind.COUNTER, "By", "", scope=SCOPE)
    joined = Point(1, {"a.b": "2"}, own={"a_b": "3"}, time_ns=10)
    renderer = PrometheusRenderer({})
    block = point_block(metric, [joined, Point(2, own={"a_b": "2;3"}, time_ns=11)])
    assert series(renderer.render([block]), False) == {
        expected_key("m_bytes_total", {"a_b": "2;3"}): 2
    }
    assert renderer.families.duplicates == 1


def test_a_name_taken_by_another_type_is_left_out_and_said() -> None:
    renderer = PrometheusRenderer({"service.name": "x"})

    def block(name: str, kind: Kind, unit: str = "") -> PointBlock:
        boundaries = (1.0,) if kind is Kind.HISTOGRAM else ()
        metric = Metric(name, kind, unit, "", scope=SCOPE, boundaries=boundaries)
        return point_block(metric, [Point(1, own={"kind": kind.value + name})])

    text = renderer.render(
        [
            block("a.b", Kind.COUNTER),
            block("a_b", Kind.GAUGE),
            block("a.b.total", Kind.UPDOWN),
            block("a-b", Kind.COUNTER),
            block("h", Kind.HISTOGRAM),
            block("h.count", Kind.GAUGE),
            block("target", Kind.GAUGE),
            block("äö", Kind.GAUGE),
        ]
    )
    assert renderer.families.conflicts == {
        "a_b": "a_b is already another metric",
        "a.b.total": "a_b_total is already another metric",
        "h.count": "h_count is already another metric",
        "target": "target is already another metric",
        "äö": "no character of its name can stand in Prometheus",
    }
    found = series(text, False)
    assert sorted(dict(labels)["kind"] for _, labels in of(found, "a_b_total")) == [
        "countera-b",
        "countera.b",
    ]
    assert series(renderer.render([block("a_b", Kind.GAUGE)]), False)
    assert renderer.families.conflicts == {}


def test_delta_points_cannot_be_scraped() -> None:
    metric = Metric("m", Kind.COUNTER, "By", "", scope=SCOPE)
    block = point_block(metric, [Point(1)], temporality=Temporality.DELTA)
    with pytest.raises(ValueError, match="delta"):
        render([block], {})


def test_a_reused_set_id_is_rendered_with_its_new_meaning() -> None:
    metric = Metric("m", Kind.COUNTER, "By", "", scope=SCOPE)
    sets = AttributeSets()
    renderer = PrometheusRenderer({})
    block = point_block(metric, [Point(1, {"a": "old"})], sets=sets)
    renderer.render([block])
    number = int(block.source[0])
    sets.generation += 1
    sets.reclaim(before=sets.generation)
    again = point_block(metric, [Point(1, {"b": "new"})], sets=sets)
    assert int(again.source[0]) == number
    assert series(renderer.render([again]), False) == {
        expected_key("m_bytes_total", {"b": "new"}): 1
    }


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("source.k8s.pod.name", "source_k8s_pod_name"),
        ("a..b__c", "a_b_c"),
        ("1st", "key_1st"),
        ("__name__", "exported___name__"),
        ("le", "exported_le"),
        ("é", ""),
        ("_", ""),
    ],
)
def test_label_names_follow_the_translation_of_prometheus(key: str, label: str) -> None:
    assert label_name(key) == label


def test_special_numbers_are_written_as_prometheus_writes_them() -> None:
    metric = Metric("m", Kind.GAUGE, "", "", scope=SCOPE, integer=False)
    values = [math.nan, math.inf, -math.inf, 1e300]
    block = point_block(metric, [Point(v, {"i": i}) for i, v in enumerate(values)])
    ends = [line.rsplit(" ", 1)[1] for line in render([block], {}).decode().splitlines()[1:]]
    assert ends == ["NaN", "+Inf", "-Inf", "1e+300"]
