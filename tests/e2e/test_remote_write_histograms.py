"""Native histograms by remote write 2.0 are in the real Prometheus 3 what was sent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from retina_otel.encode.otlp import MetricsEncoder
from retina_otel.exporters.prometheus_remote_write import (
    PrometheusRemoteWriteExporter,
    PrometheusRemoteWriteSettings,
)
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.signals import Kind, Metric
from retina_otel.pipeline.points import PointBlock
from retina_otel.testing.backends import Prometheus
from retina_otel.testing.exporters import Bench, MetricsFeed
from retina_otel.testing.points import Point, point_block
from tests.e2e.test_remote_write_conformance import IN_ORDER, RESOURCE, sent
from tests.e2e.test_scrape_conformance import METRICS, SCOPE, points

BOUNDARIES = (-1.0, 0.005, 2.0, 1e6)
RTT = Metric("rtt", Kind.HISTOGRAM, "s", "How long.", scope=SCOPE, boundaries=BOUNDARIES)
ROWS = {
    "all": (20.5, (1, 2, 4, 1, 8)),
    "first": (-9.0, (4, 0, 0, 0, 0)),
    "last": (3e7, (0, 0, 0, 0, 2)),
    "gap": (1e5, (0, 2**40, 0, 2**40, 0)),
    "empty": (0.0, (0, 0, 0, 0, 0)),
}
"""Sum and buckets by `who`. Counts are powers of two, so that their fractions are exact."""


def feed_of(blocks: list[PointBlock]) -> MetricsFeed:
    feed = MetricsFeed()
    feed.publish(1, blocks)
    return feed


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that shows what it is told of type, unit and start. It takes native histograms as it
    is."""
    features = "type-and-unit-labels,created-timestamp-zero-ingestion"
    folder = tmp_path_factory.mktemp("prometheus")
    arguments = [f"--enable-feature={features}"]
    with Prometheus(folder, config=IN_ORDER, arguments=arguments) as prometheus:
        yield prometheus


def test_count_sum_and_each_bucket_are_those_that_were_sent(prometheus: Prometheus) -> None:
    now_ms = time.time_ns() // 1_000_000
    times: dict[str, Any] = {"start_ns": (now_ms - 5000) * 10**6, "time_ns": now_ms * 10**6}
    block = point_block(
        RTT,
        [
            Point(total, own={"who": who}, buckets=row, **times)
            for who, (total, row) in ROWS.items()
        ],
    )
    sent(feed_of([block]), prometheus, protocol="2.0", native_histograms=True)

    def shown(promql: str) -> dict[str, float]:
        return {labels["who"]: value for labels, value in prometheus.query(promql)}

    counts = {who: sum(row) for who, (_, row) in ROWS.items()}
    assert shown("histogram_count(rtt_seconds)") == counts
    assert shown("histogram_sum(rtt_seconds)") == {who: total for who, (total, _) in ROWS.items()}
    edges = ("-Inf", *map(repr, BOUNDARIES), "+Inf")
    for place, (low, high) in enumerate(pairwise(edges)):
        fractions = shown(f'histogram_fraction({low}, {high}, rtt_seconds{{who!="empty"}})')
        found = {who: fraction * counts[who] for who, fraction in fractions.items()}
        assert found == {who: row[place] for who, (_, row) in ROWS.items() if who != "empty"}
    stored = {series.labels["who"]: series for series in prometheus.samples("rtt_seconds")}
    assert {tuple(series.histograms) for series in stored.values()} == {(now_ms - 5000, now_ms)}
    assert {
        who: {
            (float(low), float(high)): int(count)
            for _, low, high, count in series.histograms[now_ms].get("buckets", ())
        }
        for who, series in stored.items()
    } == {
        who: {
            (float(low), float(high)): count
            for (low, high), count in zip(pairwise(edges), row, strict=True)
            if count
        }
        for who, (_, row) in ROWS.items()
    }
    labels = stored["all"].labels
    assert (labels["__type__"], labels["__unit__"]) == ("histogram", "seconds")
    assert prometheus.series('{__name__=~"rtt_seconds_.*"}') == []


