"""What is often written wrongly of an exporter is refused, in one line that says what is right, and
without what may be secret; and `validate` sees it, not only the agent."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from retina_otel.config.load import Configuration, load
from retina_otel.config.registry import Registry
from retina_otel.errors import ConfigError

HTTP, GRPC = "otlp_http", "otlp_grpc"
PROMETHEUS, WRITE = "prometheus", "prometheus_remote_write"


def loaded(directory: Path, exporters: str, *, extensions: str = "") -> Configuration:
    """The configuration with these exporters, in a line each, and extensions."""
    names = list(yaml.safe_load(f"{{{exporters}}}"))
    others = list(yaml.safe_load(f"{{{extensions}}}"))
    path = directory / "agent.yaml"
    path.write_text(
        f"receivers: {{interfaces: {{}}}}\nexporters: {{{exporters}}}\n"
        f"extensions: {{{extensions}}}\n"
        f"service: {{extensions: {others}, pipelines: "
        f"{{metrics: {{receivers: [interfaces], exporters: {names}}}}}}}\n"
    )
    return load(Registry.installed(), path=path, environment={})


def refused(directory: Path, exporters: str, *, extensions: str = "") -> str:
    """The one error, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        loaded(directory, exporters, extensions=extensions)
    assert getattr(caught.value, "errors", ()) == ()
    said = str(caught.value).replace(f"{directory}/agent.yaml", "FILE")
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        # An endpoint.
        (HTTP, "endpoint: 'http://localhost:0'", ".endpoint: 'http://localhost:0' given, but it "
         "has no valid host and port: write http://host:4318 or https://host:4318 (FILE:2)"),
        (HTTP, "endpoint: 'http://host:4318/a b'", ".endpoint: 'http://host:4318/a b' given, but "
         "it has a space in it: write http://host:4318 or https://host:4318 (FILE:2)"),
        (HTTP, "endpoint: 'https://host:4318/v1/metrics'", ".endpoint: 'https://host:4318/v1/"
         "metrics' given, but /v1/metrics is added to it: write https://host:4318, or "
         "metrics_endpoint instead of endpoint (FILE:2)"),
        (HTTP, "endpoints: ['http://a:1', 'http://b:1/x/v1/logs/']", ".endpoints.1: 'http://b:1/"
         "x/v1/logs/' given, but /v1/logs is added to it: write http://b:1/x, or logs_endpoint "
         "instead of endpoint (FILE:2)"),
        (GRPC, "endpoint: unix://run/otel.sock", ".endpoint: 'unix://run/otel.sock' given, but "
         "its path does not begin with /: write unix:///path/of/socket (FILE:2)"),
        (WRITE, "endpoint: 'localhost:9090'", ".endpoint: 'localhost:9090' given, but it is no "
         "http or https URL: write http://host:9090/api/v1/write (FILE:2)"),
        (WRITE, "endpoint: 'http://localhost:9090'", ".endpoint: 'http://localhost:9090' given, "
         "but it has no path: write http://host:9090/api/v1/write (FILE:2)"),
        # TLS that is not there.
        (HTTP, "endpoint: 'http://h:1', tls: {ca_file: /ca}", ": tls is set, but http://h:1 is "
         "without TLS: write https://, or leave tls out (FILE:2)"),
        (GRPC, "endpoint: 'http://h:1', tls: {ca_file: /ca}", ": tls is set, but http://h:1 is "
         "without TLS: write https://, or leave tls out (FILE:2)"),
        (WRITE, "endpoint: 'http://u:hunter2@h/w', tls: {ca_file: /ca}", ": tls is "
         "set, but http://h/w is without TLS: write https://, or leave tls out (FILE:2)"),
        # Headers.
        (HTTP, r'headers: {x-key: "hunter2\n"}', ".headers: the value of the header x-key can't "
         "be sent: write one line of Latin-1, without a line break at its end (FILE:2)"),
        (WRITE, 'headers: {x-key: "hunter2→"}', ".headers: the value of the header x-key can't "
         "be sent: write one line of Latin-1, without a line break at its end (FILE:2)"),
        (HTTP, "headers: {Content-Length: '5'}", ".headers: the header Content-Length belongs to "
         "the request itself: leave it out (FILE:2)"),
        (WRITE, "headers: {Transfer-Encoding: chunked}", ".headers: the header Transfer-Encoding "
         "belongs to the request itself: leave it out (FILE:2)"),
        (HTTP, "headers: {X-Key: hunter2, x-key: hunter2}", ".headers: the headers X-Key and "
         "x-key are one: keep one (FILE:2)"),
        # What is chosen from a list.
        (HTTP, "compression: lz4", ".compression: 'lz4' given, expected 'auto', 'gzip', 'zstd' or "
         "'none' (FILE:2)"),
        (HTTP, "compression: snappy", ".compression: 'snappy' given, expected 'auto', 'gzip', "
         "'zstd' or 'none' (FILE:2)"),
        (HTTP, "tls: {min_version: 1.3}", ".tls.min_version: 1.3 given, expected '1.2' or '1.3' "
         "(FILE:2). Put it in quotes: '1.3'."),
        (WRITE, "protocol: 2.0", ".protocol: 2.0 given, expected '1.0' or '2.0' (FILE:2). "
         "Put it in quotes: '2.0'."),
        (WRITE, "protocol: 3.0", ".protocol: 3.0 given, expected '1.0' or '2.0' (FILE:2)"),
        # Text that YAML takes for something else.
        (WRITE, "external_labels: {rack: 7}", ".external_labels.rack: 7 given, expected a valid "
         "string (FILE:2). Put it in quotes."),
        (HTTP, "headers: {x-key: 12}", ".headers.x-key: a value that is not shown given, expected "
         "a valid string (FILE:2). Put it in quotes."),
        (WRITE, "external_labels: {__name__: c}", ".external_labels: '__name__' with the value 'c' "
         "can be no label: a name does not begin with __, and neither is empty (FILE:2)"),
        (WRITE, "resource_labels: k8s.node.name", ".resource_labels: 'k8s.node.name' given, "
         "expected a valid list (FILE:2). Write it as [k8s.node.name]."),
        # Amounts.
        (HTTP, "interval: 9999999999h", ".interval: '9999999999h' given, but it is longer than "
         "100 years (FILE:2)"),
        (PROMETHEUS, "path: metrics", ".path: 'metrics' given, but it does not begin with /: write "
         "it as /metrics (FILE:2)"),
        # Two at once.
        (HTTP, "endpoint: 'http://a:1', endpoints: ['http://b:1']", ": endpoints and endpoint "
         "exclude each other: keep one of them (FILE:2)"),
    ],
)  # fmt: skip
def test_a_setting_that_is_wrong_is_told_with_what_is_right(
    kind: str, settings: str, said: str, tmp_path: Path
) -> None:
    line = refused(tmp_path, f"{kind}: {{{settings}}}")
    assert line == f"exporters.{kind}{said}"
    assert "hunter2" not in line


