"""Who gets past TLS, with certificates of a real CA, and certificates that change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from retina_otel.errors import ConfigError
from retina_otel.identity_service.admission import Credentials
from retina_otel.identity_service.authentication import Peer, check_certificate
from retina_otel.identity_service.client import StreamSettings, probe
from retina_otel.identity_service.server import Limits
from retina_otel.identity_service.service import Options
from retina_otel.identity_service.tls import ServerFiles, server_credentials
from tests.unit.identity_service.identity_parts import (
    KEYS,
    LOGGER,
    Served,
    pod,
    reading,
    served,
    store_of,
    without_containers,
)


class Pki:
    """A CA, the service's files, and the agents'."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca_file = str(folder / "ca.crt")
        self.authority.cert_pem.write_to_path(self.ca_file)
        self.files = ServerFiles(*self.issue("service", "localhost"), client_ca_file=self.ca_file)

    def issue(self, file: str, *names: str, by: trustme.CA | None = None) -> tuple[str, str]:
        """Paths of a certificate and its key."""
        issued = (by or self.authority).issue_cert(*names)
        paths = str(self.folder / f"{file}.crt"), str(self.folder / f"{file}.key")
        issued.cert_chain_pems[0].write_to_path(paths[0])
        issued.private_key_pem.write_to_path(paths[1])
        return paths

    @contextmanager
    def serving(self) -> Iterator[Served]:
        def identify(credentials: Credentials, anew: bool) -> Peer:
            return check_certificate(credentials.certificate_names, {"agent.retina-otel"})

        credentials = server_credentials(self.files, LOGGER)
        store = store_of([pod(1)])
        with served(store, identify=identify, credentials=credentials) as service:
            yield service

    def settings(self, service: Served, pair: tuple[str, str] | None) -> dict[str, Any]:
        certificate, key = pair or ("", "")
        return {
            "kinds": KEYS,
            "insecure": False,
            "ca_file": self.ca_file,
            "cert_file": certificate,
            "key_file": key,
        }

    def probe(self, service: Served, pair: tuple[str, str] | None) -> str:
        endpoint = f"localhost:{service.server.port}"
        return probe(StreamSettings(endpoint, **self.settings(service, pair)))


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def test_an_agent_with_its_certificate_is_told_everything(pki: Pki) -> None:
    pair = pki.issue("agent", "agent.retina-otel")
    with pki.serving() as service:
        endpoint = f"localhost:{service.server.port}"
        with reading(endpoint, **pki.settings(service, pair)) as told:
            told.synced()
            assert list(told.pods().values()) == [without_containers(pod(1))]


def test_without_a_certificate_of_that_ca_nobody_gets_past_the_handshake(pki: Pki) -> None:
    foreign = pki.issue("foreign", "agent.retina-otel", by=trustme.CA())
    with pki.serving() as service:
        assert "UNAVAILABLE" in pki.probe(service, None)
        assert "UNAVAILABLE" in pki.probe(service, foreign)
        assert service.counters.labels() == []


def test_a_good_certificate_of_somebody_else_is_refused(pki: Pki) -> None:
    other = pki.issue("other", "other.retina-otel")
    with pki.serving() as service:
        told = pki.probe(service, other)
        assert "PERMISSION_DENIED" in told
        assert "other.retina-otel" in told
        assert service.counters.value("refusals_total", "foreign_certificate") == 1


def test_a_changed_certificate_is_used_for_the_next_connection(pki: Pki) -> None:
    pair = pki.issue("agent", "agent.retina-otel")
    with pki.serving() as service:
        assert pki.probe(service, pair) == ""
        pki.issue("service", "another.name")
        assert "UNAVAILABLE" in pki.probe(service, pair)
        pki.issue("service", "localhost")
        assert pki.probe(service, pair) == ""


