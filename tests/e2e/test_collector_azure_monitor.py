"""collector-config/gateway-azure-monitor.yaml: all but its exporter runs in the built Collector and
hands it deltas and events as it wants them; its settings are those of its published schema."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.model.signals import DROP_EVENT, EVENT_PACKETS, FLOW_IO
from retina_otel.testing.backends import Collector, running, validate
from retina_otel.testing.backends.collector import CONFIGURATIONS
from retina_otel.testing.points import Occurrence, Point, event_block, point_block
from tests.e2e.agent import wait_until

RESOURCE = {"service.name": "retina-otel", "k8s.node.name": "node-1", "k8s.cluster.name": "lab"}
POD = {"source.k8s.namespace.name": "shop", "source.k8s.pod.name": "web"}

# exporter/azuremonitorexporter/config.schema.yaml of opentelemetry-collector-contrib, and what
# exporterhelper's queue_batch_config has. Settings of confighttp's client_config are not used.
SCHEMA = {
    "connection_string": str,
    "custom_events_enabled": bool,
    "exception_events_enabled": bool,
    "instrumentation_key": str,
    "maxbatchinterval": str,
    "maxbatchsize": int,
    "sending_queue": dict,
    "shutdown_timeout": str,
    "spaneventsenabled": bool,
}
QUEUE = {
    "enabled": bool,
    "num_consumers": int,
    "wait_for_result": bool,
    "block_on_overflow": bool,
    "sizer": str,
    "queue_size": int,
    "storage": str,
    "batch": dict,
}


@pytest.fixture
def with_stand_in(tmp_path: Path) -> Path:
    """The file with OTLP to ${env:OTLP_BACKEND_URL} in place of the exporter; its queue stays."""
    config = yaml.safe_load((CONFIGURATIONS / "gateway-azure-monitor.yaml").read_text())
    azure = config["exporters"].pop("azure_monitor")
    config["exporters"]["otlp_http/azure"] = {
        "endpoint": "${env:OTLP_BACKEND_URL:-http://127.0.0.1:4328}",
        "sending_queue": azure["sending_queue"],
    }
    for pipeline in config["service"]["pipelines"].values():
        assert pipeline["exporters"] == ["azure_monitor"]
        pipeline["exporters"] = ["otlp_http/azure"]
    written = tmp_path / "gateway-azure-monitor.yaml"
    written.write_text(yaml.safe_dump(config))
    return written


def test_settings_of_the_exporter_are_those_of_its_schema():
    text = (CONFIGURATIONS / "gateway-azure-monitor.yaml").read_text()
    config = yaml.safe_load(re.sub(r"\$\{env:\w+:-([^}]*)\}", r"\1", text))
    assert config["exporters"].keys() == {"azure_monitor"}
    azure = config["exporters"]["azure_monitor"]
    for settings, schema in ((azure, SCHEMA), (azure["sending_queue"], QUEUE)):
        assert settings.keys() <= schema.keys()
        for key, value in settings.items():
            assert isinstance(value, schema[key]), key
    assert azure["custom_events_enabled"] is True


def test_all_else_is_what_the_collector_takes(with_stand_in):
    done = validate(with_stand_in)
    assert (done.returncode, done.stderr) == (0, "")


def metrics(amount: int, begun_ns: int) -> bytes:
    point = Point(amount, POD, start_ns=begun_ns, time_ns=time.time_ns())
    (body,) = MetricsEncoder(RESOURCE).encode([point_block(FLOW_IO, [point])])
    return body


def test_what_it_hands_to_the_exporter_are_deltas_and_complete_custom_events(
    with_stand_in, tmp_path
):
    azure = Collector("first-light", tmp_path)
    gateway = Collector(with_stand_in, tmp_path, {"OTLP_BACKEND_URL": azure.endpoint})
    events = event_block(
        DROP_EVENT,
        [Occurrence(POD, integers={EVENT_PACKETS.name: n}, time_ns=time.time_ns()) for n in (2, 3)],
        body="{source_k8s_pod_name} lost {retina_event_packets}",
    )
    (logs,) = LogsEncoder(RESOURCE).encode([events])
    with running(gateway, azure):
        begun = time.time_ns()
        for total in (0, 5, 5, 104_729):
            gateway.post("/v1/metrics", metrics(total, begun))
        gateway.post("/v1/logs", logs)

        def deltas() -> list[int]:
            return [int(p.get("asInt", 0)) for points in azure.points().values() for p in points]

        wait_until(lambda: sum(deltas()) == 104_729, "the whole truth as deltas")
        wait_until(lambda: len(azure.events()) == 2, "both events")
        sums = [
            metric["sum"]
            for line in azure.lines()
            for resource in line.get("resourceMetrics", ())
            for scope in resource["scopeMetrics"]
            for metric in scope["metrics"]
        ]
        assert {each["aggregationTemporality"] for each in sums} == {1}
        expected: list[dict[str, Any]] = [
            {
                **RESOURCE,
                **POD,
                EVENT_PACKETS.name: n,
                "body": f"web lost {n}",
                "severity_number": DROP_EVENT.severity,
                "microsoft.custom_event.name": DROP_EVENT.name,
            }
            for n in (2, 3)
        ]
        assert [dict(attributes) for _, attributes in azure.events()] == expected
