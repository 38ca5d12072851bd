"""Several endpoints: the first that takes wins, and is counted, said once, and returned from."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from retina_otel.delivery.failover import FailoverSender
from retina_otel.delivery.http.sender import HttpSender, HttpTarget
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.testing.exporters import ManualClock
from retina_otel.testing.otlp import Answer, OtlpSink
from tests.unit.delivery.delivery_parts import BODY, closed_port

LOGGER = logging.getLogger("test.failover")


class Two:
    """Two backends and a sender to both."""

    def __init__(self, first: str, second: str, failback_s: float = 60) -> None:
        self.clock = ManualClock()
        self.sender = FailoverSender(
            [
                (
                    endpoint,
                    HttpSender(
                        HttpTarget(f"{endpoint}/v1/metrics"), clock=self.clock, user_agent="test"
                    ),
                )
                for endpoint in (first, second)
            ],
            clock=self.clock,
            logger=LOGGER,
            failback_s=failback_s,
        )

    def send(self, timeout_s: float = 5.0) -> Outcome:
        return self.sender.send(self.sender.pack(BODY, 5), timeout_s)

    def close(self) -> None:
        self.sender.close()


@pytest.fixture
def a() -> Iterator[OtlpSink]:
    with OtlpSink() as running:
        yield running


@pytest.fixture
def b() -> Iterator[OtlpSink]:
    with OtlpSink() as running:
        yield running


@pytest.fixture
def two(a: OtlpSink, b: OtlpSink) -> Iterator[Two]:
    with closing(Two(a.endpoint, b.endpoint)) as pair:
        yield pair


def counts(a: OtlpSink, b: OtlpSink) -> tuple[int, int]:
    return len(a.received), len(b.received)


def test_the_first_takes_all_while_it_does(a: OtlpSink, b: OtlpSink, two: Two) -> None:
    assert [two.send() for _ in range(3)] == [Outcome(Result.ACCEPTED)] * 3
    assert counts(a, b) == (3, 0)


def test_what_the_first_can_not_take_goes_to_the_second_at_once(
    a: OtlpSink, b: OtlpSink, two: Two, caplog: pytest.LogCaptureFixture
) -> None:
    a.always(Answer(503))
    outcomes = [two.send() for _ in range(5)]
    assert [outcome.result for outcome in outcomes] == [Result.ACCEPTED] * 5
    assert counts(a, b) == (1, 5)
    assert [[one.reason for one in outcome.before] for outcome in outcomes] == [
        ["http_503"],
        *[[]] * 4,
    ]
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{a.endpoint}/v1/metrics: HTTP 503. Sending to {b.endpoint} instead"]


def test_the_first_is_returned_to_after_a_while(
    a: OtlpSink, b: OtlpSink, two: Two, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    a.script(*[Answer(503)] * 3)
    passing = [(0, 1, 1), (60, 2, 2), (1, 2, 3), (60, 3, 4), (60, 4, 4), (1, 5, 4)]
    for seconds, to_a, to_b in passing:
        two.clock.advance(seconds)
        assert two.send().result is Result.ACCEPTED
        assert counts(a, b) == (to_a, to_b)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert caplog.records[1].getMessage() == f"sending to {a.endpoint} again"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_what_the_first_refuses_is_not_offered_to_the_second(
    a: OtlpSink, b: OtlpSink, two: Two, status: int
) -> None:
    a.script(Answer(status))
    assert two.send().result is Result.REFUSED
    assert counts(a, b) == (1, 0)


def test_what_is_too_large_for_the_first_is_halved_for_it(
    a: OtlpSink, b: OtlpSink, two: Two
) -> None:
    a.script(Answer(413))
    assert two.send().result is Result.TOO_LARGE
    assert counts(a, b) == (1, 0)


def test_one_that_asked_to_be_left_alone_is(a: OtlpSink, b: OtlpSink) -> None:
    with closing(Two(a.endpoint, b.endpoint, failback_s=1)) as two:
        a.script(Answer(429, retry_after_s=30))
        for _ in range(5):
            assert two.send().result is Result.ACCEPTED
            two.clock.advance(5)
        assert counts(a, b) == (1, 5)
        two.clock.advance(5)
        assert two.send().result is Result.ACCEPTED
        assert counts(a, b) == (2, 5)


def test_where_all_ask_to_be_left_alone_the_shortest_pause_is_kept(
    a: OtlpSink, b: OtlpSink, two: Two
) -> None:
    a.script(Answer(429, retry_after_s=30))
    b.script(Answer(503, retry_after_s=20))
    outcome = two.send()
    assert (outcome.result, outcome.retry_after_s) == (Result.RETRY, 20.0)
    assert [one.reason for one in outcome.before] == ["http_429"]
    two.clock.advance(10)
    waiting = two.send()
    assert (waiting.result, waiting.reason, waiting.retry_after_s) == (
        Result.RETRY,
        "throttled",
        10,
    )
    assert counts(a, b) == (1, 1)


@pytest.mark.parametrize("text", ["99999999", "9" * 400])
def test_one_that_asks_to_be_left_alone_for_ever_is_asked_again_after_an_hour(
    a: OtlpSink, b: OtlpSink, two: Two, text: str
) -> None:
    """More is more likely a mistake."""
    a.always(Answer(503, retry_after_s=int(text)))
    assert two.send().result is Result.ACCEPTED
    two.clock.advance(3599)
    assert two.send().result is Result.ACCEPTED
    assert counts(a, b) == (1, 2)
    two.clock.advance(61)
    assert two.send().result is Result.ACCEPTED
    assert counts(a, b) == (2, 3)


def test_where_none_takes_each_is_named(a: OtlpSink, b: OtlpSink) -> None:
    port = closed_port()
    with closing(Two(f"http://127.0.0.1:{port}", b.endpoint)) as two:
        b.script(Answer(503))
        outcome = two.send()
    assert outcome.result is Result.RETRY
    assert outcome.message == (
        f"http://127.0.0.1:{port}/v1/metrics: connection refused; {b.endpoint}/v1/metrics: HTTP 503"
    )


def test_the_first_comes_back_by_itself_when_both_were_away(
    a: OtlpSink, b: OtlpSink, two: Two
) -> None:
    a.script(Answer(503))
    b.script(*[Answer(503)] * 2)
    assert [two.send().result for _ in range(2)] == [Result.RETRY, Result.ACCEPTED]
    assert (two.sender.active, counts(a, b)) == (a.endpoint, (2, 1))


def test_a_first_that_hangs_delays_one_request_only() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, OtlpSink() as b:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with closing(Two(endpoint, b.endpoint)) as two:
            first = two.send(timeout_s=0.3)
            assert (first.result, first.reason) == (Result.RETRY, "timeout")
            assert [two.send().result for _ in range(2)] == [Result.ACCEPTED] * 2
            two.clock.advance(60)
            # A try with the first takes half of the time, and the second gets the request.
            again = two.send(timeout_s=1.0)
            assert again.result is Result.ACCEPTED
            assert [one.reason for one in again.before] == ["timeout"]
        assert len(b.received) == 3
