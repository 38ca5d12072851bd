"""What each answer of ingestion means, also those that no good server gives."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from retina_otel.delivery.http.responses import Response
from retina_otel.delivery.outcome import Result
from retina_otel.exporters.azure_monitor.answers import Verdict, judge


def verdict(status: int, body: object, headers: Mapping[str, str] | None = None) -> Verdict:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = {"Content-Type": "application/json", **(headers or {})}
    return judge(Response(status, kind, text), 10, "https://azure", 0)


def partly(*errors: object, received: object = 10, accepted: object = None) -> Verdict:
    taken = 10 - len(errors) if accepted is None else accepted
    return verdict(206, {"itemsReceived": received, "itemsAccepted": taken, "errors": list(errors)})


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b"{}", b"<html>", b"[" * 100_000])
def test_a_200_is_a_200_whatever_it_says(body: bytes) -> None:
    found = verdict(200, body)
    assert (found.outcome.result, found.outcome.rejected) == (Result.ACCEPTED, 0)
    assert (found.outcome.reason, found.again) == ("", ())


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'{"itemsRec', b"{}"])
def test_a_part_that_is_not_told_is_sent_again_with_the_rest(body: bytes) -> None:
    found = verdict(206, body)
    assert (found.outcome.result, found.outcome.reason) == (Result.RETRY, "unreadable")


@pytest.mark.parametrize(
    ("errors", "again", "rejected"),
    [
        ([{"index": 0, "statusCode": 400}], (), 1),
        ([{"index": 9, "statusCode": 500}, {"index": 0, "statusCode": 439}], (0, 9), 0),
        ([{"index": 3, "statusCode": 206}, {"index": 4, "statusCode": 503}], (4,), 1),
        ([{"index": 3, "statusCode": 400}, {"index": 3, "statusCode": 400}], (), 2),
        ([{"index": 10, "statusCode": 500}], (), 1),
        ([{"index": -1, "statusCode": 500}], (), 1),
        ([{"index": None, "statusCode": 500}], (), 1),
        ([{"index": "0"}, "nonsense", 7], (), 3),
        ([{"index": 0, "statusCode": [500]}, {"index": {}, "statusCode": {}}], (), 2),
    ],
)
def test_of_a_part_each_item_is_taken_rejected_or_sent_again(
    errors: list[object], again: tuple[int, ...], rejected: int
) -> None:
    found = partly(*errors)
    assert (found.again, found.outcome.rejected) == (again, rejected)
    assert found.outcome.result is Result.ACCEPTED


@pytest.mark.parametrize(
    ("received", "accepted", "rejected"),
    [(10, 10, 0), (10, 7, 3), (10, 0, 10), (10, -5, 10), (99, 0, 10), ("x", None, 0), (10, 99, 0)],
)
def test_counts_of_a_part_stay_within_the_request(
    received: object, accepted: object, rejected: int
) -> None:
    body = {"itemsReceived": received, "itemsAccepted": accepted, "errors": []}
    assert verdict(206, body).outcome.rejected == rejected


def test_a_part_that_waits_is_left_alone_for_as_long_as_is_asked() -> None:
    body = {"itemsReceived": 10, "itemsAccepted": 9, "errors": [{"index": 1, "statusCode": 429}]}
    found = verdict(206, body, {"Retry-After": "7"})
    assert (found.again, found.outcome.retry_after_s) == ((1,), 7.0)
    body["errors"] = [{"index": 1, "statusCode": 439}]
    assert verdict(206, body).outcome.retry_after_s == 60.0


def test_what_is_said_is_one_short_line() -> None:
    errors = [{"index": 0, "statusCode": 400, "message": "a\x1b[31m\r\nb" + "c" * 1000}]
    body = {"itemsReceived": 10, "itemsAccepted": 0, "errors": errors}
    message = verdict(400, body).outcome.message
    assert message.startswith("https://azure: HTTP 400: a [31m b")
    assert len(message) < 350
    assert verdict(500, b"<html>", {"Content-Type": "text/html"}).outcome.message.endswith("500")
