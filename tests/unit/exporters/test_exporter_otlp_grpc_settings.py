"""What settings and standard variables make of the otlp_grpc exporter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from retina_otel.delivery.grpc.sender import GrpcSender
from retina_otel.errors import ConfigError
from retina_otel.exporters.otlp_grpc import OtlpGrpcExporter, OtlpGrpcSettings
from retina_otel.pipeline.points import Temporality
from retina_otel.testing.exporters import Bench, EventsFeed, MetricsFeed
from retina_otel.testing.otlp_grpc import OtlpGrpcSink
from tests.unit.delivery.delivery_parts import Pki


def exporter(variables: dict[str, str], **settings: Any) -> OtlpGrpcExporter:
    chosen = OtlpGrpcSettings.model_validate(settings)
    return OtlpGrpcExporter(chosen, Bench().context(), variables)


def metrics_sender(made: OtlpGrpcExporter) -> GrpcSender:
    sender = made.senders["metrics"]
    assert isinstance(sender, GrpcSender)
    return sender


def test_the_endpoint_is_explicit_then_from_the_environment_then_local() -> None:
    general = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://env:4317"}
    special = {**general, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://special:4317"}
    assert exporter({}).targets()["metrics"] == "http://localhost:4317"
    assert exporter(general).targets()["logs"] == "http://env:4317"
    assert exporter(special).targets()["metrics"] == "http://special:4317"
    own = exporter(special, endpoint="http://own:1", logs_endpoint="http://l:2")
    assert own.targets() == {"metrics": "http://own:1", "logs": "http://l:2"}
    several = exporter(special, endpoints=["http://a:1", "b:2"])
    assert several.targets()["metrics"] == "http://a:1, b:2"


def test_an_endpoint_without_a_scheme_has_tls_unless_it_is_said_to_be_insecure() -> None:
    bare = {"OTEL_EXPORTER_OTLP_ENDPOINT": "env:4317"}
    insecure = {**bare, "OTEL_EXPORTER_OTLP_INSECURE": "true"}
    assert metrics_sender(exporter(bare))._endpoint.tls
    assert not metrics_sender(exporter(insecure))._endpoint.tls
    special = {**insecure, "OTEL_EXPORTER_OTLP_METRICS_INSECURE": "false"}
    assert metrics_sender(exporter(special))._endpoint.tls
    assert metrics_sender(exporter(insecure, tls={"insecure": False}))._endpoint.tls
    assert not metrics_sender(exporter(bare, tls={"insecure": True}))._endpoint.tls


def test_certificates_come_from_the_environment_too(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    variables = {"OTEL_EXPORTER_OTLP_CERTIFICATE": pki.ca_file}
    with OtlpGrpcSink(credentials=pki.server()) as sink:
        made = exporter({**variables, "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint})
        sender = metrics_sender(made)
        assert sender.send(sender.pack(b"", 0), 5).reason == ""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, "no valid port"),
        ({"OTEL_EXPORTER_OTLP_INSECURE": "yes"}, "OTEL_EXPORTER_OTLP_INSECURE"),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, "zstd, which gRPC does not know"),
        ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "x"}, "lowmemory"),
    ],
)
def test_variables_that_can_not_work_are_one_clear_error(
    variables: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        exporter(variables)


@pytest.mark.parametrize(
    "settings",
    [
        {"endpoint": "c"},
        {"endpoint": "http://c:4317/v1/metrics"},
        {"endpoints": ["c:1", "http://c"]},
        {"endpoint": "c:1", "endpoints": ["d:1"]},
        {"compression": "zstd"},
        {"tls": {"insecure_skip_verify": True}},
        {"proxy_url": "proxy"},
        {"headers": {"authorization": "x"}, "auth": {"bearer": {"token_file": "/t"}}},
        {"keepalive": {"time": "0s"}},
        {"auth": {"sigv4": {"region": "eu-central-1"}}},
    ],
)
def test_settings_of_a_wrong_kind_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OtlpGrpcSettings.model_validate(settings)


def test_temporality_knows_the_three_words() -> None:
    name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    found = [exporter({name: word}).temporality for word in ("Cumulative", "delta", "LOWMEMORY")]
    assert found == [Temporality.CUMULATIVE, Temporality.DELTA, Temporality.LOWMEMORY]
    assert exporter({name: "delta"}, temporality="lowmemory").temporality is Temporality.LOWMEMORY


def test_settings_do_not_show_their_secrets() -> None:
    settings = OtlpGrpcSettings.model_validate(
        {"headers": {"x-key": "hunter2"}, "proxy_url": "http://user:hunter2@proxy:3128"}
    )
    assert "hunter2" not in f"{settings!r} {settings.model_dump_json()}"


def test_an_endpoint_of_the_environment_that_is_for_http_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    made = exporter(variables)
    made.start([MetricsFeed()], [EventsFeed()])
    made.stop(0)
    assert [record.getMessage() for record in caplog.records] == [
        "OTEL_EXPORTER_OTLP_PROTOCOL is http/protobuf, but otlp_grpc speaks grpc. Set its endpoint "
        "to a port that takes OTLP over gRPC, commonly 4317"
    ]
