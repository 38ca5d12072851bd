"""What changes under a running HTTP sender: certificates, tokens; and proxies on its way."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from retina_otel.delivery.auth.settings import AuthSettings
from retina_otel.delivery.http.sender import HttpSender, HttpTarget
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.tls.contexts import TlsOptions
from retina_otel.testing.exporters import ManualClock
from retina_otel.testing.otlp import Answer, OtlpSink
from retina_otel.testing.otlp_grpc import OtlpGrpcSink
from tests.unit.delivery import delivery_parts
from tests.unit.delivery.delivery_parts import BODY, ConnectProxy, Pki

CREDENTIALS = f"Basic {base64.b64encode(b'user:hunter2').decode()}"
PAST = datetime(2020, 1, 1, tzinfo=UTC)


def sender(endpoint: str, auth: AuthSettings | None = None, **options: Any) -> HttpSender:
    return HttpSender(
        HttpTarget(f"{endpoint}/v1/metrics", **options),
        clock=ManualClock(),
        user_agent="test",
        authorizer=auth.authorizer() if auth else None,
    )


def send(one: HttpSender) -> Outcome:
    return one.send(one.pack(BODY, 5), 5.0)


@contextmanager
def tls_sink(pki: Pki, name: str = "127.0.0.1", **options: Any) -> Iterator[OtlpSink]:
    """Wants a certificate of the client."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    pki.ca.issue_cert(name, **options).configure_cert(context)
    pki.ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with OtlpSink() as sink:
        server = sink._server
        # Handshakes on the threads of the requests, so that one that fails ends nothing else.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        yield sink


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    with closing(ConnectProxy()) as running:
        yield running


def https(sink: OtlpSink) -> str:
    return sink.endpoint.replace("http:", "https:")


def test_a_renewed_client_certificate_is_shown_without_waiting_for_a_failure(pki: Pki) -> None:
    with tls_sink(pki) as sink, closing(sender(https(sink), tls=pki.client())) as one:
        outcomes = [send(one).result for _ in range(2)]
        first = one._connections.pool()
        pki.client()
        outcomes += [send(one).result for _ in range(2)]
        assert one._connections.pool() is not first
    assert outcomes == [Result.ACCEPTED] * 4


def test_an_expired_client_certificate_is_named_and_recovers_when_it_is_renewed(pki: Pki) -> None:
    tls = pki.client(not_after=PAST)
    with tls_sink(pki) as sink, closing(sender(https(sink), tls=tls)) as one:
        outcome = send(one)
        assert outcome.result is Result.RETRY
        assert f"{tls.cert_file} expired on 2020-01-01 at 00:00 UTC" in outcome.message
        pki.client()
        assert send(one).result is Result.ACCEPTED


def test_a_client_certificate_of_a_wrong_ca_recovers_when_it_is_replaced(pki: Pki) -> None:
    tls = pki.client(trustme.CA())
    with tls_sink(pki) as sink, closing(sender(https(sink), tls=tls)) as one:
        assert send(one).result is Result.RETRY
        pki.client()
        assert send(one).result is Result.ACCEPTED


def test_an_expired_certificate_of_the_server_is_named(pki: Pki) -> None:
    with (
        tls_sink(pki, not_after=PAST) as sink,
        closing(sender(https(sink), tls=pki.client())) as one,
    ):
        outcome = send(one)
    assert (outcome.result, outcome.reason) == (Result.RETRY, "tls_certificate")
    assert "certificate has expired" in outcome.message


def test_a_ca_that_is_replaced_is_trusted_from_the_next_request_on(pki: Pki) -> None:
    pki.write("ca", trustme.CA().cert_pem.bytes())
    with tls_sink(pki) as sink, closing(sender(https(sink), tls=pki.client())) as one:
        assert send(one).reason == "tls_certificate"
        pki.write("ca", pki.ca.cert_pem.bytes())
        assert send(one).result is Result.ACCEPTED


