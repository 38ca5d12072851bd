"""The OTLP exporters against the real Collector: gRPC and HTTP, mutual TLS, limits, restarts.

A source of known amounts stands for the agent's pipelines; what the Collector writes to its file
must be what was counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from retina_otel.exporters.otlp_grpc import OtlpGrpcExporter, OtlpGrpcSettings
from retina_otel.exporters.otlp_http import OtlpHttpExporter, OtlpHttpSettings
from retina_otel.testing.backends import Collector
from retina_otel.testing.exporters import METRIC, NUMBER, WHO, Bench, Source

PROTOCOLS = ("grpc", "http")
ARRIVES_SECONDS = 20


class Running:
    """An exporter of one protocol with its source, started."""

    def __init__(self, protocol: str, collector: Collector, scheme: str = "http", **settings: Any):
        port = collector.grpc_port if protocol == "grpc" else collector.http_port
        chosen = {
            "endpoint": f"{scheme}://127.0.0.1:{port}",
            "interval": "100ms",
            "events_interval": "50ms",
            "retry_on_failure": {"initial_interval": "50ms", "max_interval": "200ms"},
            **settings,
        }
        self.bench = Bench(id="otlp")
        context = self.bench.context()
        self.exporter: OtlpGrpcExporter | OtlpHttpExporter
        if protocol == "grpc":
            grpc = OtlpGrpcSettings.model_validate(chosen)
            self.exporter = OtlpGrpcExporter(grpc, context, {})
        else:
            http = OtlpHttpSettings.model_validate(chosen)
            self.exporter = OtlpHttpExporter(http, context, {})
        self.source = Source(most_event_bytes=64 << 20)
        reader = self.source.accumulator.reader("test", temporality=self.exporter.temporality)
        self.exporter.start([reader], [self.source.buffer.reader("test")])

    def stop(self) -> None:
        """All that is left is sent; nothing of it may be missing."""
        self.exporter.stop(self.bench.deadline_ns(10))
        ledger = self.bench.ledger.report()
        assert (ledger.difference, dict(ledger.lost)) == (0, {})


def last_values(collector: Collector) -> dict[tuple[str, frozenset[tuple[str, str]]], int]:
    """The last recorded value of each series."""
    return {
        series: int([point["asInt"] for point in points if "asInt" in point][-1])
        for series, points in collector.points().items()
    }


def numbers(collector: Collector) -> list[int]:
    return [dict(attributes)[NUMBER.name] for _, attributes in collector.events()]


def wait_until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + ARRIVES_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"in {ARRIVES_SECONDS} s there was not {what}"
        time.sleep(0.05)


def arrived(collector: Collector, running: Running) -> Callable[[], bool]:
    def all_is_there() -> bool:
        events = len(numbers(collector)) == running.source.events
        return events and last_values(collector) == running.source.expected()

    return all_is_there


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_collector_has_all_that_was_counted_before_and_after_a_restart(
    protocol: str, collector: Collector
) -> None:
    running = Running(protocol, collector)
    for _ in range(5):
        running.source.count(a=104_729, b=2**40)
        running.source.happen(101)
        time.sleep(0.1)
    wait_until(arrived(collector, running), "what was sent before")
    collector.stop()
    running.source.count(a=7, c=11)
    running.source.happen(101)
    wait_until(lambda: "connection refused" in "".join(running.bench.reasons), "a reason")
    collector.start()
    running.source.count(a=1)
    running.stop()
    collector.stop()
    assert last_values(collector) == running.source.expected()
    assert numbers(collector) == list(range(606))


def test_a_limit_of_the_collector_on_a_message_is_kept_to(tmp_path: Path) -> None:
    small = tmp_path / "small.yaml"
    small.write_text("receivers: {otlp: {protocols: {grpc: {max_recv_msg_size_mib: 1}}}}\n")
    with Collector(["first-light", small], tmp_path) as collector:
        running = Running("grpc", collector, interval="1h", events_interval="1h")
        amounts = {f"{i:05d}-{'x' * 100}": i for i in range(1, 10_001)}
        running.source.count(**amounts)
        running.source.happen(10_007)
        running.stop()
        collector.stop()
        expected = {
            (METRIC.name, frozenset({(WHO.name, who)})): amount for who, amount in amounts.items()
        }
        assert last_values(collector) == expected
        assert numbers(collector) == list(range(10_007))
        report = running.bench.ledger.report()
        assert list(report.exports["points"].request_failures) == ["too_large"]


class Files:
    """A CA and PEM files, replaced in one step each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = trustme.CA()
        self.write("ca", self.ca.cert_pem.bytes())
        self.pair("server", self.ca, "127.0.0.1")

    def path(self, name: str) -> str:
        return str(self._folder / f"{name}.pem")

    def write(self, name: str, pem: bytes) -> None:
        fresh = self._folder / f"{name}.new"
        fresh.write_bytes(pem)
        fresh.replace(self.path(name))

    def pair(self, name: str, ca: trustme.CA, identity: str) -> None:
        made = ca.issue_cert(identity)
        self.write(f"{name}-key", made.private_key_pem.bytes())
        self.write(f"{name}-cert", made.cert_chain_pems[0].bytes())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mutual_tls_survives_a_wrong_certificate_and_a_renewal(
    protocol: str, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    tls = (
        f"{{cert_file: {files.path('server-cert')}, key_file: {files.path('server-key')}, "
        f"client_ca_file: {files.path('ca')}}}"
    )
    config = tmp_path / "tls.yaml"
    config.write_text(
        f"receivers: {{otlp: {{protocols: {{grpc: {{tls: {tls}}}, http: {{tls: {tls}}}}}}}}}\n"
    )
    files.pair("client", trustme.CA(), "agent.example")
    with Collector(["first-light", config], tmp_path) as collector:
        running = Running(
            protocol,
            collector,
            "https",
            tls={
                "ca_file": files.path("ca"),
                "cert_file": files.path("client-cert"),
                "key_file": files.path("client-key"),
            },
        )
        running.source.count(a=5)
        running.source.happen(3)
        wait_until(lambda: any(running.bench.reasons), "a reason why nothing arrives")
        assert collector.lines() == []
        files.pair("client", files.ca, "agent.example")
        wait_until(arrived(collector, running), "what waited")
        assert running.bench.reasons[-1] == ""
        files.pair("client", files.ca, "agent.example")
        running.source.count(a=6, b=7)
        running.source.happen(4)
        running.stop()
        collector.stop()
        assert last_values(collector) == running.source.expected()
        assert numbers(collector) == list(range(7))