def test_a_series_begins_at_zero_and_is_stale_when_it_has_ended(prometheus: Prometheus) -> None:
    metric = Metric("ended", Kind.HISTOGRAM, "", "", scope=SCOPE, boundaries=(1.0, 2.0))
    start_ns = time.time_ns() // 1_000_000 * 1_000_000 - 10**10
    sets = AttributeSets()

    def at(seconds: float, **counts: tuple[int, ...] | None) -> list[PointBlock]:
        rows = [
            Point(
                sum(row or ()) / 2,
                own={"who": who},
                start_ns=start_ns,
                time_ns=start_ns + int(seconds * 1e9),
                no_value=row is None,
                buckets=row or (0, 0, 0),
            )
            for who, row in counts.items()
        ]
        return [point_block(metric, rows, sets=sets)]

    nothing = (0, 0, 0)
    begun = at(0.001, x=nothing, y=nothing) + at(5, x=(1, 0, 3), y=(0, 7, 0))
    for blocks in (begun, at(8, x=(1, 2, 3), y=None)):
        sent(feed_of(blocks), prometheus, protocol="2.0", native_histograms=True, target_info=False)

    def shown(promql: str, seconds: float) -> dict[str, float]:
        found = prometheus.query(promql, at=start_ns / 1e9 + seconds)
        return {labels["who"]: value for labels, value in found}

    assert shown("histogram_count(ended)", 7) == {"x": 4, "y": 7}
    assert shown("histogram_count(ended)", 8) == {"x": 6}
    start_ms = start_ns // 10**6
    assert {
        series.labels["who"]: {
            at_ms - start_ms: (told["count"], told["sum"])
            for at_ms, told in series.histograms.items()
        }
        for series in prometheus.samples("ended")
    } == {
        "x": {0: ("0", "0"), 1: ("0", "0"), 5000: ("4", "2"), 8000: ("6", "3")},
        "y": {0: ("0", "0"), 1: ("0", "0"), 5000: ("7", "3.5")},
    }


def test_what_prometheus_says_it_has_written_is_what_the_ledger_says(
    prometheus: Prometheus,
) -> None:
    """Of a request that comes again it takes what is newest, and refuses the zeros before."""
    metric = Metric("again", Kind.HISTOGRAM, "", "", scope=SCOPE, boundaries=(1.0,))
    now_ns = time.time_ns() // 1_000_000 * 1_000_000
    start_ns = now_ns - 10**10
    sets = AttributeSets()
    blocks = [
        point_block(
            metric,
            [
                Point(total, own={"who": who}, start_ns=start_ns, time_ns=at, buckets=buckets)
                for who in "xyz"
            ],
            sets=sets,
        )
        for at, total, buckets in ((start_ns + 10**6, 0.0, (0, 0)), (now_ns, 2.5, (1, 1)))
    ]
    settings: dict[str, Any] = {"protocol": "2.0", "native_histograms": True, "target_info": False}
    sent(feed_of(blocks), prometheus, **settings)
    bench = Bench(id="prometheus_remote_write", resource=RESOURCE)
    chosen = {"endpoint": prometheus.remote_write_url, **settings}
    exporter = PrometheusRemoteWriteExporter(
        PrometheusRemoteWriteSettings.model_validate(chosen), bench.context()
    )
    exporter.start([feed_of(blocks)], [])
    exporter.stop(bench.deadline_ns(20))
    report = bench.ledger.report()
    assert (report.difference, report.drained, dict(report.lost)) == (0, 3, {"points_rejected": 3})
    start_ms = start_ns // 10**6
    stored = prometheus.samples("again")
    assert {series.labels["who"] for series in stored} == {"x", "y", "z"}
    for series in stored:
        counts = {at_ms - start_ms: told["count"] for at_ms, told in series.histograms.items()}
        assert counts == {0: "0", 1: "0", 10_000: "2"}


def test_they_are_those_that_prometheus_makes_of_otlp(tmp_path: Path) -> None:
    """But for the schema URL, which is in no label of the Collector's."""
    otlp = {
        "promote_resource_attributes": ["k8s.cluster.name", "k8s.node.name", "way"],
        "promote_scope_metadata": True,
        "convert_histograms_to_nhcb": True,
    }
    sets = AttributeSets()
    blocks = [point_block(metric, points(metric), sets=sets) for metric in METRICS]
    of_histograms = [block for block in blocks if block.metric.kind is Kind.HISTOGRAM]
    with Prometheus(tmp_path, config={**IN_ORDER, "otlp": otlp}) as prometheus:
        for body in MetricsEncoder({**RESOURCE, "way": "otlp"}).encode(blocks):
            headers = {"Content-Type": "application/x-protobuf"}
            path = "/api/v1/otlp/v1/metrics"
            status, _ = prometheus.request(prometheus.port, "POST", path, body, headers)
            assert status == 200
        sent(
            feed_of(blocks),
            prometheus,
            protocol="2.0",
            native_histograms=True,
            external_labels={"way": "remote write"},
        )

        def stored(way: str) -> dict[frozenset[tuple[str, str]], Any]:
            return {
                frozenset(
                    (name, text)
                    for name, text in series.labels.items()
                    if name not in ("way", "otel_scope_schema_url")
                ): (list(map(repr, series.values[-1:])), list(series.histograms.values()))
                for series in prometheus.samples(f'{{way="{way}"}}')
            }

        found = stored("remote write")
        assert found == stored("otlp")
        n_points = sum(len(block.source) for block in of_histograms)
        assert sum(len(histograms) for _, histograms in found.values()) == n_points
