"""azure_monitor with tokens of Entra: an identity endpoint on loopback gives them, as the one of a
managed identity does, and ingestion wants them, over TLS."""

from __future__ import annotations

import json
import logging
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from retina_otel.delivery.auth.authorizer import Request
from retina_otel.delivery.auth.settings import AuthSettings
from retina_otel.errors import DeliveryError
from retina_otel.exporters.azure_monitor import AzureMonitorExporter, AzureMonitorSettings
from retina_otel.testing.application_insights import Answer, ApplicationInsights
from retina_otel.testing.exporters import METRIC, Bench, Source


class Identity(ThreadingHTTPServer):
    """Gives a token to who knows its header, unless it was told to refuse."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Give)
        self.refuses = False
        self.asked: list[tuple[str, dict[str, list[str]]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/msi/token"


class _Give(BaseHTTPRequestHandler):
    server: Identity

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.server.asked.append((self.headers.get("X-IDENTITY-HEADER", ""), query))
        refused = self.server.refuses
        token = {
            "access_token": f"token-{len(self.server.asked)}",
            "expires_on": str(int(time.time()) + 86400),
            "resource": query["resource"][0],
            "token_type": "Bearer",
        }
        self.send_response(400 if refused else 200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        answer = {"error": {"message": "no identity is assigned"}} if refused else token
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Iterator[Identity]:
    with Identity() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("IDENTITY_ENDPOINT", server.url)
        monkeypatch.setenv("IDENTITY_HEADER", "the node's secret")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def azure(ca: trustme.CA) -> Iterator[ApplicationInsights]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    with ApplicationInsights(tls=context) as running:
        yield running


@pytest.fixture
def ca_file(ca: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return path


def started(text: str, ca_file: Path, source: Source, bench: Bench) -> AzureMonitorExporter:
    settings = AzureMonitorSettings.model_validate(
        {
            "connection_string": text,
            "auth": {"azure_ad": {"identity": "managed_identity", "client_id": "its-id"}},
            "tls": {"ca_file": str(ca_file)},
            "interval": "50ms",
            "retry_on_failure": {"initial_interval": "20ms", "max_interval": "50ms"},
        }
    )
    exporter = AzureMonitorExporter(settings, bench.context(), {})
    reader = source.accumulator.reader("test", temporality=exporter.temporality)
    exporter.start([reader], [])
    return exporter


def test_each_request_has_a_token_which_is_asked_for_once(
    identity: Identity,
    azure: ApplicationInsights,
    ca_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    source, bench = Source(), Bench()
    text = f"{azure.connection_string};AADAudience=https://monitor.azure.cn"
    exporter = started(text, ca_file, source, bench)
    for n in range(1, 4):
        source.count(a=n)
        azure.wait_for(lambda n=n: len(azure.points()) == n)
    exporter.stop(bench.deadline_ns(5))
    assert sum(azure.sums(METRIC.name).values()) == 6
    assert {r.headers["authorization"] for r in azure.received} == {"Bearer token-1"}
    ((header, query),) = identity.asked
    assert header == "the node's secret"
    assert query["resource"] == ["https://monitor.azure.cn"]
    assert query["client_id"] == ["its-id"]
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "token-1" not in said
    assert "the node's secret" not in said


def test_without_a_token_nothing_is_sent_and_nothing_is_lost(
    identity: Identity, azure: ApplicationInsights, ca_file: Path
) -> None:
    identity.refuses = True
    source, bench = Source(), Bench()
    exporter = started(azure.connection_string, ca_file, source, bench)
    source.count(a=5)
    azure.wait_for(lambda: bench.reasons)
    assert "Entra gives no token" in bench.reasons[0]
    assert "auth.azure_ad" in bench.reasons[0]
    assert azure.received == []
    source.count(a=7)
    identity.refuses = False
    azure.wait_for(azure.points)
    exporter.stop(bench.deadline_ns(5))
    assert sum(azure.sums(METRIC.name).values()) == 12
    ledger = bench.ledger.report()
    assert (ledger.difference, ledger.lost) == (0, {})
    assert ledger.exports["points"].request_failures.keys() == {"credentials"}


def test_a_role_that_is_given_late_costs_nothing(
    identity: Identity, azure: ApplicationInsights, ca_file: Path
) -> None:
    azure.script(Answer(403), Answer(401))
    source, bench = Source(), Bench()
    exporter = started(azure.connection_string, ca_file, source, bench)
    source.count(a=5)
    azure.wait_for(azure.points)
    exporter.stop(bench.deadline_ns(5))
    assert sum(azure.sums(METRIC.name).values()) == 5
    assert "role Monitoring Metrics Publisher" in bench.reasons[0]


def test_a_token_is_never_sent_without_tls(identity: Identity, ca_file: Path) -> None:
    with ApplicationInsights() as plain:
        source, bench = Source(), Bench()
        exporter = started(plain.connection_string, ca_file, source, bench)
        source.count(a=5)
        plain.wait_for(lambda: bench.reasons)
        exporter.stop(bench.deadline_ns(0.5))
        assert plain.received == []
        assert "non-TLS" in bench.reasons[0]


def test_other_exporters_send_the_same_token(identity: Identity) -> None:
    settings = AuthSettings.model_validate({"azure_ad": {"identity": "managed_identity"}})
    authorizer = settings.authorizer()
    assert authorizer is not None
    request = Request("POST", "https://workspace", {}, b"")
    identity.refuses = True
    with pytest.raises(DeliveryError, match="Entra gives no token"):
        authorizer.headers(request)
    identity.refuses = False
    for _ in range(2):
        assert authorizer.headers(request) == {"Authorization": "Bearer token-2"}
    assert [query["resource"] for _, query in identity.asked] == [
        ["https://monitor.azure.com/"]
    ] * 2


ASKING = """
from retina_otel.delivery.auth.settings import AuthSettings
from retina_otel.delivery.auth.authorizer import Request
from retina_otel.errors import DeliveryError

way = AuthSettings.model_validate({"azure_ad": {"identity": "managed_identity"}}).authorizer()
try:
    way.headers(Request("POST", "https://workspace", {}, b""))
except DeliveryError as error:
    print(error.message)
"""


def test_azures_packages_write_nothing_past_the_agents_log(identity: Identity) -> None:
    identity.refuses = True
    done = subprocess.run(
        [sys.executable, "-c", ASKING], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("Entra gives no token: ")
    assert done.stderr == ""
