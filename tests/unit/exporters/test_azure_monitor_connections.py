"""azure_monitor on its way to ingestion: silence, certificates, redirects, proxies, secrets."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import trustme

from retina_otel.delivery.outcome import Result
from retina_otel.delivery.tls.contexts import TlsOptions
from retina_otel.exporters.azure_monitor.connection_string import parse
from retina_otel.exporters.azure_monitor.ingestion import IngestionSender
from retina_otel.testing.application_insights import KEY, Answer, ApplicationInsights
from retina_otel.testing.exporters import ManualClock
from tests.unit.delivery.delivery_parts import trickling_server
from tests.unit.exporters.azure_monitor_running import (
    Running,
    assert_all_arrived,
    feed,
    running_towards,
)


@pytest.fixture
def azure() -> Iterator[ApplicationInsights]:
    with ApplicationInsights() as running:
        yield running


@pytest.fixture
def run(azure: ApplicationInsights) -> Iterator[Callable[..., Running]]:
    with running_towards(azure) as run:
        yield run


def test_a_connection_that_is_reset_loses_nothing(
    azure: ApplicationInsights, run: Callable[..., Running]
) -> None:
    azure.script(*[Answer(reset=True)] * 3)
    running = run()
    feed(azure, running)
    running.stop()
    assert_all_arrived(azure, running)


def reason_from(endpoint: str, timeout_s: float) -> str:
    """Why a request to an endpoint fails."""
    target = parse(f"InstrumentationKey={KEY};IngestionEndpoint={endpoint}", "it")
    with closing(IngestionSender(target, clock=ManualClock(), tls=TlsOptions())) as sender:
        return sender.send(sender.pack(b"[]", 0), timeout_s).reason


def test_an_endpoint_that_sends_a_byte_now_and_then_is_a_timeout_all_the_same() -> None:
    with trickling_server() as url:
        assert reason_from(url, 0.4) == "timeout"


def test_an_endpoint_that_never_shakes_hands_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"https://127.0.0.1:{listener.getsockname()[1]}"
        assert reason_from(address, 0.3) == "timeout"


def test_a_certificate_that_is_not_checked_is_told_by_the_agents_log_alone() -> None:
    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("another.example").configure_cert(context)
    with ApplicationInsights(tls=context) as azure, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        target = parse(azure.connection_string, "it")
        tls = TlsOptions(insecure_skip_verify=True)
        sender = IngestionSender(target, clock=ManualClock(), tls=tls)
        outcome = sender.send(sender.pack(b"[]", 0), 5.0)
        sender.close()
    assert (outcome.result, told) == (Result.ACCEPTED, [])


def test_a_redirect_to_the_same_host_is_followed_and_kept(
    azure: ApplicationInsights, run: Callable[..., Running]
) -> None:
    with ApplicationInsights() as other:
        azure.always(Answer(308, location=f"{other.endpoint}/v2.1/track"))
        running = run()
        feed(other, running)
        running.stop()
        assert len(azure.received) == 2  # one for each signal
        assert_all_arrived(other, running)


def test_a_redirect_in_circles_ends(
    azure: ApplicationInsights, run: Callable[..., Running]
) -> None:
    azure.script(*[Answer(307, location=f"{azure.endpoint}/v2.1/track")] * 5)
    running = run()
    running.source.count(a=5)
    azure.wait_for(azure.points)
    assert len(azure.received) == 6
    assert running.ledger.exports["points"].request_failures == {"http_307": 1}


@pytest.mark.parametrize("place", ["http://localhost:{port}", "https://127.0.0.1:{port}", "//", ""])
def test_a_redirect_to_a_foreign_host_is_not_followed(
    azure: ApplicationInsights, run: Callable[..., Running], place: str
) -> None:
    with ApplicationInsights() as other:
        azure.script(Answer(308, location=place.format(port=other.port)))
        running = run()
        running.source.count(a=5)
        azure.wait_for(azure.points)
        assert other.received == []
        assert "HTTP 308" in running.bench.reasons[0]


def test_an_endpoint_that_never_answers_does_not_keep_the_agent_from_ending(
    azure: ApplicationInsights, run: Callable[..., Running]
) -> None:
    never = threading.Event()
    azure.always(Answer(wait=never))
    running = run()
    running.source.count(a=5)
    azure.wait_for(lambda: azure.received)
    began = time.monotonic()
    running.stop(1.0)
    assert time.monotonic() - began < 5.0
    never.set()
    ledger = running.ledger
    assert (ledger.difference, ledger.lost) == (0, {"points_shutdown": 1})


def test_the_key_is_in_no_log_and_no_reason(
    azure: ApplicationInsights, run: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    azure.script(
        Answer(206, errors={0: 400}, message=f"no such resource: {KEY}"),
        Answer(500, message=f"{KEY} again"),
        Answer(400, message=KEY),
        Answer(reset=True),
    )
    running = run()
    feed(azure, running)
    running.stop()
    said = [record.getMessage() for record in caplog.records]
    assert any("no such resource: <key>" in line for line in said)
    assert not [line for line in [*said, *running.bench.reasons] if KEY in line]
    assert KEY not in repr(running.exporter.__dict__)


def test_a_proxy_gets_the_request_and_its_password_is_in_no_log(
    azure: ApplicationInsights, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    azure.script(Answer(503))
    running = Running(
        f"InstrumentationKey={KEY};IngestionEndpoint=http://ingestion.invalid",
        proxy_url=f"http://me:hunter2@127.0.0.1:{azure.port}",
    )
    running.source.count(a=5)
    azure.wait_for(azure.points)
    running.stop()
    assert {r.path for r in azure.received} == {"http://ingestion.invalid/v2.1/track"}
    said = "".join(record.getMessage() for record in caplog.records)
    assert "hunter2" not in said + "".join(running.bench.reasons)
