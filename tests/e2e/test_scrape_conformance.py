"""Our page against the real Collector and the real Prometheus: the same names, labels and values.

The Collector is given the same points by OTLP; what its translation makes of them is the truth. Its
own page differs in few things: it adds `otel_scope_schema_url`, and job and instance, which
Prometheus adds to ours, and leaves out of `target_info` what they were made of.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from retina_otel.agent.own_metrics import OWN_METRICS
from retina_otel.encode.otlp import MetricsEncoder
from retina_otel.encode.prometheus.escaping import Escaping
from retina_otel.encode.prometheus.formats import Format, Syntax
from retina_otel.encode.prometheus.names import TranslationStrategy
from retina_otel.exporters.prometheus import PrometheusExporter, PrometheusSettings
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.signals import BUILT_IN, Ends, Kind, Metric
from retina_otel.pipeline.points import PointBlock
from retina_otel.testing.backends import Collector, Prometheus, free_ports, promtool, running
from retina_otel.testing.exporters import Bench, MetricsFeed
from retina_otel.testing.points import Point, point_block
from retina_otel.testing.scrape_protobuf import families, samples
from tests.e2e.agent import wait_until

STRATEGIES = tuple(TranslationStrategy)
PROTOCOLS = {
    "PrometheusProto": Escaping.UNDERSCORES,
    "PrometheusText0.0.4": Escaping.UNDERSCORES,
    "PrometheusText1.0.0": Escaping.ALLOW_UTF8,
    "OpenMetricsText1.0.0": Escaping.ALLOW_UTF8,
}
"""How names are escaped for a Prometheus 3 that scrapes by this protocol alone."""
NATIVE = ["PrometheusProto", "OpenMetricsText1.0.0"]
"""What Prometheus asks for where it takes native histograms."""
RESOURCE: dict[str, str | int | bool] = {
    "service.name": "retina-otel",
    "service.instance.id": "one",
    "k8s.node.name": 'a "node" \\ of\nmine',
    "grün": "7",
}

LEFT_OUT = {"job", "instance", "otel_scope_schema_url", "strategy", "__name__"}
IDENTIFYING = {
    escaping.apply(name, label=True)
    for name in ("service_name", "service_instance_id", "service.name", "service.instance.id")
    for escaping in Escaping
}
SCOPE = "retina_otel.testing"
ODD = (
    Metric("link.rate", Kind.GAUGE, "By/s", "Rate.", scope=SCOPE, integer=False),
    Metric("queue.packets", Kind.UPDOWN, "{packet}", "Length.", scope=SCOPE),
    Metric("share", Kind.GAUGE, "1", "Share.", scope=SCOPE, integer=False),
    Metric("retries", Kind.COUNTER, "1", "Retries.", scope=SCOPE),
    Metric("wait", Kind.HISTOGRAM, "ms", "Wait.", scope=SCOPE, boundaries=(0.5, 1e3)),
    Metric("used", Kind.GAUGE, "%", "Used.", scope=SCOPE, integer=False),
    Metric("7th.heaven", Kind.COUNTER, "", 'Said "7".', scope=SCOPE),
    Metric("a..b", Kind.GAUGE, "", "A \\ b.", scope=SCOPE),
    Metric("größe.datei", Kind.COUNTER, "By", "Größe.", scope=SCOPE),
    Metric("total.requests.total", Kind.COUNTER, "", "Requests.", scope=SCOPE),
    Metric("lag.seconds", Kind.GAUGE, "s", "Lag.", scope=SCOPE, integer=False),
    Metric("speed", Kind.UPDOWN, "foo/min", "Speed.", scope=SCOPE),
)
METRICS = (*(each for each in BUILT_IN if isinstance(each, Metric)), *OWN_METRICS, *ODD)
START_NS = time.time_ns() - 60 * 10**9
Found = dict[tuple[str, frozenset[tuple[str, str]]], str]


def attributes(metric: Metric, row: int) -> dict[str, str | int | bool]:
    """Its own, by their examples, and some that need care."""
    out = {
        each.name: each.examples[row % len(each.examples)] if each.examples else f"value {row}"
        for each in metric.attributes
    }
    return {**out, "row": row, "7th": 'a "b" \\ c\nd', "grün": "groß", "on": True}


def points(metric: Metric) -> list[Point]:
    ends = ("source.", "destination.") if metric.ends is Ends.BOTH else ("",)
    now_ns = time.time_ns()
    out = []
    for row in range(3):
        pods = [{f"{end}k8s.pod.name": f"pod-{row}", f"{end}x-y": "z"} for end in ends]
        value = (0.1 + 0.2) * row if not metric.integer else (2**53 - 1) >> 7 * row
        buckets = [row * each for each in range(len(metric.boundaries) + 1)]
        pod, other = pods[0], pods[-1] if len(pods) > 1 else {}
        own = attributes(metric, row)
        out.append(Point(value, pod, other, own, START_NS, now_ns, buckets=buckets))
    return out


@pytest.fixture(scope="module")
def blocks() -> list[PointBlock]:
    sets = AttributeSets()
    return [point_block(metric, points(metric), sets=sets) for metric in METRICS]


@pytest.fixture(scope="module")
def feed(blocks: list[PointBlock]) -> MetricsFeed:
    feed = MetricsFeed()
    feed.publish(1, blocks)
    return feed


def serving(feed: MetricsFeed, stack: ExitStack, **settings: str | bool) -> int:
    """Our page of `feed`; the port."""
    chosen = PrometheusSettings.model_validate({"endpoint": "127.0.0.1:0", **settings})
    exporter = PrometheusExporter(chosen, Bench(id="prometheus", resource=RESOURCE).context())
    exporter.start([feed], [])
    stack.callback(exporter.stop, 0)
    return exporter.port


@pytest.fixture(scope="module")
def ports(feed: MetricsFeed) -> Iterator[dict[TranslationStrategy, int]]:
    """Where our page is under each strategy."""
    with ExitStack() as stack:
        yield {
            strategy: serving(feed, stack, translation_strategy=strategy.value)
            for strategy in STRATEGIES
        }


@pytest.fixture(scope="module")
def theirs(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[PointBlock]
) -> Iterator[tuple[dict[TranslationStrategy, int], Prometheus]]:
    """Where the Collector's page is under each strategy, and a Prometheus that it writes to under
    those that remote write 1.0 can say."""
    folder = tmp_path_factory.mktemp("theirs")
    out = dict(zip(STRATEGIES, free_ports(len(STRATEGIES)), strict=True))
    prometheus = Prometheus(folder)
    exporters: dict[str, dict[str, Any]] = {}
    for strategy, port in out.items():
        exporters[f"prometheus/{strategy.value}"] = {
            "endpoint": f"127.0.0.1:{port}",
            "translation_strategy": strategy.value,
        }
        if strategy.escapes:
            exporters[f"prometheus_remote_write/{strategy.value}"] = {
                "endpoint": prometheus.remote_write_url,
                "translation_strategy": strategy.value,
                "external_labels": {"strategy": strategy.value},
            }
    config = {
        "extensions": {"health_check": {"endpoint": "${env:HEALTH_ENDPOINT}"}},
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": "${env:OTLP_HTTP_ENDPOINT}"}}}},
        "exporters": exporters,
        "service": {
            "extensions": ["health_check"],
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"metrics": {"receivers": ["otlp"], "exporters": list(exporters)}},
        },
    }
    path = folder / "collector.yaml"
    path.write_text(yaml.safe_dump(config))
    collector = Collector(path, folder)
    with running(collector, prometheus):
        for body in MetricsEncoder(RESOURCE).encode(blocks):
            collector.post("/v1/metrics", body)
        expected = [len(METRICS) + 1] * len(out)
        wait_until(
            lambda: [len(families(page(port))) for port in out.values()] == expected,
            "a page with all metrics",
        )
        yield out, prometheus


@pytest.fixture(scope="module")
def scraping(
    tmp_path_factory: pytest.TempPathFactory, ports: dict[TranslationStrategy, int]
) -> Iterator[Prometheus]:
    """A Prometheus 3 that scrapes each page by each protocol."""
    offers = [*([protocol] for protocol in PROTOCOLS), NATIVE]
    jobs = [
        {
            "job_name": job(strategy, protocols),
            "scrape_protocols": protocols,
            "static_configs": [{"targets": [f"127.0.0.1:{ports[strategy]}"]}],
        }
        for strategy in STRATEGIES
        for protocols in offers
    ]
    folder = tmp_path_factory.mktemp("scraping")
    with Prometheus(folder, scrape=jobs, remote_write=False, otlp=False) as prometheus:
        wait_until(lambda: len(prometheus.query("up == 1")) == len(jobs), "a scrape of each job")
        yield prometheus


def job(strategy: TranslationStrategy, protocols: list[str]) -> str:
    return "-".join([strategy.value, *protocols])


def page(port: int, escaping: Escaping = Escaping.ALLOW_UTF8) -> bytes:
    accept = Format(Syntax.PROTOBUF, "", escaping).content_type
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as client:
        client.request("GET", "/metrics", headers={"Accept": accept})
        answer = client.getresponse()
        assert (answer.status, answer.headers["Content-Type"]) == (200, accept)
        return answer.read()


def normal(name: str, labels: dict[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
    """A series without what is known to differ; `10` and `10.0` are the same bound."""
    left_out = LEFT_OUT | IDENTIFYING if name.startswith("target_") else LEFT_OUT
    kept = {key: text for key, text in labels.items() if key not in left_out}
    if "le" in kept:
        kept["le"] = repr(float(kept["le"]))
    return name, frozenset(kept.items())


def on_page(body: bytes) -> Found:
    found = [(normal(each.name, dict(each.labels)), repr(each.value)) for each in samples(body)]
    assert len(dict(found)) == len(found)
    return {key: repr(float(value)) for key, value in found}


def stored(prometheus: Prometheus, selector: str) -> Found:
    """The last sample of each series that is not about the scrape."""
    about = ("up", "scrape_")
    found = [
        (normal(labels["__name__"], labels), repr(value))
        for labels, value in prometheus.last(selector)
        if not labels["__name__"].startswith(about) or "retina" in labels["__name__"]
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.parametrize("escaping", list(Escaping))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_our_page_has_the_names_labels_types_and_values_of_the_collectors(
    strategy: TranslationStrategy,
    escaping: Escaping,
    ports: dict[TranslationStrategy, int],
    theirs: tuple[dict[TranslationStrategy, int], Prometheus],
) -> None:
    expected, found = page(theirs[0][strategy], escaping), page(ports[strategy], escaping)
    assert on_page(found) == on_page(expected)
    assert described(found) == described(expected)


def described(body: bytes) -> set[tuple[str, str, str]]:
    return {(each.name, each.type, each.help) for each in families(body)}


@pytest.mark.parametrize("strategy", [each for each in STRATEGIES if each.escapes])
def test_our_page_has_what_the_collectors_remote_write_sends(
    strategy: TranslationStrategy,
    ports: dict[TranslationStrategy, int],
    theirs: tuple[dict[TranslationStrategy, int], Prometheus],
) -> None:
    prometheus, selector = theirs[1], f'{{strategy="{strategy.value}"}}'
    expected = on_page(page(ports[strategy]))
    wait_until(lambda: len(stored(prometheus, selector)) == len(expected), "all that was written")
    assert stored(prometheus, selector) == expected


@pytest.mark.parametrize("protocols", [*([each] for each in PROTOCOLS), NATIVE], ids="-".join)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_prometheus_stores_every_value_of_the_page_in_every_format(
    strategy: TranslationStrategy,
    protocols: list[str],
    ports: dict[TranslationStrategy, int],
    scraping: Prometheus,
) -> None:
    escaping = PROTOCOLS.get("".join(protocols), Escaping.ALLOW_UTF8)
    found = stored(scraping, f'{{job="{job(strategy, protocols)}"}}')
    assert found == on_page(page(ports[strategy], escaping))


def test_prometheus_knows_type_unit_and_help_of_each_metric(scraping: Prometheus) -> None:
    for name, kind, unit in (
        ("link_rate_bytes_per_second", "gauge", "bytes_per_second"),
        ("retries_total", "counter", ""),
        ("wait_milliseconds", "histogram", "milliseconds"),
    ):
        assert {"type": kind, "unit": unit} in [
            {"type": each["type"], "unit": each["unit"]} for each in scraping.metadata()[name]
        ]


def test_promtool_has_nothing_to_say_of_our_own_metrics(
    ports: dict[TranslationStrategy, int],
) -> None:
    port = ports[TranslationStrategy.UNDERSCORE_ESCAPING_WITH_SUFFIXES]
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as client:
        client.request("GET", "/metrics")
        text = client.getresponse().read().decode()
    said = promtool(["check", "metrics"], text, check=False).stderr.splitlines()
    assert said == [
        "a_b metric names should not contain abbreviated units",
        'wait_milliseconds use base unit "seconds" instead of "milliseconds"',
    ]


def test_a_counter_begins_at_zero_when_it_began_and_a_series_that_ended_is_stale(
    tmp_path: Path,
) -> None:
    metric = Metric("told", Kind.COUNTER, "", "Told.", scope=SCOPE)
    values = {"lasting": 7, "ending": 11}
    points = {
        who: Point(value, own={"who": who}, start_ns=START_NS, time_ns=time.time_ns())
        for who, value in values.items()
    }
    feed = MetricsFeed()
    feed.publish(1, [point_block(metric, list(points.values()))])
    with ExitStack() as stack:
        port = serving(feed, stack, created_samples=True)
        targets = [
            {
                "job_name": protocol,
                "scrape_protocols": [protocol],
                "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
            }
            for protocol in ("PrometheusProto", "OpenMetricsText1.0.0")
        ]
        feature = "--enable-feature=created-timestamp-zero-ingestion"
        prometheus = stack.enter_context(Prometheus(tmp_path, scrape=targets, arguments=[feature]))
        wait_until(lambda: len(prometheus.query("told_total")) == 4, "two series of each job")
        feed.publish(2, [point_block(metric, [points["lasting"]])])
        wait_until(lambda: len(prometheus.query("told_total")) == 2, "the end of one of each")
        assert [labels["who"] for labels, _ in prometheus.query("told_total")] == ["lasting"] * 2
        stored = prometheus.samples('{who=~".+"}')
        assert [each.name for each in stored] == ["told_total"] * 4
        for series in stored:
            assert (series.times_ms[0], series.values[0]) == (START_NS // 10**6, 0)
            assert set(series.values[1:]) == {values[series.labels["who"]]}