def test_half_of_a_new_pair_is_a_retry_until_the_other_half_is_there(pki: Pki) -> None:
    with tls_sink(pki) as sink, closing(sender(https(sink), tls=pki.client())) as one:
        fresh = pki.ca.issue_cert("agent.example")
        pki.write("cert", fresh.cert_chain_pems[0].bytes())
        outcome = send(one)
        assert (outcome.result, outcome.reason) == (Result.RETRY, "credentials")
        pki.write("key", fresh.private_key_pem.bytes())
        assert send(one).result is Result.ACCEPTED


def bearer(path: Path) -> AuthSettings:
    return AuthSettings.model_validate({"bearer": {"token_file": str(path)}})


def test_a_token_that_was_rotated_is_sent_after_the_refusal(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old\n")
    with OtlpSink() as sink, closing(sender(sink.endpoint, bearer(path))) as one:
        sink.script(Answer(401))
        outcome = send(one)
        assert (outcome.result, outcome.reason) == (Result.RETRY, "http_401")
        stamp = path.stat().st_mtime_ns
        path.write_text("new\n")
        # What `stat` says is the same: it is the refusal that makes it read again.
        os.utime(path, ns=(stamp, stamp))
        assert send(one).result is Result.ACCEPTED
        path.unlink()
        gone = send(one)
        assert (gone.result, gone.reason) == (Result.RETRY, "credentials")
    sent = [got.headers["authorization"] for got in sink.received]
    assert sent == ["Bearer old", "Bearer new"]


def test_a_proxy_that_is_set_gets_its_password_and_the_whole_address() -> None:
    with OtlpSink() as proxy:
        url = proxy.endpoint.replace("//", "//us%65r:hunter2@")
        with closing(sender("http://collector.example:4318", proxy_url=url)) as one:
            outcome = send(one)
        (got,) = proxy.received
    assert got.path == "http://collector.example:4318/v1/metrics"
    assert (
        got.headers["proxy-authorization"] == f"Basic {base64.b64encode(b'user:hunter2').decode()}"
    )
    assert "hunter2" not in f"{one.target!r} {outcome!r}"


def test_a_proxy_that_is_away_is_a_retry_that_shows_no_password() -> None:
    with closing(
        sender("http://collector.example:4318", proxy_url="http://user:hunter2@127.0.0.1:1")
    ) as one:
        outcome = send(one)
    assert outcome.result is Result.RETRY
    assert "hunter2" not in repr(outcome)


def test_a_tunnel_through_a_proxy_carries_tls(pki: Pki, proxy: ConnectProxy) -> None:
    with tls_sink(pki, "collector.example") as sink:
        proxy.towards(sink.port)
        url = proxy.endpoint.replace("//", "//user:hunter2@")
        tls = pki.client()
        with closing(sender("https://collector.example:4318", tls=tls, proxy_url=url)) as one:
            assert send(one).result is Result.ACCEPTED
    (asked,) = proxy.asked
    assert asked.startswith("CONNECT collector.example:4318 HTTP/1.")
    assert CREDENTIALS in asked


@pytest.mark.parametrize("tls", [False, True])
def test_grpc_goes_through_a_tunnel_too(pki: Pki, proxy: ConnectProxy, tls: bool) -> None:
    credentials = pki.server("collector.example") if tls else None
    with OtlpGrpcSink(credentials=credentials) as sink:
        proxy.towards(sink.port)
        outcome = delivery_parts.send(
            f"{'https' if tls else 'http'}://collector.example:4317",
            tls=TlsOptions(ca_file=pki.ca_file),
            proxy_url=proxy.endpoint.replace("//", "//user:hunter2@"),
        )
        assert outcome.result is Result.ACCEPTED
        assert len(sink.received) == 1
    (asked,) = proxy.asked
    assert asked.startswith("CONNECT collector.example:4317 HTTP/1.")
    assert CREDENTIALS in asked


def test_the_environments_proxy_is_for_grpc_too_but_not_for_this_machine(
    proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.endpoint)
    monkeypatch.setenv("no_proxy", "direct.example")
    with OtlpGrpcSink() as sink:
        proxy.towards(sink.port)
        assert delivery_parts.send("http://collector.example:4317").result is Result.ACCEPTED
        assert delivery_parts.send(sink.endpoint).result is Result.ACCEPTED
        assert len(sink.received) == 2
    assert len(proxy.asked) == 1
