"""Every file of collector-config is one that the built Collector takes, and does what it says.

What goes in are requests as the agent makes them; what comes out stands in a real backend, or in
the file of a second Collector. The ways through Prometheus by remote write and through Loki are
walked with an agent before them, in test_agent_to_backends.
"""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.model.signals import DROP_EVENT, EVENT_PACKETS, FLOW_IO, INTERFACE_PACKETS
from retina_otel.pipeline.points import ResourceModel
from retina_otel.testing.backends import Collector, Kafka, Prometheus, running, validate
from retina_otel.testing.backends.collector import CONFIGURATIONS
from retina_otel.testing.backends.prometheus import PROMOTED
from retina_otel.testing.points import Occurrence, Point, event_block, point_block
from tests.e2e.agent import wait_until

RESOURCE = {
    "service.name": "retina-otel",
    "service.instance.id": "6f1c",
    "telemetry.distro.name": "retina-otel",
    "k8s.node.name": "node-1",
    "k8s.cluster.name": "lab",
}
NOT_BUILT = {"gateway-scale-out-router", "gateway-azure-monitor"}
"""Files with a component that builder.yaml cannot have; each has a test of its own."""

FILES = sorted({path.stem for path in CONFIGURATIONS.glob("*.yaml")} - {"builder"})
BUILT = [name for name in FILES if name not in NOT_BUILT]
GATEWAYS = [name for name in BUILT if name not in ("first-light", "agent-sidecar")]

START = time.time_ns()
AMOUNTS = (104_729, 7, 2**53 - 1)
TOLD = (2, 3, 5)

_times = itertools.count(1)


def metrics(*amounts: int, start_ns: int = START) -> bytes:
    """A request with one series for each amount, later than the one before."""
    now = time.time_ns() + next(_times)
    points = [
        Point(amount, {"source.k8s.pod.name": f"pod-{i}"}, start_ns=start_ns, time_ns=now)
        for i, amount in enumerate(amounts)
    ]
    (body,) = MetricsEncoder(RESOURCE).encode([point_block(FLOW_IO, points)])
    return body


def events(*amounts: int) -> bytes:
    """A request with one event for each amount."""
    happened = [
        Occurrence(
            {"source.k8s.pod.name": f"pod-{i}"},
            integers={EVENT_PACKETS.name: amount},
            time_ns=time.time_ns(),
        )
        for i, amount in enumerate(amounts)
    ]
    (body,) = LogsEncoder(RESOURCE).encode([event_block(DROP_EVENT, happened)])
    return body


def arrived(collector: Collector) -> tuple[Counter[str], Counter[str]]:
    """The last value of each series and the sum of the events, by pod."""
    values: Counter[str] = Counter()
    for (_, attributes), points in collector.points().items():
        values[dict(attributes)["source.k8s.pod.name"]] = int(points[-1]["asInt"])
    told: Counter[str] = Counter()
    for _, attributes in collector.events():
        found: dict[str, Any] = dict(attributes)
        told[found["source.k8s.pod.name"]] += found[EVENT_PACKETS.name]
    return values, told


