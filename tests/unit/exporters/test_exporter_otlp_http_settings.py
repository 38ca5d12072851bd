"""What settings and standard variables make of the otlp_http exporter; nothing is sent here."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from retina_otel.delivery.compression import Compression
from retina_otel.delivery.http.sender import HttpSender
from retina_otel.errors import ConfigError
from retina_otel.exporters.otlp_http import OtlpHttpExporter, OtlpHttpSettings
from retina_otel.pipeline.points import Temporality
from retina_otel.testing.exporters import Bench, EventsFeed, MetricsFeed


def exporter(variables: dict[str, str], **settings: Any) -> OtlpHttpExporter:
    chosen = OtlpHttpSettings.model_validate(settings)
    return OtlpHttpExporter(chosen, Bench().context(), variables)


def test_the_endpoint_is_explicit_then_from_the_environment_then_local() -> None:
    general = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://env:4318"}
    special = {**general, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://special:4318/m"}
    assert exporter({}).targets()["metrics"] == "http://localhost:4318/v1/metrics"
    assert exporter(general).targets()["logs"] == "http://env:4318/v1/logs"
    assert exporter(special).targets()["metrics"] == "http://special:4318/m"
    assert exporter(special, endpoint="http://own/x").targets() == {
        "metrics": "http://own/x/v1/metrics",
        "logs": "http://own/x/v1/logs",
    }
    own = exporter(special, endpoint="http://own", metrics_endpoint="http://m/")
    assert own.targets() == {"metrics": "http://m/", "logs": "http://own/v1/logs"}


def test_interval_and_temporality_come_from_the_standard_variables() -> None:
    variables = {
        "OTEL_METRIC_EXPORT_INTERVAL": "60000",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "Delta",
    }
    assert exporter(variables).interval_s == 60.0
    assert exporter(variables).temporality is Temporality.DELTA
    assert exporter(variables, interval="5s", temporality="cumulative").interval_s == 5.0
    assert exporter({}).temporality is Temporality.CUMULATIVE


def test_own_headers_win_over_those_of_the_environment() -> None:
    made = exporter(
        {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=env,x-scope=env"},
        headers={"Authorization": "own"},
    )
    sender = made.senders["metrics"]
    assert isinstance(sender, HttpSender)
    assert sender.target.headers == {"x-scope": "env", "Authorization": "own"}
    assert sender.encoding is Compression.GZIP


@pytest.mark.parametrize(
    ("variables", "settings", "where"),
    [
        ({}, {"tls": {"ca_file": "/nowhere.pem"}, "endpoint": "https://x"}, "/nowhere.pem"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=x%0Ay"}, {}, "one line of text"),
    ],
)
def test_settings_that_can_not_work_are_one_clear_error(
    variables: dict[str, str], settings: dict[str, Any], where: str
) -> None:
    with pytest.raises(ConfigError) as error:
        exporter(variables, **settings)
    assert where in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"endpoint_": "x"},
        {"endpoint": "localhost:4318"},
        {"endpoint": "http://host:port"},
        {"endpoint": "http://[::1"},
        {"logs_endpoint": "grpc://host:4317"},
        {"interval": 15},
        {"interval": "0s"},
        {"compression": "lz4"},
    ],
)
def test_settings_of_a_wrong_kind_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OtlpHttpSettings.model_validate(settings)


def test_settings_do_not_show_their_secrets() -> None:
    settings = OtlpHttpSettings.model_validate({"headers": {"Authorization": "hunter2"}})
    assert "hunter2" not in f"{settings!r} {settings.model_dump_json()}"


def protocol_warnings(
    caplog: pytest.LogCaptureFixture, variables: dict[str, str], **settings: Any
) -> list[str]:
    caplog.clear()
    made = exporter(variables, **settings)
    made.start([MetricsFeed()], [EventsFeed()])
    made.stop(0)
    return [record.getMessage() for record in caplog.records]


def test_an_endpoint_of_the_environment_that_is_for_grpc_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    }
    assert protocol_warnings(caplog, variables) == [
        "OTEL_EXPORTER_OTLP_PROTOCOL is grpc, but otlp_http speaks http/protobuf. Set its endpoint "
        "to a port that takes OTLP over HTTP, commonly 4318"
    ]
    assert protocol_warnings(caplog, variables, endpoint="http://c:4318") == []
    variables["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
    assert protocol_warnings(caplog, variables) == []
