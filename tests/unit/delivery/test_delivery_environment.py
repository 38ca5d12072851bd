"""The OTEL_EXPORTER_OTLP_* variables, by the specification's rules."""

from __future__ import annotations

import pytest

from retina_otel.delivery.compression import Compression
from retina_otel.delivery.environment import OtlpEnvironment
from retina_otel.errors import ConfigError


def metrics(**variables: str) -> OtlpEnvironment:
    named = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    return OtlpEnvironment(named, "metrics")


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, None),
        ({"ENDPOINT": ""}, None),
        ({"ENDPOINT": "http://c:4318"}, "http://c:4318/v1/metrics"),
        ({"ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/metrics"),
        ({"ENDPOINT": "http://c:4318/otlp/"}, "http://c:4318/otlp/v1/metrics"),
        ({"ENDPOINT": "http://c/otlp?key=1"}, "http://c/otlp/v1/metrics?key=1"),
        ({"METRICS_ENDPOINT": "http://m:4318/here"}, "http://m:4318/here"),
        ({"METRICS_ENDPOINT": "http://m", "ENDPOINT": "http://c"}, "http://m"),
        ({"LOGS_ENDPOINT": "http://l", "ENDPOINT": "http://c"}, "http://c/v1/metrics"),
    ],
)
def test_an_endpoint_follows_the_path_rules(variables: dict[str, str], url: str | None) -> None:
    assert metrics(**variables).url == url


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ENDPOINT": "localhost:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT is 'localhost:4318', which "
         "is no http or https URL. Write it as http://host:4318 or https://host:4318"),
        ({"METRICS_ENDPOINT": "http://h:0/x"}, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT is "
         "'http://h:0/x', which has no valid host and port. Write it as "
         "http://host:4318/v1/metrics or https://host:4318/v1/metrics"),
        ({"ENDPOINT": "http://user:hunter2@host:port"}, "OTEL_EXPORTER_OTLP_ENDPOINT has no valid "
         "host and port. Write it as http://host:4318 or https://host:4318"),
        ({"ENDPOINT": "user:hunter2@host"}, "OTEL_EXPORTER_OTLP_ENDPOINT is no http or https URL. "
         "Write it as http://host:4318 or https://host:4318"),
        ({"ENDPOINT": "https://host:4318/v1/metrics"}, "OTEL_EXPORTER_OTLP_ENDPOINT is "
         "'https://host:4318/v1/metrics', to which /v1/metrics is added. Write https://host:4318, "
         "or set OTEL_EXPORTER_OTLP_METRICS_ENDPOINT instead"),
    ],
)  # fmt: skip
def test_an_endpoint_that_is_none_is_refused_by_the_name_of_its_variable(
    variables: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        _ = metrics(**variables).url
    assert str(error.value) == said


def test_headers_are_percent_decoded_pairs_and_those_for_one_signal_win() -> None:
    both = {"HEADERS": "a=general", "METRICS_HEADERS": "Authorization=Bearer%20x, b = c=d "}
    assert metrics(**both).headers == {"Authorization": "Bearer x", "b": "c=d"}
    assert OtlpEnvironment({"OTEL_EXPORTER_OTLP_HEADERS": "a=general"}, "logs").headers == {
        "a": "general"
    }


def test_malformed_headers_are_refused_without_showing_them() -> None:
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_HEADERS") as error:
        _ = metrics(HEADERS="hunter2").headers
    assert "hunter2" not in str(error.value)


def test_a_timeout_is_in_milliseconds() -> None:
    assert metrics(TIMEOUT="2500").timeout_s == 2.5
    assert metrics(TIMEOUT="2500", METRICS_TIMEOUT="300").timeout_s == 0.3
    assert metrics().timeout_s is None


@pytest.mark.parametrize("value", ["10s", "-1", "0", "²"])
def test_a_timeout_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_TIMEOUT"):
        _ = metrics(TIMEOUT=value).timeout_s


def test_compression_is_read_and_an_unknown_one_names_the_known() -> None:
    assert metrics(COMPRESSION="gzip").compression is Compression.GZIP
    assert metrics(COMPRESSION="none").compression is Compression.NONE
    assert metrics().compression is None
    with pytest.raises(ConfigError, match="lz4") as error:
        _ = metrics(COMPRESSION="lz4").compression
    assert "gzip" in error.value.remedy


def test_certificates_are_read() -> None:
    environment = metrics(CERTIFICATE="/ca", METRICS_CLIENT_CERTIFICATE="/cert", CLIENT_KEY="/key")
    assert environment.certificate == "/ca"
    assert (environment.client_certificate, environment.client_key) == ("/cert", "/key")
