"""The HTTP sender when connections fail: nobody listens, resets, nonsense, silence."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from retina_otel.delivery.compression import Compression
from retina_otel.delivery.http.sender import HttpSender, HttpTarget
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.testing.exporters import ManualClock
from tests.unit.delivery.delivery_parts import closed_port, raw_server, trickling_server
from tests.unit.delivery.scripted_http_server import BODY, post, send


def test_a_closed_port_is_a_retry_that_says_so() -> None:
    outcome = send(f"http://127.0.0.1:{closed_port()}/v1/metrics")
    assert (outcome.result, outcome.reason) == (Result.RETRY, "connection_refused")
    assert "connection refused" in outcome.message
    assert outcome.remedy


@pytest.fixture
def resetting() -> Iterator[str]:
    yield from raw_server(b"")


@pytest.fixture
def cutting() -> Iterator[str]:
    yield from raw_server(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf of it", read=1 << 20
    )


@pytest.fixture
def silent() -> Iterator[str]:
    yield from raw_server(None)


@pytest.fixture
def talking_nonsense() -> Iterator[str]:
    yield from raw_server(b"SSH-2.0-OpenSSH_9.2\r\n", read=1 << 20)


def test_a_connection_reset_during_the_body_is_a_retry(resetting: str) -> None:
    target = HttpTarget(f"{resetting}/v1/metrics", compression=Compression.NONE)
    with closing(HttpSender(target, clock=ManualClock(), user_agent="test")) as sender:
        outcome = post(sender, b"x" * 8_000_000, 5)
    assert (outcome.result, outcome.reason) == (Result.RETRY, "connection_lost")


def test_an_answer_that_breaks_off_after_its_status_is_not_sent_twice(cutting: str) -> None:
    assert send(f"{cutting}/v1/metrics").result is Result.ACCEPTED


def test_a_server_that_speaks_no_http_is_a_retry(talking_nonsense: str) -> None:
    outcome = send(f"{talking_nonsense}/v1/metrics")
    assert (outcome.result, outcome.reason) == (Result.RETRY, "connection_lost")


def test_a_backend_that_never_answers_is_a_retry_after_the_timeout(silent: str) -> None:
    outcome = send(f"{silent}/v1/metrics", timeout_s=0.2)
    assert (outcome.result, outcome.reason) == (Result.RETRY, "timeout")


def test_a_backend_that_sends_a_byte_now_and_then_is_a_timeout_all_the_same() -> None:
    with trickling_server() as url:
        outcome = send(f"{url}/v1/metrics", timeout_s=0.4)
    assert (outcome.result, outcome.reason) == (Result.RETRY, "timeout")


def test_abort_ends_a_request_that_is_under_way(silent: str) -> None:
    target = HttpTarget(f"{silent}/v1/metrics")
    sender = HttpSender(target, clock=ManualClock(), user_agent="test")
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(post(sender, BODY, 60)))
    thread.start()
    time.sleep(0.1)
    sender.abort()
    thread.join(10)
    sender.close()
    assert [outcome.result for outcome in outcomes] == [Result.RETRY]


def test_a_host_name_without_address_is_a_retry_that_says_so() -> None:
    outcome = send("http://no-such-host.invalid:4318/v1/metrics")
    assert (outcome.result, outcome.reason) == (Result.RETRY, "name_resolution")
