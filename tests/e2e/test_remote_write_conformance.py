"""Our remote write against the real Prometheus 3: the same series as the Collector's translation.

The Collector's exporter and Prometheus' own OTLP receiver are given the same points by OTLP. Where
nothing is said of it, nothing may be refused: this Prometheus takes no sample out of order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from retina_otel.encode.otlp import MetricsEncoder
from retina_otel.encode.prometheus.names import TranslationStrategy
from retina_otel.exporters.prometheus_remote_write import (
    PrometheusRemoteWriteExporter,
    PrometheusRemoteWriteSettings,
)
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.points import PointBlock
from retina_otel.testing.backends import Collector, Prometheus, running
from retina_otel.testing.exporters import Bench, MetricsFeed, Source
from retina_otel.testing.points import Point, point_block
from tests.e2e.agent import wait_until
from tests.e2e.test_scrape_conformance import METRICS, SCOPE, points

STRATEGIES = tuple(TranslationStrategy)
RESOURCE: dict[str, str | int | bool] = {
    "service.namespace": "kube-system",
    "service.name": "retina-otel",
    "service.instance.id": "one",
    "k8s.node.name": 'a "node" \\ of\nmine',
    "k8s.cluster.name": "prod",
    "grün": "7",
}
IN_ORDER = {"storage": {"tsdb": {"out_of_order_time_window": "0s"}}}
CASES = [
    (protocol, strategy)
    for strategy in STRATEGIES
    for protocol in ("1.0", "2.0")
    if strategy.escapes or protocol == "2.0"
]
RW2 = "exporter.prometheusremotewritexporter.enableSendingRW2"
Found = dict[frozenset[tuple[str, str]], str]


def sent(feed: MetricsFeed, prometheus: Prometheus, **settings: Any) -> Bench:
    """Sends what the feed has, to the end."""
    bench = Bench(id="prometheus_remote_write", resource=RESOURCE)
    chosen = {"endpoint": prometheus.remote_write_url, "interval": "50ms", **settings}
    exporter = PrometheusRemoteWriteExporter(
        PrometheusRemoteWriteSettings.model_validate(chosen), bench.context()
    )
    exporter.start([feed], [])
    exporter.stop(bench.deadline_ns(20))
    report = bench.ledger.report()
    assert (report.difference, dict(report.lost), bench.reasons) == (0, {}, [])
    return bench


@pytest.fixture(scope="module")
def blocks() -> list[PointBlock]:
    sets = AttributeSets()
    return [point_block(metric, points(metric), sets=sets) for metric in METRICS]


@pytest.fixture(scope="module")
def feed(blocks: list[PointBlock]) -> MetricsFeed:
    feed = MetricsFeed()
    feed.publish(1, blocks)
    return feed


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[PointBlock], feed: MetricsFeed
) -> Iterator[Prometheus]:
    """A Prometheus to which we and the Collector write under each strategy, told apart by `way`."""
    folder = tmp_path_factory.mktemp("written")
    prometheus = Prometheus(folder, config=IN_ORDER)
    exporters = {
        f"prometheus_remote_write/{strategy.value}": {
            "endpoint": prometheus.remote_write_url,
            "translation_strategy": strategy.value,
            "external_labels": {"way": f"collector-{strategy.value}"},
            "protobuf_message": "io.prometheus.write.v2.Request",
            "max_batch_request_parallelism": 1,
        }
        for strategy in STRATEGIES
    }
    statements = [
        f'set(datapoint.attributes["{name}"], resource.attributes["{name}"])'
        for name in ("k8s.cluster.name", "k8s.node.name")
    ]
    config = {
        "extensions": {"health_check": {"endpoint": "${env:HEALTH_ENDPOINT}"}},
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": "${env:OTLP_HTTP_ENDPOINT}"}}}},
        "processors": {"transform": {"metric_statements": statements}},
        "exporters": exporters,
        "service": {
            "extensions": ["health_check"],
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {
                "metrics": {
                    "receivers": ["otlp"],
                    "processors": ["transform"],
                    "exporters": list(exporters),
                }
            },
        },
    }
    path = folder / "collector.yaml"
    path.write_text(yaml.safe_dump(config))
    collector = Collector(path, folder, feature_gates=[RW2])
    with running(collector, prometheus):
        for body in MetricsEncoder(RESOURCE).encode(blocks):
            collector.post("/v1/metrics", body)
        for protocol, strategy in CASES:
            sent(
                feed,
                prometheus,
                protocol=protocol,
                translation_strategy=strategy.value,
                external_labels={"way": f"{protocol}-{strategy.value}"},
            )
        wait_until(
            lambda: (
                {len(stored(prometheus, f"collector-{each.value}")) for each in STRATEGIES}
                == {len(stored(prometheus, f"2.0-{STRATEGIES[0].value}"))}
            ),
            "all that the Collector writes",
        )
        yield prometheus


def stored(prometheus: Prometheus, way: str) -> Found:
    found = {
        frozenset((key, text) for key, text in labels.items() if key != "way"): repr(value)
        for labels, value in prometheus.last(f'{{way="{way}"}}')
    }
    assert found
    return found


@pytest.mark.parametrize(("protocol", "strategy"), CASES)
def test_series_are_those_that_the_collector_writes_to_the_last_bit(
    written: Prometheus, protocol: str, strategy: TranslationStrategy
) -> None:
    found = stored(written, f"{protocol}-{strategy.value}")
    assert found == stored(written, f"collector-{strategy.value}")


def test_series_are_those_that_prometheus_makes_of_otlp(
    tmp_path: Path, blocks: list[PointBlock], feed: MetricsFeed
) -> None:
    """But for the schema URL, which is in no label of the Collector's."""
    otlp = {
        "promote_resource_attributes": ["k8s.cluster.name", "k8s.node.name", "way"],
        "promote_scope_metadata": True,
    }
    with Prometheus(tmp_path, config={**IN_ORDER, "otlp": otlp}) as prometheus:
        for body in MetricsEncoder({**RESOURCE, "way": "otlp"}).encode(blocks):
            status, _ = prometheus.request(
                prometheus.port,
                "POST",
                "/api/v1/otlp/v1/metrics",
                body,
                {"Content-Type": "application/x-protobuf"},
            )
            assert status == 200
        sent(feed, prometheus, external_labels={"way": "remote write"})
        expected = {
            frozenset(pair for pair in labels if pair[0] != "otel_scope_schema_url"): value
            for labels, value in stored(prometheus, "otlp").items()
        }
        assert stored(prometheus, "remote write") == expected


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that shows what it is told of type, unit and start."""
    features = "type-and-unit-labels,created-timestamp-zero-ingestion"
    folder = tmp_path_factory.mktemp("knowing")
    arguments = [f"--enable-feature={features}"]
    with Prometheus(folder, config=IN_ORDER, arguments=arguments) as prometheus:
        yield prometheus


def test_version_2_tells_type_and_unit_and_since_when_a_counter_counts(
    knowing: Prometheus,
) -> None:
    metric = Metric("told.size", Kind.COUNTER, "By", "Told.", scope=SCOPE)
    now_ms = time.time_ns() // 1_000_000
    times: dict[str, Any] = {
        "start_ns": (now_ms - 5000) * 1_000_000 + 999_999,
        "time_ns": now_ms * 1_000_000,
    }
    feed = MetricsFeed()
    feed.publish(1, [point_block(metric, [Point(7, own={"who": "x"}, **times)])])
    sent(feed, knowing, protocol="2.0")
    (series,) = knowing.samples("told_size_bytes_total")
    assert (series.times_ms, series.values) == ([now_ms - 5000, now_ms], [0, 7])
    assert (series.labels["__type__"], series.labels["__unit__"]) == ("counter", "bytes")


@pytest.mark.parametrize("protocol", ["1.0", "2.0"])
def test_a_series_begins_at_zero_and_is_stale_when_it_has_ended(
    knowing: Prometheus, protocol: str
) -> None:
    name = f"ended_{protocol[0]}"
    metric = Metric(name, Kind.COUNTER, "", "", scope=SCOPE)
    now_ns = time.time_ns() // 1_000_000 * 1_000_000
    start_ns = now_ns - 10**10
    sets = AttributeSets()

    def at(seconds: float, **values: float | None) -> list[PointBlock]:
        rows = [
            Point(
                value or 0,
                own={"who": who},
                start_ns=start_ns,
                time_ns=start_ns + int(seconds * 1e9),
                no_value=value is None,
            )
            for who, value in values.items()
        ]
        return [point_block(metric, rows, sets=sets)]

    for sequence, blocks in enumerate(
        (at(0.001, x=0, y=0) + at(5, x=11, y=13), at(8, x=17, y=None))
    ):
        feed = MetricsFeed()
        feed.publish(sequence, blocks)
        sent(feed, knowing, protocol=protocol, target_info=False)
    selector = f"{name}_total"

    def shown(promql: str, seconds: float) -> dict[str, float]:
        found = knowing.query(promql, at=start_ns / 1e9 + seconds)
        return {labels["who"]: value for labels, value in found}

    assert shown(selector, 7) == {"x": 11, "y": 13}
    assert shown(selector, 8) == {"x": 17}
    assert shown(f"increase({selector}[1m]) > 0", 7).keys() == {"x", "y"}
    zeros = [0.0] * int(float(protocol))  # what 2.0 says of a counter's start is one more here
    assert {series.labels["who"]: series.values for series in knowing.samples(selector)} == {
        "x": [*zeros, 11, 17],
        "y": [*zeros, 13],
    }


class _Lossy(BaseHTTPRequestHandler):
    """Passes requests on to a Prometheus. The first one's answer never arrives."""

    protocol_version = "HTTP/1.1"
    prometheus: Prometheus
    statuses: list[int]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with closing(HTTPConnection("127.0.0.1", self.prometheus.port, timeout=20)) as client:
            client.request("POST", "/api/v1/write", body, dict(self.headers.items()))
            answer = client.getresponse()
            said = answer.read()
        self.statuses.append(answer.status)
        if len(self.statuses) == 1:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for header, value in answer.headers.items():
            if header.startswith("X-"):
                self.send_header(header, value)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *arguments: object) -> None: ...


