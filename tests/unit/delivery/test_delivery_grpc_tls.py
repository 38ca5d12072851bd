"""Certificates and tokens of the gRPC sender: what does not hold is named, what is renewed is
used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from retina_otel.delivery.auth.settings import AuthSettings
from retina_otel.delivery.outcome import Result
from retina_otel.delivery.tls.contexts import TlsOptions
from retina_otel.errors import ConfigError
from retina_otel.testing.otlp_grpc import OtlpGrpcSink, Status
from tests.unit.delivery.delivery_parts import Capture, Pki, send, send_with, sender

PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def sink() -> Iterator[OtlpGrpcSink]:
    with OtlpGrpcSink() as running:
        yield running


@pytest.fixture
def capture() -> Iterator[Capture]:
    with closing(Capture()) as relay:
        yield relay


# -------------------------------------------------------------------------------------------- TLS


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def test_tls_works_with_the_ca_of_the_server_and_without_a_scheme(pki: Pki) -> None:
    with OtlpGrpcSink(credentials=pki.server()) as sink:
        tls = TlsOptions(ca_file=pki.ca_file)
        assert send(sink.endpoint, tls=tls).result is Result.ACCEPTED
        assert send(f"127.0.0.1:{sink.port}", tls=tls).result is Result.ACCEPTED


def test_without_a_ca_file_the_systems_are_trusted(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", pki.ca_file)
    with OtlpGrpcSink(credentials=pki.server()) as sink:
        assert send(sink.endpoint).result is Result.ACCEPTED


@pytest.mark.parametrize(
    ("server", "why"),
    [
        ({"not_after": PAST}, "certificate has expired"),
        ({"name": "other.example"}, "it is for another name"),
    ],
)
def test_a_servers_certificate_that_does_not_hold_is_named(
    pki: Pki, server: dict[str, Any], why: str
) -> None:
    with OtlpGrpcSink(credentials=pki.server(**server)) as sink:
        outcome = send(sink.endpoint, tls=TlsOptions(ca_file=pki.ca_file))
        assert (outcome.result, outcome.reason) == (Result.RETRY, "tls_certificate")
        assert why in outcome.message
        assert sink.received == []


def test_a_certificate_for_another_name_passes_where_that_name_is_given(pki: Pki) -> None:
    with OtlpGrpcSink(credentials=pki.server("other.example")) as sink:
        tls = TlsOptions(ca_file=pki.ca_file, server_name="other.example")
        assert send(sink.endpoint, tls=tls).result is Result.ACCEPTED


def test_a_wrong_ca_recovers_when_its_file_is_replaced(pki: Pki) -> None:
    path = pki.write("trusted", trustme.CA().cert_pem.bytes())
    with (
        OtlpGrpcSink(credentials=pki.server()) as sink,
        closing(sender(sink.endpoint, tls=TlsOptions(ca_file=path))) as one,
    ):
        outcome = send_with(one)
        assert (outcome.result, outcome.reason) == (Result.RETRY, "tls_certificate")
        assert "tls.ca_file" in outcome.remedy
        pki.write("trusted", pki.ca.cert_pem.bytes())
        assert send_with(one).result is Result.ACCEPTED


def test_an_expired_client_certificate_is_named_and_recovers_when_it_is_renewed(pki: Pki) -> None:
    with OtlpGrpcSink(credentials=pki.server(clients=True)) as sink:
        tls = pki.client(not_after=PAST)
        with closing(sender(sink.endpoint, tls=tls)) as one:
            outcome = send_with(one)
            assert outcome.result is Result.RETRY
            assert f"{tls.cert_file} expired on 2020-01-01 at 00:00 UTC" in outcome.message
            pki.client()
            assert send_with(one).result is Result.ACCEPTED


def test_a_renewed_client_certificate_is_shown_without_waiting_for_a_failure(
    pki: Pki, capture: Capture
) -> None:
    with OtlpGrpcSink(credentials=pki.server(clients=True)) as sink:
        capture.towards(sink.port)
        endpoint = capture.endpoint.replace("http:", "https:")
        with closing(sender(endpoint, tls=pki.client())) as one:
            assert [send_with(one).result for _ in range(3)] == [Result.ACCEPTED] * 3
            assert capture.connections == 1
            pki.client()
            assert [send_with(one).result for _ in range(3)] == [Result.ACCEPTED] * 3
            assert capture.connections == 2


def test_a_pair_that_does_not_match_is_a_retry_until_the_other_half_is_there(pki: Pki) -> None:
    with OtlpGrpcSink(credentials=pki.server(clients=True)) as sink:
        tls = pki.client()
        with closing(sender(sink.endpoint, tls=tls)) as one:
            fresh = pki.ca.issue_cert("agent.example")
            pki.write("cert", fresh.cert_chain_pems[0].bytes())
            outcome = send_with(one)
            assert (outcome.result, outcome.reason) == (Result.RETRY, "credentials")
            assert "no pair" in outcome.message
            pki.write("key", fresh.private_key_pem.bytes())
            assert send_with(one).result is Result.ACCEPTED


def test_a_file_that_is_no_pem_is_refused_at_the_start(pki: Pki) -> None:
    path = pki.write("bad", b"nothing")
    with pytest.raises(ConfigError, match="holds no CA certificate"):
        sender("https://c:4317", tls=TlsOptions(ca_file=path))


def test_a_port_without_tls_is_named_as_such(sink: OtlpGrpcSink, pki: Pki) -> None:
    outcome = send(f"127.0.0.1:{sink.port}", tls=TlsOptions(ca_file=pki.ca_file))
    assert (outcome.result, outcome.reason) == (Result.RETRY, "tls_handshake")
    assert "http://" in outcome.remedy


# ------------------------------------------------------------------------------------------ tokens


def test_a_token_that_was_rotated_is_sent_after_the_refusal(
    sink: OtlpGrpcSink, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text("old\n")
    auth = AuthSettings.model_validate({"bearer": {"token_file": str(path)}})
    sink.script(Status("UNAUTHENTICATED", "expired"))
    with closing(sender(sink.endpoint, auth=auth)) as one:
        outcome = send_with(one)
        assert (outcome.result, outcome.reason) == (Result.RETRY, "grpc_unauthenticated")
        stamp = path.stat().st_mtime_ns
        path.write_text("new\n")
        # What `stat` says is the same: it is the refusal that makes it read again.
        os.utime(path, ns=(stamp, stamp))
        assert send_with(one).result is Result.ACCEPTED
        path.unlink()
        gone = send_with(one)
    assert (gone.result, gone.reason) == (Result.RETRY, "credentials")
    assert [got.headers["authorization"] for got in sink.received] == ["Bearer old", "Bearer new"]
