"""OTLP/JSON lines say what the protobuf bytes of the same data say, in the Collector's spelling."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from retina_otel import __version__
from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.encode.otlp.json_lines import JsonLogsEncoder, JsonMetricsEncoder
from retina_otel.model.signals import Event, Kind, Metric
from retina_otel.pipeline.points import Temporality
from retina_otel.testing.points import Occurrence, Point, event_block, point_block

RESOURCE: dict[str, str | int | bool] = {"service.name": "retina-otel", "host.cpus": 2, "on": True}
SCOPE = "retina_otel.receivers.flows"
GOLDEN = Path(__file__).with_name("golden")
INT64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 2**63 - 1, -(2**63)]))
TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
VALUES: dict[str, st.SearchStrategy[str | int | bool | float]] = {
    "text": TEXT,
    "int": INT64,
    "bool": st.booleans(),
    "double": st.floats().filter(bool),
}
TIMES = st.integers(0, 2**63 - 1)


def prefixed(prefix: str) -> st.SearchStrategy[dict[str, str | int | bool | float]]:
    """Zero is no double here: attribute sets, as Python, take 0.0 and -0.0 for the same."""
    keyed = st.one_of(
        st.tuples(TEXT.map(lambda key, name=name: prefix + name + key), values)
        for name, values in VALUES.items()
    )
    return st.lists(keyed, max_size=4).map(dict)


def points(kind: Kind, integer: bool, buckets: int) -> st.SearchStrategy[list[Point]]:
    value = INT64 if integer else st.floats()
    counts = st.lists(st.integers(0, 2**40), min_size=buckets, max_size=buckets)
    point = st.builds(
        Point,
        value=value,
        source=prefixed("source."),
        destination=prefixed("destination."),
        own=prefixed("own."),
        start_ns=TIMES,
        time_ns=TIMES,
        no_value=st.booleans(),
        buckets=counts if kind is Kind.HISTOGRAM else st.just(()),
    )
    return st.lists(point, min_size=1, max_size=20)


@st.composite
def metrics(draw: st.DrawFn) -> tuple[Metric, Temporality, list[Point]]:
    kind = draw(st.sampled_from(Kind))
    integer = kind is not Kind.HISTOGRAM and draw(st.booleans())
    boundaries = tuple(sorted(draw(st.sets(st.floats(-1e9, 1e9), max_size=8))))
    metric = Metric(
        name=draw(TEXT),
        kind=kind,
        unit=draw(st.sampled_from(["By", ""])),
        brief=draw(TEXT),
        scope=draw(st.sampled_from([SCOPE, "third.party", ""])),
        integer=integer,
        boundaries=boundaries if kind is Kind.HISTOGRAM else (),
    )
    return (
        metric,
        draw(st.sampled_from((Temporality.CUMULATIVE, Temporality.DELTA))),
        draw(points(kind, integer, len(metric.boundaries) + 1)),
    )


def lines(bodies: Iterator[bytes]) -> list[dict[str, Any]]:
    out = []
    for body in bodies:
        assert body.endswith(b"\n")
        assert body.count(b"\n") == 1
        out.append(json.loads(body, parse_int=_zero_with_sign))
    return out


def _zero_with_sign(text: str) -> float:
    """The Collector writes -0, which is a double; Python's json drops its sign."""
    return -0.0 if text == "-0" else int(text)


def canonical(message: Message) -> str:
    """Text that is equal for equal messages, also where they hold NaN."""
    return json_format.MessageToJson(message, use_integers_for_enums=True, sort_keys=True)


@given(metrics())
@settings(deadline=None)
def test_metric_lines_parse_to_the_message_that_the_protobuf_bytes_hold(
    case: tuple[Metric, Temporality, list[Point]],
) -> None:
    metric, temporality, rows = case
    block = point_block(metric, rows, temporality=temporality)
    (body,) = MetricsEncoder(RESOURCE).encode([block])
    expected = ExportMetricsServiceRequest.FromString(body)
    (line,) = lines(JsonMetricsEncoder(RESOURCE).encode([block]))
    assert canonical(json_format.ParseDict(line, ExportMetricsServiceRequest())) == canonical(
        expected
    )