@pytest.mark.parametrize(("protocol", "statuses"), [("1.0", [204, 400, 204]), ("2.0", [204, 400])])
def test_a_request_whose_answer_was_lost_is_there_once_and_its_zeros_are_told_as_refused(
    knowing: Prometheus, protocol: str, statuses: list[int]
) -> None:
    """It comes again, and in it samples that are older than what is there by now."""
    handler = type("Lossy", (_Lossy,), {"prometheus": knowing, "statuses": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    source = Source()
    source.count(a=11, b=13)
    bench = Bench(id="prometheus_remote_write", resource={"service.name": f"lossy {protocol}"})
    settings = PrometheusRemoteWriteSettings.model_validate(
        {
            "endpoint": f"http://127.0.0.1:{server.server_port}/api/v1/write",
            "interval": "10s",
            "protocol": protocol,
            "retry_on_failure": {"initial_interval": "10ms", "max_interval": "10ms"},
        }
    )
    exporter = PrometheusRemoteWriteExporter(settings, bench.context())
    exporter.start([source.accumulator.reader("test")], [])
    exporter.stop(bench.deadline_ns(20))
    server.shutdown()
    server.server_close()
    assert handler.statuses == statuses  # type: ignore[attr-defined]
    report = bench.ledger.report()
    assert (report.difference, report.drained, dict(report.lost)) == (0, 2, {"points_rejected": 2})
    found = knowing.samples(f'test_packets_total{{job="lossy {protocol}"}}')
    # What 2.0 says of a counter's start is one more zero here.
    zeros = [0.0] * int(float(protocol))
    assert {series.labels["test_who"]: series.values for series in found} == {
        "a": [*zeros, 11],
        "b": [*zeros, 13],
    }
