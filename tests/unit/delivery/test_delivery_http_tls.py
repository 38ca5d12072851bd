"""The HTTP sender over TLS: whom it trusts, and whom it shows a certificate."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from retina_otel.delivery.http.sender import HttpSender, HttpTarget
from retina_otel.delivery.outcome import Result
from retina_otel.delivery.tls.contexts import TlsOptions, TlsVersion
from retina_otel.errors import ConfigError
from retina_otel.testing.exporters import ManualClock
from tests.unit.delivery.scripted_http_server import BODY, Server, post, send, serve


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serve(Server())


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_server(ca: trustme.CA) -> Iterator[Server]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1", "collector.example").configure_cert(context)
    yield from serve(Server(context))


def ca_file(ca: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


def test_tls_works_with_the_ca_of_the_server(
    tls_server: Server, ca: trustme.CA, tmp_path: Path
) -> None:
    tls = TlsOptions(ca_file=ca_file(ca, tmp_path), min_version=TlsVersion.TLS_1_3)
    assert send(tls_server.url, tls=tls).result is Result.ACCEPTED


def test_a_wrong_ca_is_a_retry_with_a_clear_reason(tls_server: Server, tmp_path: Path) -> None:
    tls = TlsOptions(ca_file=ca_file(trustme.CA(), tmp_path))
    outcome = send(tls_server.url, tls=tls)
    assert (outcome.result, outcome.reason) == (Result.RETRY, "tls_certificate")
    assert "not trusted" in outcome.message
    assert "tls.ca_file" in outcome.remedy
    assert tls_server.got == []


def test_a_certificate_for_another_name_is_refused_unless_the_name_is_given(
    ca: trustme.CA, tmp_path: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("collector.example").configure_cert(context)
    server = Server(context)
    for _ in serve(server):
        file = ca_file(ca, tmp_path)
        assert send(server.url, tls=TlsOptions(ca_file=file)).reason == "tls_certificate"
        named = TlsOptions(ca_file=file, server_name="collector.example")
        assert send(server.url, tls=named).result is Result.ACCEPTED


def test_skipping_verification_takes_any_certificate(tls_server: Server) -> None:
    tls = TlsOptions(insecure_skip_verify=True)
    assert send(tls_server.url, tls=tls).result is Result.ACCEPTED


def test_a_client_certificate_is_shown_to_a_server_that_wants_one(
    ca: trustme.CA, tmp_path: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    client = ca.issue_cert("agent.example")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    client.cert_chain_pems[0].write_to_path(str(cert))
    client.private_key_pem.write_to_path(str(key))
    server = Server(context)
    for _ in serve(server):
        file = ca_file(ca, tmp_path)
        both = TlsOptions(ca_file=file, cert_file=str(cert), key_file=str(key))
        assert send(server.url, tls=both).result is Result.ACCEPTED
        without = send(server.url, tls=TlsOptions(ca_file=file))
        assert without.result is Result.RETRY
        assert len(server.got) == 1


def test_a_renewed_ca_file_is_read_without_a_restart(
    tls_server: Server, ca: trustme.CA, tmp_path: Path
) -> None:
    file = ca_file(trustme.CA(), tmp_path)
    target = HttpTarget(tls_server.url, tls=TlsOptions(ca_file=file))
    with closing(HttpSender(target, clock=ManualClock(), user_agent="test")) as sender:
        assert post(sender, BODY, 5).reason == "tls_certificate"
        ca_file(ca, tmp_path)
        assert post(sender, BODY, 5).result is Result.ACCEPTED


def test_https_to_a_port_without_tls_says_so(server: Server) -> None:
    outcome = send(server.url.replace("http:", "https:"))
    assert (outcome.result, outcome.reason) == (Result.RETRY, "tls_handshake")


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [("missing.pem", None, "Check the path"), ("empty.pem", b"", "PEM"), ("x.pem", b"x", "PEM")],
)
def test_a_ca_file_that_is_none_is_one_clear_error_at_the_start(
    tmp_path: Path, name: str, content: bytes | None, remedy: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=name) as error:
        send("https://127.0.0.1:1/", tls=TlsOptions(ca_file=str(path)))
    assert remedy in error.value.remedy


def test_a_client_key_without_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no client certificate"):
        send("https://127.0.0.1:1/", tls=TlsOptions(key_file=str(tmp_path)))