@pytest.mark.parametrize(
    "settings",
    [
        "endpoint: 'https://h:1', tls: {ca_file: /ca}",
        "endpoints: ['http://localhost:1', 'https://h:1'], tls: {ca_file: /ca}",
        "tls: {ca_file: /ca}",
        "endpoint: 'http://h:1', tls: {}",
        "endpoint: 'http://h:1/otlp/', metrics_endpoint: 'http://h:2/v1/metrics'",
        "headers: {Host: collector.example, X-Key: 'ü'}",
        "interval: 876000h",
    ],
)
def test_what_looks_like_a_mistake_and_is_none_is_taken(settings: str, tmp_path: Path) -> None:
    loaded(tmp_path, f"{HTTP}: {{{settings}}}")


def test_two_that_would_listen_on_one_port_are_refused(tmp_path: Path) -> None:
    two = "prometheus: {endpoint: '127.0.0.1:9090'}, prometheus/b: {endpoint: '127.0.0.1:9090'}"
    assert refused(tmp_path, two) == (
        "exporters.prometheus/b.endpoint: 127.0.0.1:9090 is what exporters.prometheus listens on "
        "(FILE:2). Choose another port."
    )
    all_addresses = two.replace("b: {endpoint: '127.0.0.1", "b: {endpoint: '")
    assert "exporters.prometheus/b.endpoint: :9090 is what" in refused(tmp_path, all_addresses)
    by_name = two.replace("b: {endpoint: '127.0.0.1", "b: {endpoint: 'localhost")
    assert "exporters.prometheus/b.endpoint: localhost:9090 is what" in refused(tmp_path, by_name)
    health = "health_check: {endpoint: '0.0.0.0:10093'}"
    assert refused(tmp_path, "prometheus: {}", extensions=health) == (
        "extensions.health_check.endpoint: 0.0.0.0:10093 is what exporters.prometheus listens on "
        "(FILE:3). Choose another port."
    )


def test_addresses_that_differ_and_ports_that_the_kernel_chooses_are_taken(tmp_path: Path) -> None:
    loaded(tmp_path, "prometheus: {endpoint: '127.0.0.1:1'}, prometheus/b: {endpoint: '[::1]:1'}")
    loaded(tmp_path, "prometheus: {endpoint: ':0'}, prometheus/b: {endpoint: '127.0.0.1:0'}")
