"""Encoding details that no comparison with the SDK can show: caches, sizes, odd values."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from retina_otel import __version__
from retina_otel.encode import protobuf
from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.encode.set_cache import MAX_TABLES, SetCache, SetTable
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.signals import SCHEMA_URL, Event, Kind, Metric
from retina_otel.pipeline.points import PointBlock, Temporality
from retina_otel.testing.otlp import points_of, records_of
from retina_otel.testing.points import Occurrence, Point, event_block, point_block

SCOPE = "retina_otel.receivers.flows"
METRIC = Metric("m", Kind.COUNTER, "By", "Bytes.", scope=SCOPE)
INT64 = st.integers(-(2**63), 2**63 - 1)


def requests_of(
    encoder: MetricsEncoder, blocks: Iterable[PointBlock], max_bytes: int = 4_000_000
) -> list[ExportMetricsServiceRequest]:
    return [ExportMetricsServiceRequest.FromString(b) for b in encoder.encode(blocks, max_bytes)]


def attributes_seen(encoder: MetricsEncoder, block: PointBlock) -> list[dict[str, object]]:
    return [point.attributes for point in points_of(requests_of(encoder, [block]))]


@given(st.lists(INT64, min_size=1, max_size=50))
def test_integer_columns_are_encoded_as_protobuf_encodes_each_value(values: list[int]) -> None:
    objects, lengths = protobuf.integer_attributes(6, "größe", np.array(values, np.int64))
    for value, encoded, length in zip(values, objects.tolist(), lengths.tolist(), strict=True):
        pair = KeyValue(key="größe", value=AnyValue(int_value=value)).SerializeToString()
        assert encoded == b"\x32" + bytes([len(pair)]) + pair
        assert length == len(encoded)


@given(st.integers(0, 2**63 - 1))
def test_widths_of_varints_are_their_lengths(value: int) -> None:
    (width,) = protobuf.varint_widths(np.array([value], np.int64)).tolist()
    assert width == len(protobuf.varint(value))
    assert protobuf.varint_bytes(np.array([value], np.int64), width).tobytes() == protobuf.varint(
        value
    )


def test_integers_beyond_64_bits_are_decimal_strings() -> None:
    seen = attributes_seen(MetricsEncoder({}), point_block(METRIC, [Point(1, {"n": 2**63})]))
    assert seen == [{"n": "9223372036854775808"}]


def test_text_that_is_no_unicode_is_shown_with_replacement_characters() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    seen = attributes_seen(MetricsEncoder({}), point_block(METRIC, [Point(1, {"name": name})]))
    assert seen == [{"name": "caf\N{REPLACEMENT CHARACTER}"}]


def test_a_reused_set_id_is_encoded_with_its_new_meaning() -> None:
    sets = AttributeSets()
    encoder = MetricsEncoder({})
    old = point_block(METRIC, [Point(1, {"a": "old"})], sets=sets)
    assert attributes_seen(encoder, old) == [{"a": "old"}]
    sets.generation += 1
    sets.reclaim(before=sets.generation)
    new = point_block(METRIC, [Point(1, {"b": "new"})], sets=sets)
    assert new.source.tolist() == old.source.tolist()
    assert attributes_seen(encoder, new) == [{"b": "new"}]


def test_equal_ids_of_different_tables_are_kept_apart() -> None:
    encoder = MetricsEncoder({})
    blocks = [point_block(METRIC, [Point(i, {"i": i})]) for i in range(3 * MAX_TABLES)]
    for _ in range(2):
        (request,) = requests_of(encoder, blocks)
        assert [p.attributes["i"] for p in points_of([request])] == list(range(3 * MAX_TABLES))


def test_the_table_used_longest_ago_is_dropped_first() -> None:
    made: list[AttributeSets] = []

    def make(sets: AttributeSets) -> SetTable:
        made.append(sets)
        return SetTable(sets, lambda pairs: b"")

    cache = SetCache(make)
    every = [AttributeSets() for _ in range(MAX_TABLES + 1)]
    for sets in every[:-1]:
        cache.table(sets)
    cache.table(every[0])
    cache.table(every[-1])
    made.clear()
    cache.table(every[0])
    assert made == []
    cache.table(every[1])
    assert made == [every[1]]


def test_sets_interned_after_the_first_export_are_encoded_in_the_next() -> None:
    sets = AttributeSets()
    encoder = MetricsEncoder({})
    for n in (1, 5, 200):
        block = point_block(METRIC, [Point(1, {"i": i}) for i in range(n)], sets=sets)
        assert attributes_seen(encoder, block) == [{"i": i} for i in range(n)]


def test_blocks_of_one_metric_are_one_metric_and_scopes_are_not_repeated() -> None:
    other = Metric("n", Kind.GAUGE, "1", "", scope=SCOPE)
    foreign = Metric("m", Kind.COUNTER, "By", "Bytes.", scope="vendor.receiver")
    blocks = [
        point_block(metric, [Point(i)])
        for i, metric in enumerate([METRIC, foreign, other, METRIC, foreign])
    ]
    (request,) = requests_of(MetricsEncoder({}), blocks)
    (resource,) = request.resource_metrics
    found = {
        scope.scope.name: {m.name: len(m.sum.data_points or m.gauge.data_points)}
        for scope in resource.scope_metrics
        for m in scope.metrics[:1]
    }
    assert found == {SCOPE: {"m": 2}, "vendor.receiver": {"m": 2}}
    assert [len(scope.metrics) for scope in resource.scope_metrics] == [2, 1]


def test_only_our_scopes_have_our_version_and_schema() -> None:
    blocks = [
        point_block(Metric("m", Kind.GAUGE, "1", "", scope=scope), [Point(1)])
        for scope in (SCOPE, "retina_otel_vendor", "")
    ]
    (request,) = requests_of(MetricsEncoder({}), blocks)
    found = [
        (s.scope.name, s.scope.version, s.schema_url)
        for s in request.resource_metrics[0].scope_metrics
    ]
    assert found == [
        (SCOPE, __version__, SCHEMA_URL),
        ("retina_otel_vendor", "", ""),
        ("", "", ""),
    ]


def test_both_temporalities_of_one_metric_stand_apart() -> None:
    both = (Temporality.CUMULATIVE, Temporality.DELTA)
    blocks = [point_block(METRIC, [Point(1)], temporality=t) for t in both]
    (request,) = requests_of(MetricsEncoder({}), blocks)
    metrics = request.resource_metrics[0].scope_metrics[0].metrics
    assert sorted(m.sum.aggregation_temporality for m in metrics) == [1, 2]


def test_the_resource_says_which_entities_it_is_when_asked_to() -> None:
    resource = {"k8s.node.uid": "u", "k8s.node.name": "n", "service.name": "x"}
    block = point_block(METRIC, [Point(1)])
    (request,) = requests_of(MetricsEncoder(resource, entity_refs=True), [block])
    (found,) = request.resource_metrics[0].resource.entity_refs
    assert (found.type, list(found.id_keys), list(found.description_keys)) == (
        "k8s.node",
        ["k8s.node.uid"],
        ["k8s.node.name"],
    )
    (plain,) = requests_of(MetricsEncoder(resource), [block])
    assert not plain.resource_metrics[0].resource.entity_refs


def test_an_export_of_many_scopes_and_metrics_is_cut_below_the_limit_and_loses_nothing() -> None:
    blocks = [
        point_block(
            Metric(f"m{m}", kind, "By", "x" * 50, scope=f"scope{s}"),
            [Point(i, {"pod": f"pod-{i}" * (i % 40)}, no_value=i % 7 == 0) for i in range(97)],
        )
        for s, m, kind in itertools.product(range(3), range(3), (Kind.COUNTER, Kind.GAUGE))
    ]
    encoder = MetricsEncoder({"service.name": "x"})
    whole = list(points_of(requests_of(encoder, blocks)))
    assert len(whole) == 18 * 97
    for max_bytes in (700, 1500, 4096, 50_000):
        requests = list(encoder.requests(blocks, max_bytes))
        assert max(len(request.body) for request in requests) <= max_bytes
        parsed = [ExportMetricsServiceRequest.FromString(request.body) for request in requests]
        assert list(points_of(parsed)) == whole
        assert sum(request.n_items for request in requests) == len(whole)


def test_requests_are_filled_close_to_the_limit() -> None:
    block = point_block(METRIC, [Point(i, {"pod": f"{i:05}"}) for i in range(20_000)])
    sizes = [len(body) for body in MetricsEncoder({}).encode([block], 100_000)]
    assert all(99_500 < size <= 100_000 for size in sizes[:-1])


def test_a_point_larger_than_the_limit_is_sent_alone() -> None:
    block = point_block(METRIC, [Point(1), Point(2, {"a": "x" * 5000}), Point(3)])
    found = [
        [point.value for point in points_of([request])]
        for request in requests_of(MetricsEncoder({}), [block], 1000)
    ]
    assert found == [[1], [2], [3]]


def body_of(template: str, *occurrences: Occurrence) -> list[str]:
    event = Event("retina.drop", 13, "", scope=SCOPE)
    bodies = LogsEncoder({}).encode([event_block(event, occurrences, body=template)])
    requests = [ExportLogsServiceRequest.FromString(body) for body in bodies]
    return [record.body for record in records_of(requests)]


def test_bodies_are_filled_from_all_attributes_of_each_event() -> None:
    assert body_of(
        "{n} packets, {share:.1f} %, from {source_k8s_pod_name} ({retina_drop_reason!r}, {up})",
        Occurrence(
            {"source.k8s.pod.name": "web"},
            own={"retina.drop.reason": "netfilter_drop", "up": True, "share": 99.96},
            integers={"n": 3},
        ),
        Occurrence(
            own={"retina.drop.reason": "no_socket", "up": False, "share": 1.0},
            integers={"n": -1},
        ),
    ) == [
        "3 packets, 100.0 %, from web ('netfilter_drop', true)",
        "-1 packets, 1.0 %, from unknown ('no_socket', false)",
    ]


@pytest.mark.parametrize("text", ["100 %", "%s", "{{braces}}", "ä" * 63, "x" * 125, "x" * 126])
def test_bodies_without_fields_are_taken_as_they_are(text: str) -> None:
    shown = text.replace("{{", "{").replace("}}", "}")
    assert body_of(text, Occurrence(), Occurrence()) == [shown, shown]


@pytest.mark.parametrize(
    ("template", "shown"),
    [("{n", "{n"), ("n}", "n}"), ("{n:.1q}", "3"), ("{text:.1f}", "a"), ("{a.b} {0}", None)],
)
def test_a_wrong_template_loses_no_event(template: str, shown: str | None) -> None:
    (body,) = body_of(template, Occurrence(own={"text": "a"}, integers={"n": 3}))
    assert body == (shown or "unknown unknown")


def test_many_events_are_cut_below_the_limit_and_keep_their_order() -> None:
    event = Event("e", 9, "", scope=SCOPE)
    block = event_block(event, [Occurrence(integers={"n": n}) for n in range(20_011)], body="{n}")
    requests = list(LogsEncoder({"a": "b"}).requests([block], 10_000))
    assert max(len(request.body) for request in requests) <= 10_000
    parsed = [ExportLogsServiceRequest.FromString(request.body) for request in requests]
    found = list(records_of(parsed))
    assert [record.attributes["n"] for record in found] == list(range(20_011))
    assert [record.body for record in found] == [str(n) for n in range(20_011)]
    assert sum(request.n_items for request in requests) == 20_011
