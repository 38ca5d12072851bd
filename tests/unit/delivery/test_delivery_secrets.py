"""What holds a secret by mistake is refused, and the refusal does not show it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from retina_otel.config.document import parse_document
from retina_otel.config.problems import translate
from retina_otel.delivery.environment import OtlpEnvironment
from retina_otel.delivery.grpc.sender import METRICS_METHOD, GrpcSender, GrpcTarget
from retina_otel.delivery.http.sender import HttpSender, HttpTarget
from retina_otel.errors import ConfigError
from retina_otel.exporters.otlp_http import OtlpHttpSettings
from retina_otel.testing.exporters import ManualClock


@pytest.mark.parametrize(
    "text", ["Authorization: Bearer hunter2==", "a=b,Authorization: Bearer hunter2==", "a b=c"]
)
def test_headers_of_the_environment_that_are_written_with_a_colon_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_HEADERS") as error:
        _ = OtlpEnvironment({"OTEL_EXPORTER_OTLP_HEADERS": text}, "metrics").headers
    assert "hunter2" not in str(error.value)
    assert "name=value" in error.value.remedy


@pytest.mark.parametrize("name", ["Authorization: Bearer hunter2", "a\tb", " a", "é", ""])
def test_what_is_no_name_of_a_header_is_refused_over_both_protocols(name: str) -> None:
    for make in (
        lambda: HttpTarget("http://localhost:1/", {name: "x"}),
        lambda: GrpcSender(
            GrpcTarget("http://localhost:1", METRICS_METHOD, {name: "x"}), user_agent="test"
        ),
    ):
        with pytest.raises(ConfigError, match="header") as error:
            make()
        assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["user:hunter2@host:4318", "http://user:hunter2/x@host:4318", "//user:hunter2@:4318"]
)
def test_an_endpoint_that_is_no_url_does_not_show_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="endpoint") as error:
        HttpTarget(url)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "proxy", ["socks5://user:hunter2@proxy:1080", "http://user:hunter2@proxy:port", "http://"]
)
def test_a_proxy_of_the_environment_that_is_none_is_refused_and_not_shown(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", proxy)
    for make in (
        lambda: HttpSender(
            HttpTarget("http://collector.example/"), clock=ManualClock(), user_agent="test"
        ),
        lambda: GrpcSender(
            GrpcTarget("http://collector.example:4317", METRICS_METHOD), user_agent="test"
        ),
    ):
        with pytest.raises(ConfigError, match="HTTP_PROXY") as error:
            make()
        assert "hunter2" not in str(error.value)
        assert "proxy_url" in error.value.remedy


@pytest.mark.parametrize(
    "settings",
    [
        "endpoint: 'user:hunter2@host:4318'",
        "endpoint: 'http://user:hunter2/x@host:4318'",
        "proxy_url: hunter2",
        "auth: hunter2",
        "auth: {bearer: hunter2}",
        "auth: {basic: {username: 'user:hunter2', password_file: /x}}",
        "headers: {'Authorization: Bearer hunter2': x}",
        "headers: {'Authorization: Bearer hunter2': [x]}",
    ],
)
def test_a_setting_that_is_wrong_does_not_show_the_secret_in_it(settings: str) -> None:
    document = parse_document(settings, "f", {})
    with pytest.raises(ValidationError) as caught:
        OtlpHttpSettings(**document.data)
    [error] = translate(caught.value, OtlpHttpSettings, [document])
    assert "hunter2" not in f"{error} {error.path}"
    assert error.path.partition(".")[0] == settings.partition(":")[0]
    assert "f:1" in str(error)