def read(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((CONFIGURATIONS / f"{name}.yaml").read_text())
    return config


def by_pod(amounts: tuple[int, ...]) -> Counter[str]:
    return Counter({f"pod-{i}": amount for i, amount in enumerate(amounts)})


def send_all(gateway: Collector) -> None:
    gateway.post("/v1/metrics", metrics(*AMOUNTS))
    gateway.post("/v1/logs", events(*TOLD))


def ask(gateway: Collector, path: str, body: bytes) -> int:
    """The status that it answers with."""
    headers = {"Content-Type": "application/x-protobuf"}
    return gateway.request(gateway.http_port, "POST", path, body, headers)[0]


def wait_for_all(backend: Collector) -> None:
    expected = by_pod(AMOUNTS), by_pod(TOLD)
    wait_until(lambda: arrived(backend) == expected, "all that was sent")


@pytest.fixture
def backend(tmp_path: Path) -> Collector:
    """A second Collector, which writes what it gets to its file. Not started."""
    return Collector("first-light", tmp_path)


@pytest.mark.parametrize("name", BUILT)
def test_the_collector_takes_the_file(name, tmp_path):
    done = validate(name, {"VENDOR_TOKEN_FILE": str(tmp_path / "token")})
    assert (done.returncode, done.stderr) == (0, "")


def test_the_readme_has_a_section_for_each_file():
    text = (CONFIGURATIONS / "README.md").read_text()
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert sorted(name for section in sections for name in section.split(" and ")) == FILES


@pytest.mark.parametrize("name", FILES)
def test_every_pipeline_begins_with_the_memory_limiter(name):
    pipelines = read(name)["service"]["pipelines"]
    assert {pipeline["processors"][0] for pipeline in pipelines.values()} == {"memory_limiter"}


def test_equal_names_mean_equal_things_in_all_gateways():
    meanings: dict[tuple[str, str], set[str]] = {}
    for name in GATEWAYS:
        for section in ("extensions", "receivers", "processors", "exporters"):
            for id_, settings in read(name)[section].items():
                meanings.setdefault((section, id_), set()).add(repr(settings))
    assert [id_ for id_, found in meanings.items() if len(found) > 1] == []


def test_a_mistake_in_a_file_is_one_that_the_collector_finds(tmp_path):
    text = (CONFIGURATIONS / "gateway-loki.yaml").read_text()
    broken = tmp_path / "broken.yaml"
    broken.write_text(text.replace("queue_size", "queue_length"))
    done = validate(broken)
    assert done.returncode == 1
    assert "queue_length" in done.stderr


def test_all_gateways_can_be_one(tmp_path):
    done = validate(sorted(GATEWAYS, key=lambda name: "vendor" in name))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", FILES)
def test_events_that_the_agent_was_told_are_taken_are_on_disk_or_delivered(name):
    """An exporter of the Collector has a queue in memory unless its settings say otherwise."""
    config = read(name)
    told = {
        exporter: config["exporters"][exporter].get("sending_queue", {})
        for pipeline, parts in config["service"]["pipelines"].items()
        if pipeline.startswith("logs")
        for exporter in parts["exporters"]
        if exporter not in ("file", "debug")
    }
    kept_in_memory = {
        exporter
        for exporter, queue in told.items()
        if queue.get("enabled", True) and "storage" not in queue
    }
    assert kept_in_memory == set()


def test_the_router_is_what_the_collector_takes_with_its_template_in_its_place(tmp_path):
    config = read("gateway-scale-out-router")
    router = config["exporters"].pop("load_balancing")
    # Settings of the exporter, by its published schema.
    assert router.keys() == {"routing_key", "protocol", "resolver"}
    assert router["routing_key"] in ("service", "resource", "metric", "streamID")
    assert router["resolver"].keys() == {"dns"}
    assert router["resolver"]["dns"].keys() <= {"hostname", "port", "interval", "timeout"}
    assert isinstance(router["resolver"]["dns"]["port"], str)
    (protocol,) = router["protocol"]
    assert protocol == "otlp"
    assert router["protocol"]["otlp"]["sending_queue"] == {"enabled": False}

    template = router["protocol"]["otlp"] | {"endpoint": "127.0.0.1:4327"}
    config["exporters"]["otlp_grpc/template"] = template
    config["service"]["pipelines"]["metrics/router"]["exporters"] = ["otlp_grpc/template"]
    written = tmp_path / "router.yaml"
    written.write_text(yaml.safe_dump(config))
    done = validate(written)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("way", "promoted"), [("otlp", []), ("otlp", list(PROMOTED)), ("remote-write", [])]
)
def test_prometheus_gets_the_values_and_the_labels_of_node_and_cluster(way, promoted, tmp_path):
    prometheus = Prometheus(tmp_path, config={"otlp": {"promote_resource_attributes": promoted}})
    urls = {
        "PROMETHEUS_OTLP_URL": prometheus.otlp_url,
        "PROMETHEUS_REMOTE_WRITE_URL": prometheus.remote_write_url,
    }
    gateway = Collector(f"gateway-prometheus-{way}", tmp_path, urls)
    pod = {"k8s.pod.uid": "u1", "k8s.pod.name": "web", "k8s.namespace.name": "shop"}
    one_ended = MetricsEncoder(RESOURCE, resource_model=ResourceModel.ENTITY)
    link = point_block(
        INTERFACE_PACKETS,
        [Point(11, pod, start_ns=START, time_ns=time.time_ns())],
    )
    with running(gateway, prometheus):
        gateway.post("/v1/metrics", metrics(*AMOUNTS))
        for body in one_ended.encode([link]):
            gateway.post("/v1/metrics", body)
        gateway.stop()

        found = prometheus.last("retina_flow_io_bytes_total")
        assert {labels["source_k8s_pod_name"]: value for labels, value in found} == by_pod(AMOUNTS)
        (of_pod,) = prometheus.last('{k8s_pod_name="web"}')
        assert of_pod[1] == 11
        assert of_pod[0]["k8s_namespace_name"] == "shop"
        for labels, _ in [*found, of_pod]:
            assert (labels["k8s_node_name"], labels["k8s_cluster_name"]) == ("node-1", "lab")


def test_what_goes_into_kafka_comes_out_at_the_other_end(tmp_path, backend):
    kafka = Kafka(tmp_path)
    gateway = Collector("gateway-kafka", tmp_path, {"KAFKA_BROKER": kafka.broker})
    reader = Collector(
        "gateway-kafka-reader",
        tmp_path,
        {"KAFKA_BROKER": kafka.broker, "OTLP_BACKEND_URL": backend.endpoint},
    )
    with running(gateway, kafka):
        send_all(gateway)
        gateway.stop()
        with running(reader, backend):
            wait_for_all(backend)


def test_the_reader_reads_again_what_the_backend_did_not_take(tmp_path, backend):
    kafka = Kafka(tmp_path)
    gateway = Collector("gateway-kafka", tmp_path, {"KAFKA_BROKER": kafka.broker})
    reader = Collector(
        "gateway-kafka-reader",
        tmp_path,
        {"KAFKA_BROKER": kafka.broker, "OTLP_BACKEND_URL": backend.endpoint},
    )
    with running(gateway, reader, kafka):
        send_all(gateway)
        wait_until(lambda: "connection refused" in reader.log(), "an attempt to deliver")
        with running(backend):
            wait_for_all(backend)


