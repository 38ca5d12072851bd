"""What the standard OTEL_* variables make of the configuration that runs without a file."""

from __future__ import annotations

import pytest

from retina_otel.config.load import load
from retina_otel.config.registry import Registry
from retina_otel.errors import ConfigError

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.installed()


def exporters(registry: Registry, variables: dict[str, str]) -> dict[str, list[str]]:
    configuration = load(registry, path=None, environment=variables)
    return {name: one.exporters for name, one in configuration.service.pipelines.items()}


def named(metrics: str, logs: str, **otlp: str) -> dict[str, str]:
    words = {"OTEL_METRICS_EXPORTER": metrics, "OTEL_LOGS_EXPORTER": logs}
    return words | {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in otlp.items()}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {"metrics": ["prometheus"]}),
        (named("", " "), {"metrics": ["prometheus"]}),
        (ENDPOINT, {"metrics": ["prometheus", "otlp_http"], "logs": ["otlp_http"]}),
        (named("otlp", "otlp"), {"metrics": ["otlp_http"], "logs": ["otlp_http"]}),
        (named("otlp", "none"), {"metrics": ["otlp_http"]}),
        (named("none", "otlp"), {"logs": ["otlp_http"]}),
        (named("none", ""), None),
        ({**ENDPOINT, **named("none", "")}, {"logs": ["otlp_http"]}),
        (named("prometheus", "none"), {"metrics": ["prometheus"]}),
        (named("console", "console"), {"metrics": ["debug"], "logs": ["debug"]}),
        (
            named("otlp, prometheus,console,otlp", "console,otlp"),
            {"metrics": ["otlp_http", "prometheus", "debug"], "logs": ["debug", "otlp_http"]},
        ),
    ],
)
def test_exporters_are_those_that_the_variables_name(
    registry: Registry, variables: dict[str, str], expected: dict[str, list[str]] | None
) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="leave nothing to do"):
            exporters(registry, variables)
    else:
        assert exporters(registry, variables) == expected


@pytest.mark.parametrize(
    ("protocols", "expected"),
    [
        ({"OTLP": "grpc"}, ["otlp_grpc", "otlp_grpc"]),
        ({"OTLP": "http/protobuf"}, ["otlp_http", "otlp_http"]),
        ({"OTLP": "grpc", "OTLP_LOGS": "http/protobuf"}, ["otlp_grpc", "otlp_http"]),
        ({"OTLP_METRICS": "grpc"}, ["otlp_grpc", "otlp_http"]),
    ],
)
def test_the_protocol_of_each_signal_chooses_its_exporter(
    registry: Registry, protocols: dict[str, str], expected: list[str]
) -> None:
    variables = {f"OTEL_EXPORTER_{name}_PROTOCOL": word for name, word in protocols.items()}
    found = exporters(registry, {**named("otlp", "otlp"), **variables})
    assert found == {"metrics": expected[:1], "logs": expected[1:]}
    assert exporters(registry, {**ENDPOINT, **variables})["logs"] == expected[1:]


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, "127.0.0.1:10093"),
        ({"HOST": "0.0.0.0"}, "0.0.0.0:10093"),
        ({"PORT": "9464"}, "127.0.0.1:9464"),
        ({"HOST": "::1", "PORT": "9464"}, "[::1]:9464"),
        ({"HOST": "localhost", "PORT": "9464"}, "localhost:9464"),
    ],
)
def test_the_address_of_prometheus_is_that_of_the_variables(
    registry: Registry, variables: dict[str, str], endpoint: str
) -> None:
    full = {f"OTEL_EXPORTER_PROMETHEUS_{name}": value for name, value in variables.items()}
    configuration = load(registry, path=None, environment=full)
    assert getattr(configuration.exporters["prometheus"].settings, "endpoint") == endpoint  # noqa: B009


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (named("oltp", ""), "OTEL_METRICS_EXPORTER names 'oltp'.*otlp, prometheus, console, none"),
        (named("", "prometheus"), "OTEL_LOGS_EXPORTER names 'prometheus'.*otlp, console, none"),
        (named("otlp,none", ""), "OTEL_METRICS_EXPORTER names none and others"),
        (named("none", "none"), "OTEL_SDK_DISABLED"),
        (
            {**named("otlp", ""), "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'.*grpc or http/protobuf",
        ),
        (named("otlp", "", ENDPOINT="h:4318"), "OTEL_EXPORTER_OTLP_ENDPOINT is 'h:4318'"),
        (named("otlp", "", TIMEOUT="10s"), "OTEL_EXPORTER_OTLP_TIMEOUT is '10s'"),
        (named("", "otlp", COMPRESSION="zip"), "OTEL_EXPORTER_OTLP_COMPRESSION is 'zip'"),
        (named("", "otlp", HEADERS="x"), "OTEL_EXPORTER_OTLP_HEADERS is not a list"),
        (
            named("otlp", "", PROTOCOL="grpc", ENDPOINT="http://h:4317/v1"),
            "OTEL_EXPORTER_OTLP_ENDPOINT: a gRPC endpoint has no path: write host:4317",
        ),
        ({"OTEL_EXPORTER_PROMETHEUS_PORT": "x"}, "OTEL_EXPORTER_PROMETHEUS_PORT is 'x'"),
        ({"OTEL_EXPORTER_PROMETHEUS_PORT": "65536"}, "OTEL_EXPORTER_PROMETHEUS_PORT"),
    ],
)
def test_words_that_nobody_knows_are_one_clear_error(
    registry: Registry, variables: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        exporters(registry, variables)
