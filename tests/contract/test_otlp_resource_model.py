"""`resource_model: entity` frames the same points anew: a pod's under a resource of its own."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from retina_otel.delivery.otlp_wire import METRICS
from retina_otel.encode.otlp import MetricsEncoder
from retina_otel.encode.otlp.json_lines import JsonMetricsEncoder
from retina_otel.encode.resources import SHARED
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.signals import Ends, Kind, Metric
from retina_otel.pipeline.points import PointBlock, ResourceModel
from retina_otel.testing.otlp import points_of
from retina_otel.testing.otlp_data import ReceivedPoint
from retina_otel.testing.points import Point, point_block

AGENT: dict[str, str | int | bool] = {
    "service.name": "retina-otel",
    "k8s.cluster.uid": "c",
    "k8s.node.name": "node-1",
    "k8s.node.uid": "n",
    "cloud.region": "here",
    "host.name": "node-1",
}
OF_THE_POD_TOO = {key: value for key, value in AGENT.items() if key in SHARED}
SCOPE = "retina_otel.receivers.interfaces"
ONE = (
    Metric("io", Kind.COUNTER, "By", "Bytes.", ends=Ends.ONE, scope=SCOPE),
    Metric("up", Kind.UPDOWN, "1", "", ends=Ends.ONE, scope=SCOPE),
    Metric("rtt", Kind.HISTOGRAM, "s", "", ends=Ends.ONE, scope="third.party", boundaries=(1.0,)),
)
BOTH = Metric("flow", Kind.COUNTER, "By", "", ends=Ends.BOTH, scope="retina_otel.receivers.flows")


def pod(number: int) -> dict[str, str | int | bool | float]:
    return {
        "k8s.namespace.name": "shop",
        "k8s.pod.name": f"web-{number}",
        "k8s.pod.uid": f"u{number}",
        "k8s.owner.name": "web",
    }


ENDS: st.SearchStrategy[dict[str, str | int | bool | float]] = st.one_of(
    st.integers(0, 4).map(pod),
    st.just({}),
    st.just({"k8s.node.name": "node-1"}),
    st.just({"k8s.namespace.name": "shop"}),
)


@st.composite
def blocks(draw: st.DrawFn) -> list[PointBlock]:
    """Each point has a value of its own. Of the two pipelines that may feed an exporter each has
    attribute sets of its own."""
    pipelines = AttributeSets(), AttributeSets()
    number = 0
    out = []
    for metric in draw(st.lists(st.sampled_from((*ONE, BOTH)), max_size=6)):
        points = []
        for end in draw(st.lists(ENDS, max_size=12)):
            number += 1
            source = end
            if metric is BOTH:
                source = {f"source.{key}": value for key, value in end.items()}
            points.append(
                Point(
                    number,
                    source,
                    own={"n": number},
                    no_value=draw(st.booleans()),
                    buckets=(number, 1) if metric.kind is Kind.HISTOGRAM else (),
                )
            )
        out.append(point_block(metric, points, sets=draw(st.sampled_from(pipelines))))
    return out


def received(body: bytes) -> list[ReceivedPoint]:
    return list(points_of([ExportMetricsServiceRequest.FromString(body)]))


def entity(**options: Any) -> MetricsEncoder:
    return MetricsEncoder(AGENT, resource_model=ResourceModel.ENTITY, **options)


def what(point: ReceivedPoint) -> tuple[Any, ...]:
    """All that a point says but where its end stands."""
    said = {key: value for key, value in point.attributes.items() if not key.startswith("k8s.")}
    stamps = point.start_ns, point.time_ns, point.value, point.no_value
    return point.scope, point.metric, frozenset(said.items()), stamps


def ends(point: ReceivedPoint) -> dict[str, Any]:
    """The one end of a point, wherever it stands."""
    found = {**point.resource, **point.attributes}
    return {key: found[key] for key in pod(0) if key in found}


@given(blocks(), st.integers(500, 6000))
@settings(deadline=None)
def test_points_are_those_of_flat_and_pods_are_resources(
    given_blocks: list[PointBlock], max_bytes: int
) -> None:
    flat = [p for body in MetricsEncoder(AGENT).encode(given_blocks) for p in received(body)]
    requests = list(entity().requests(given_blocks, max_bytes))
    framed = [point for request in requests for point in received(request.body)]

    assert Counter(map(what, framed)) == Counter(map(what, flat))
    assert {what(p): ends(p) for p in framed} == {what(p): ends(p) for p in flat}
    for point in framed:
        of_pod = "k8s.pod.uid" in ends(point) and point.metric != BOTH.name
        assert point.resource == ({**OF_THE_POD_TOO, **ends(point)} if of_pod else AGENT)
        assert not (of_pod and any(key.startswith("k8s.") for key in point.attributes))


@given(blocks(), st.integers(500, 6000))
@settings(deadline=None)
def test_each_resource_stands_once_in_a_request_of_at_most_its_size(
    given_blocks: list[PointBlock], max_bytes: int
) -> None:
    for request in entity(entity_refs=True).requests(given_blocks, max_bytes):
        message = ExportMetricsServiceRequest.FromString(request.body)
        resources = [one.resource.SerializeToString() for one in message.resource_metrics]
        assert len(set(resources)) == len(resources)
        assert len(request.body) <= max_bytes or request.n_items == 1
        assert request.n_items == METRICS.count(request.body) == len(received(request.body))
        for one in message.resource_metrics:
            scopes = [scope.scope.name for scope in one.scope_metrics]
            assert len(set(scopes)) == len(scopes)
            for scope in one.scope_metrics:
                names = [metric.name for metric in scope.metrics]
                assert len(set(names)) == len(names)


@given(blocks())
@settings(deadline=None)
def test_lines_of_json_say_what_the_protobuf_bytes_say(given_blocks: list[PointBlock]) -> None:
    bodies = list(entity(entity_refs=True).encode(given_blocks))
    encoder = JsonMetricsEncoder(AGENT, resource_model=ResourceModel.ENTITY, entity_refs=True)
    written = list(encoder.encode(given_blocks))
    assert [
        json_format.ParseDict(json.loads(line), ExportMetricsServiceRequest()) for line in written
    ] == [ExportMetricsServiceRequest.FromString(body) for body in bodies]


@given(blocks())
@settings(deadline=None)
def test_a_request_that_is_too_large_is_halved_between_points(
    given_blocks: list[PointBlock],
) -> None:
    for body in entity().encode(given_blocks):
        halves = METRICS.split(body)
        if halves is not None:
            both = [point for half in halves for point in received(half)]
            assert both == received(body)


def test_a_pods_resource_is_a_pod_and_says_so_when_asked_to() -> None:
    block = point_block(ONE[0], [Point(1, pod(0)), Point(2)])
    (body,) = entity(entity_refs=True).encode([block])
    message = ExportMetricsServiceRequest.FromString(body)
    agent, of_pod = (
        [(ref.type, *ref.id_keys, *ref.description_keys) for ref in one.resource.entity_refs]
        for one in message.resource_metrics
    )
    cluster = ("k8s.cluster", "k8s.cluster.uid")
    node = ("k8s.node", "k8s.node.uid", "k8s.node.name")
    assert agent == [cluster, node]
    assert of_pod == [cluster, node, ("k8s.pod", "k8s.pod.uid", "k8s.pod.name")]


def test_a_pod_that_becomes_another_set_gets_its_resource_anew() -> None:
    """Ids of attribute sets are given again; the bytes that are kept are not the other's."""
    sets = AttributeSets()
    encoder = entity()
    ids = set()
    for number in range(3):
        block = point_block(ONE[0], [Point(1, pod(number))], sets=sets)
        ids.add(int(block.source[0]))
        (body,) = encoder.encode([block])
        assert [point.resource["k8s.pod.uid"] for point in received(body)] == [f"u{number}"]
        sets.generation += 1
        sets.reclaim(sets.generation)
    assert len(ids) == 1