def test_the_sidecar_hands_on_after_a_kill_what_it_had_taken(tmp_path, backend):
    sidecar = Collector("agent-sidecar", tmp_path, {"GATEWAY_OTLP_ENDPOINT": backend.grpc_endpoint})
    with running(sidecar):
        send_all(sidecar)
        sidecar.kill()
        with running(backend):
            sidecar.start()
            wait_for_all(backend)


def test_a_full_queue_refuses_so_that_the_agent_waits_and_gives_all_that_it_took(tmp_path, backend):
    sidecar = Collector(
        "agent-sidecar",
        tmp_path,
        {"GATEWAY_OTLP_ENDPOINT": backend.grpc_endpoint, "QUEUE_BYTES": "3000"},
    )
    with running(sidecar):
        statuses = [ask(sidecar, "/v1/logs", events(*TOLD)) for _ in range(40)]
        taken = statuses.count(HTTPStatus.OK)
        assert set(statuses) == {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}
        expected = Counter({pod: taken * n for pod, n in by_pod(TOLD).items()})
        with running(backend):
            wait_until(lambda: arrived(backend)[1] == expected, "all that was taken")


def test_a_vendor_gets_all_with_its_token_its_header_and_a_certificate(tmp_path):
    authority = trustme.CA()
    files = {name: str(tmp_path / name) for name in ("ca", "server", "client", "token")}
    authority.cert_pem.write_to_path(files["ca"])
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(files["server"])
    authority.issue_cert("gateway").private_key_and_cert_chain_pem.write_to_path(files["client"])
    Path(files["token"]).write_text("secret\n")
    config = tmp_path / "vendor.yaml"
    config.write_text(VENDOR.format(**files))
    vendor = Collector(config, tmp_path)
    gateway = Collector(
        "gateway-vendor-otlp",
        tmp_path,
        {
            "VENDOR_OTLP_URL": vendor.endpoint.replace("http:", "https:"),
            "VENDOR_CA_FILE": files["ca"],
            "VENDOR_CERT_FILE": files["client"],
            "VENDOR_KEY_FILE": files["client"],
            "VENDOR_TOKEN_FILE": files["token"],
            "VENDOR_DATASET": "shop",
        },
    )
    with running(gateway, vendor):
        send_all(gateway)
        wait_for_all(vendor)
        assert {key for line in vendor.lines() for key in tenants(line)} == {"shop"}

        vendor.kill()
        gateway.post("/v1/logs", events(*TOLD))
        gateway.kill()
        vendor.start()
        gateway.start()
        twice = Counter({pod: 2 * n for pod, n in by_pod(TOLD).items()})
        wait_until(lambda: arrived(vendor)[1] == twice, "what it had taken before the kill")


def test_scaled_out_gateways_send_deltas_that_sum_to_the_truth(tmp_path, backend):
    gateway = Collector("gateway-scale-out", tmp_path, {"OTLP_BACKEND_URL": backend.endpoint})

    def sums() -> dict[str, int]:
        return {
            dict(attributes)["source.k8s.pod.name"]: sum(int(p.get("asInt", 0)) for p in points)
            for (_, attributes), points in backend.points().items()
        }

    with running(gateway, backend):
        begun = time.time_ns()
        for amounts in ((0, 0), (5, 0), (5, 7), (12, 70)):
            gateway.post("/v1/metrics", metrics(*amounts, start_ns=begun))
        wait_until(lambda: sums() == {"pod-0": 12, "pod-1": 70}, "deltas of the whole truth")


def tenants(line: dict[str, Any]) -> list[str]:
    """The header that the stand-in vendor wrote to each resource."""
    parts = [*line.get("resourceMetrics", ()), *line.get("resourceLogs", ())]
    pairs = [pair for part in parts for pair in part["resource"]["attributes"]]
    return [pair["value"]["stringValue"] for pair in pairs if pair["key"] == "dataset"]


VENDOR = """
extensions:
  health_check: {{endpoint: "${{env:HEALTH_ENDPOINT}}"}}
  bearertokenauth: {{filename: {token}}}
receivers:
  otlp:
    protocols:
      http:
        endpoint: ${{env:OTLP_HTTP_ENDPOINT}}
        include_metadata: true
        auth: {{authenticator: bearertokenauth}}
        tls: {{cert_file: {server}, key_file: {server}, client_ca_file: {ca}}}
processors:
  resource:
    attributes: [{{key: dataset, from_context: metadata.x-dataset, action: insert}}]
exporters:
  file: {{path: "${{env:OTLP_FILE}}", append: true, flush_interval: 100ms}}
service:
  extensions: [health_check, bearertokenauth]
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    metrics: {{receivers: [otlp], processors: [resource], exporters: [file]}}
    logs: {{receivers: [otlp], processors: [resource], exporters: [file]}}
"""
