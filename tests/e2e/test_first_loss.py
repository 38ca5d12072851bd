"""A running agent's first loss, by a real Prometheus: RetinaOtelLost is silent before it, and tells
it whichever way the agent's own metrics come there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from retina_otel.dashboards.alerts import alerts
from retina_otel.testing.backends import Prometheus, free_ports, running
from retina_otel.testing.otlp import Answer, OtlpSink, points_of
from tests.e2e.agent import COMMAND, STOP_SECONDS, wait_until

LEDGER, REASON = "exporter/otlp_http/sink", "points_refused"
ACCOUNT = (
    "retina_ledger_count_total{"
    f'retina_ledger_name="{LEDGER}",retina_ledger_reason="{REASON}",retina_ledger_account="lost"}}'
)
LOST = next(alert.expression for alert in alerts() if alert.name == "RetinaOtelLost")
WAYS = ["scrape", "remote write 1.0", "remote write 2.0", "otlp"]
"""The scrape is of the text format, which does not say when a series began."""


def exporters(way: str, prometheus: Prometheus, port: int) -> dict[str, Any]:
    if way == "scrape":
        return {"prometheus": {"endpoint": f"127.0.0.1:{port}"}}
    if way == "otlp":
        return {"otlp_http/prometheus": {"endpoint": prometheus.otlp_url, "interval": "200ms"}}
    return {
        "prometheus_remote_write": {
            "endpoint": prometheus.remote_write_url,
            "protocol": way.rpartition(" ")[2],
            "interval": "200ms",
        }
    }


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as sink:
        yield sink


@pytest.fixture(params=WAYS)
def prometheus(
    request: pytest.FixtureRequest, tmp_path: Path, sink: OtlpSink
) -> Iterator[Prometheus]:
    """Has what an agent tells of itself that also sends to the sink."""
    (port,) = free_ports(1)
    job = {
        "job_name": "retina-otel",
        "scrape_protocols": ["PrometheusText0.0.4"],
        "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
    }
    prometheus = Prometheus(tmp_path, scrape=[job] if request.param == "scrape" else [])
    told = exporters(request.param, prometheus, port) | {
        "otlp_http/sink": {"endpoint": sink.endpoint, "interval": "200ms"}
    }
    config = tmp_path / "agent.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "receivers": {"interfaces": {}},
                "exporters": told,
                "service": {
                    "interval": "200ms",
                    "telemetry": {"metrics": {"interval": "200ms"}},
                    "pipelines": {
                        "metrics": {"receivers": ["interfaces"], "exporters": list(told)}
                    },
                },
            }
        )
    )
    with running(prometheus), (tmp_path / "agent.log").open("wb") as log:
        agent = subprocess.Popen(
            [COMMAND, "agent", "--config", str(config)], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield prometheus
        finally:
            agent.terminate()
            assert agent.wait(STOP_SECONDS) == 0, (tmp_path / "agent.log").read_text()


def test_the_first_loss_is_told_and_nothing_before(prometheus: Prometheus, sink: OtlpSink) -> None:
    wait_until(lambda: bool(sink.points()), "anything at the sink")
    wait_until(
        lambda: [value for _, value in prometheus.query(ACCOUNT)] == [0.0],
        "the account of what the sink refuses, without anything in it",
    )
    assert prometheus.query(LOST) == []
    sink.script(Answer(400))
    wait_until(lambda: bool(prometheus.query(LOST)), "the alert's expression to be true")
    assert [
        (labels["retina_ledger_name"], labels["retina_ledger_reason"], labels["retina_ledger_unit"])
        for labels, _ in prometheus.query(LOST)
    ] == [(LEDGER, REASON, "points")]
    (refused,) = [each.message for each in sink.received if not each.accepted]
    assert isinstance(refused, ExportMetricsServiceRequest)
    assert [value for _, value in prometheus.query(ACCOUNT)] == [len([*points_of([refused])])]
