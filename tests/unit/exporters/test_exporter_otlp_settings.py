"""What settings and standard variables make of both OTLP exporters; nothing is sent here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retina_otel.errors import ConfigError
from retina_otel.testing.exporters import EventsFeed, MetricsFeed
from tests.unit.exporters.otlp_protocols import BOTH, GRPC, HTTP, Protocol


@BOTH
def test_every_setting_is_described(protocol: Protocol) -> None:
    schema = protocol.settings.model_json_schema()
    undescribed = [
        name
        for model in (schema, *schema["$defs"].values())
        for name, field in model.get("properties", {}).items()
        if "description" not in field and "$ref" not in field
    ]
    assert undescribed == []


@pytest.mark.parametrize(
    ("protocol", "settings", "said"),
    [
        (GRPC, {"endpoint": "http://c:4317"}, "http://c:4317"),
        (GRPC, {"endpoint": "c:4317", "tls": {"insecure": True}}, "c:4317"),
        (GRPC, {"endpoints": ["c:4317", "http://d:4317"]}, "http://d:4317"),
        (GRPC, {"endpoint": "http://localhost:4317"}, ""),
        (GRPC, {"endpoint": "unix:///run/c.sock"}, ""),
        (HTTP, {"endpoint": "http://c:4318"}, "http://c:4318/v1/metrics, http://c:4318/v1/logs"),
        (HTTP, {"endpoint": "https://c:4318"}, ""),
        (HTTP, {"endpoint": "http://127.0.0.1:4318"}, ""),
        (
            HTTP,
            {"metrics_endpoint": "http://127.example:4318/m", "logs_endpoint": "https://c/l"},
            "http://127.example:4318/m",
        ),
    ],
)
def test_a_token_that_leaves_this_machine_unencrypted_is_warned_about(
    protocol: Protocol,
    settings: dict[str, Any],
    said: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    token = tmp_path / "token"
    token.write_text("hunter2")
    auth = {"bearer": {"token_file": str(token)}}
    made = protocol.make(auth=auth, **settings)
    made.start([MetricsFeed()], [EventsFeed()])
    made.stop(0)
    expected = f"auth goes unencrypted to {said}: whoever is on the way can read it. Use https://"
    assert [record.getMessage() for record in caplog.records] == ([expected] if said else [])


MIXED = {
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "collector:4317",
    "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://collector:4318/v1/logs",
    "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "zstd",
}
"""As the specification has it: each signal its own way, so there is an exporter for each."""


def test_the_variables_of_a_signal_that_goes_another_way_are_no_business_of_this_exporter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    http, grpc = HTTP.make(MIXED), GRPC.make(MIXED)
    http.start([], [EventsFeed()])
    grpc.start([MetricsFeed()], [])
    for made in (http, grpc):
        made.stop(0)
    assert caplog.records == []
    assert http.targets() == {"logs": "http://collector:4318/v1/logs"}
    assert grpc.targets() == {"metrics": "collector:4317"}


def test_an_exporter_that_shall_send_a_signal_which_goes_another_way_says_so_at_its_start() -> None:
    with pytest.raises(ConfigError, match="no http or https URL"):
        HTTP.make(MIXED).start([MetricsFeed()], [EventsFeed()])
    with pytest.raises(ConfigError, match="zstd, which gRPC does not know"):
        GRPC.make(MIXED).start([MetricsFeed()], [EventsFeed()])