@given(metrics())
@settings(deadline=None)
def test_metric_lines_are_spelled_as_protobufs_own_json(
    case: tuple[Metric, Temporality, list[Point]],
) -> None:
    """Apart from defaults that protobuf leaves out and the Collector writes: empty messages."""
    metric, temporality, rows = case
    block = point_block(metric, rows, temporality=temporality)
    (body,) = MetricsEncoder(RESOURCE).encode([block])
    message = ExportMetricsServiceRequest.FromString(body)
    expected = json_format.MessageToDict(message, use_integers_for_enums=True)
    (line,) = JsonMetricsEncoder(RESOURCE).encode([block])
    assert numbers_as_doubles(line.decode()) == numbers_as_doubles(json.dumps(expected))


def numbers_as_doubles(text: str) -> str:
    """The Collector writes whole doubles without a fraction; 64-bit integers are strings."""
    return json.dumps(json.loads(text, parse_int=float), sort_keys=True)


@given(
    st.lists(
        st.builds(
            Occurrence,
            source=prefixed("source."),
            destination=prefixed("destination."),
            own=prefixed("own."),
            integers=st.fixed_dictionaries({"n": INT64}),
            time_ns=TIMES,
        ),
        min_size=1,
        max_size=20,
    )
)
@settings(deadline=None)
def test_event_lines_parse_to_the_message_that_the_protobuf_bytes_hold(
    occurrences: list[Occurrence],
) -> None:
    event = Event("retina.drop", 13, "Dropped.", scope=SCOPE)
    block = event_block(event, occurrences, body="{n} packets ä")
    (body,) = LogsEncoder(RESOURCE).encode([block])
    expected = ExportLogsServiceRequest.FromString(body)
    (line,) = lines(JsonLogsEncoder(RESOURCE).encode([block]))
    assert canonical(json_format.ParseDict(line, ExportLogsServiceRequest())) == canonical(expected)


def test_lines_cut_by_size_hold_every_point_once() -> None:
    metric = Metric("m", Kind.COUNTER, "By", "Bytes.", scope=SCOPE)
    block = point_block(metric, [Point(i, {"i": i}) for i in range(997)])
    requests = list(JsonMetricsEncoder(RESOURCE).requests([block], max_bytes=5000))
    assert all(len(request.body) <= 5000 for request in requests)
    values = [
        int(point["asInt"])
        for line in lines(request.body for request in requests)
        for point in line["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["sum"][
            "dataPoints"
        ]
    ]
    assert values == list(range(997))
    assert sum(request.n_items for request in requests) == 997


def test_lines_are_byte_for_byte_those_of_the_collectors_file_exporter() -> None:
    counter = Metric("retina.flow.io", Kind.COUNTER, "By", "Bytes.", scope=SCOPE)
    gauge = Metric("g", Kind.GAUGE, "1", "", scope=SCOPE, integer=False)
    histogram = Metric("h", Kind.HISTOGRAM, "s", "", scope=SCOPE, boundaries=(0.5, 2.0))
    times = {"start_ns": 10**18 + 1, "time_ns": 10**18 + 2}
    blocks = [
        point_block(
            counter,
            [
                Point(2**53 + 1, {"source.k8s.pod.name": "wëb<&>"}, own={"n": 7}, **times),
                Point(0, own={"up": False, "ratio": 0.5}, no_value=True, **times),
            ],
        ),
        point_block(gauge, [Point(0.25, **times), Point(3.0, own={"a": ""}, **times)]),
        point_block(histogram, [Point(1.5, buckets=(2, 1, 0), **times)]),
    ]
    (line,) = JsonMetricsEncoder({"service.name": "retina-otel"}).encode(blocks)
    expected = (GOLDEN / "metrics.jsonl").read_text().replace("VERSION", __version__)
    assert line.decode() == expected


def test_event_lines_are_byte_for_byte_those_of_the_collectors_file_exporter() -> None:
    event = Event("retina.drop", 13, "", scope=SCOPE)
    rows = [
        Occurrence({"source.k8s.pod.name": "web"}, integers={"n": 3}, time_ns=10**18),
        Occurrence(own={"reason": 'a "quoted" \\ line\nbreak'}, integers={"n": -1}, time_ns=5),
    ]
    block = event_block(event, rows, body="{n} from {source_k8s_pod_name}", observed_ns=10**18 + 9)
    (line,) = JsonLogsEncoder({"service.name": "retina-otel"}).encode([block])
    expected = (GOLDEN / "logs.jsonl").read_text().replace("VERSION", __version__)
    assert line.decode() == expected