def test_a_changed_certificate_that_is_broken_leaves_the_old_one_in_use(
    pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    pair = pki.issue("agent", "agent.retina-otel")
    with pki.serving() as service:
        Path(pki.files.cert_file).write_text("not a certificate")
        assert pki.probe(service, pair) == ""
        Path(pki.files.cert_file).unlink()
        assert pki.probe(service, pair) == ""
    assert "the old certificate stays in use" in caplog.text


def test_what_does_not_belong_together_is_said_at_the_start(pki: Pki) -> None:
    _, key = pki.issue("other", "other")
    with pytest.raises(ConfigError, match="no pair of certificate and unencrypted key"):
        server_credentials(ServerFiles(pki.files.cert_file, key), LOGGER)
    with pytest.raises(ConfigError, match=r"nothing\.crt can't be read: No such file"):
        server_credentials(ServerFiles("nothing.crt", key), LOGGER)


def test_nothing_goes_to_another_machine_unencrypted() -> None:
    with pytest.raises(ConfigError, match="nothing goes there unencrypted"):
        StreamSettings("10.0.0.1:9443", KEYS, insecure=True)
    with pytest.raises(ConfigError, match="without TLS it listens on loopback only"):
        Options(listen="0.0.0.0:9443", service_accounts=["a/b"]).check()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, "nobody could be identified"),
        ({"service_accounts": ["a"]}, "'a' is no ServiceAccount: write it as namespace/name"),
        ({"certificate_names": ["a"]}, "client certificates need a CA and the names"),
        ({"tls": ServerFiles("a", "b", "c")}, "client certificates need a CA and the names"),
        ({"service_accounts": ["a/b"], "lease": "x"}, "'x' is not namespace/name"),
        ({"service_accounts": ["a/b"], "listen": "x"}, "listen: 'x' given, it is no address"),
    ],
)
def test_options_that_would_not_be_safe_or_make_no_sense_are_refused(
    options: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        Options(**options).check()


def test_no_more_agents_are_let_in_than_the_limit() -> None:
    with (
        served(store_of([pod(1)]), limits=Limits(streams=1)) as service,
        reading(service.endpoint) as first,
    ):
        first.synced()
        with reading(service.endpoint) as second:
            second.wait(lambda: bool(second.states))
            assert "RESOURCE_EXHAUSTED: 1 agents read already" in second.states[0].reason
            assert second.changes == []


def test_a_port_that_is_taken_is_said() -> None:
    with (
        served(store_of([])) as service,
        pytest.raises(ConfigError, match="can't be listened on"),
        served(store_of([]), address=service.endpoint),
    ):
        pass


def test_kinds_and_labels_that_are_not_watched_are_refused_by_name() -> None:
    from retina_otel.identity_service.protocol import Keys
    from retina_otel.kubernetes.objects import Kind

    with served(store_of([pod(1)])) as service:
        for kinds, reason in (
            ({Kind.JOB: Keys()}, "the service does not watch jobs"),
            ({Kind.POD: Keys(("team",))}, "the service does not read the label team of pods"),
        ):
            with reading(service.endpoint, kinds=kinds) as told:
                told.wait(lambda told=told: bool(told.states))
                assert reason in told.states[0].reason
                assert told.changes == []


def test_before_the_first_list_nobody_is_told_that_there_is_nothing() -> None:
    with (
        served(store_of([]), unsynced=frozenset({"pods"})) as service,
        reading(service.endpoint) as told,
    ):
        told.wait(lambda: bool(told.states))
        assert "UNAVAILABLE: the service has no first list yet of pods" in told.states[0].reason
        assert told.changes == []


def test_a_request_that_is_none_is_refused() -> None:
    from retina_otel.identity_service.protocol import WATCH

    with served(store_of([])) as service, grpc.insecure_channel(service.endpoint) as channel:
        for request, code in (
            (b"", "INVALID_ARGUMENT"),
            (b'{"version": 9}', "INVALID_ARGUMENT"),
            (b"[" * 50_000, "INVALID_ARGUMENT"),
            (b" " * 100_000, "RESOURCE_EXHAUSTED"),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                list(channel.unary_stream(WATCH)(request))
            assert refused.value.code().name == code
