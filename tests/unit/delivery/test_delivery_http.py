"""The HTTP sender and a real server: what is sent, what each answer means, secrets, encodings."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import closing
from email.utils import formatdate

import pytest
import zstandard
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)

from retina_otel.delivery.compression import Compression
from retina_otel.delivery.http.sender import HttpSender, HttpTarget
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.errors import ConfigError
from retina_otel.testing.exporters import ManualClock
from tests.unit.delivery.scripted_http_server import BODY, Answer, Server, post, send, serve


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serve(Server())


def test_a_request_carries_its_headers_and_a_gzip_body(server: Server) -> None:
    outcome = send(server.url, headers={"Authorization": "Bearer secret"})
    assert outcome == Outcome(Result.ACCEPTED)
    (got,) = server.got
    assert gzip.decompress(got.body) == BODY
    assert got.headers["Content-Encoding"] == "gzip"
    assert got.headers["Content-Type"] == "application/x-protobuf"
    assert got.headers["Authorization"] == "Bearer secret"
    assert got.path == "/v1/metrics"


def test_a_header_that_is_set_stands_alone_however_it_is_written(server: Server) -> None:
    own = {"user-agent": "mine", "content-type": "x/y", "authorization": "key"}
    url = server.url.replace("//", "//user:password@")
    assert send(url, headers=own).result is Result.ACCEPTED
    sent = server.got[0].headers
    assert {name: value for name, value in sent.items() if name.lower() in own} == own


def test_one_connection_carries_all_requests(server: Server) -> None:
    target = HttpTarget(server.url)
    with closing(HttpSender(target, clock=ManualClock(), user_agent="test")) as sender:
        for _ in range(17):
            assert post(sender, BODY, 5).result is Result.ACCEPTED
    assert (len(server.got), server.connections) == (17, 1)


def test_zstd_and_none_are_sent_as_asked(server: Server) -> None:
    send(server.url, compression=Compression.ZSTD)
    send(server.url, compression=Compression.NONE)
    zstd, plain = server.got
    assert zstandard.ZstdDecompressor().decompress(zstd.body) == BODY
    assert zstd.headers["Content-Encoding"] == "zstd"
    assert (plain.body, plain.headers.get("Content-Encoding")) == (BODY, None)


@pytest.mark.parametrize("status", [400, 415])
def test_auto_goes_over_to_gzip_for_good_when_zstd_is_refused(server: Server, status: int) -> None:
    server.refused_encodings = {"zstd": status}
    target = HttpTarget(server.url, compression=Compression.AUTO)
    with closing(HttpSender(target, clock=ManualClock(), user_agent="test")) as sender:
        assert post(sender, BODY, 5).result is Result.ACCEPTED
        assert post(sender, BODY, 5).result is Result.ACCEPTED
    assert [got.headers["Content-Encoding"] for got in server.got] == ["zstd", "gzip", "gzip"]


def test_auto_does_not_blame_zstd_for_a_body_that_is_refused_in_any_encoding(
    server: Server,
) -> None:
    server.answers = [Answer(400), Answer(400), Answer(200)]
    target = HttpTarget(server.url, compression=Compression.AUTO)
    with closing(HttpSender(target, clock=ManualClock(), user_agent="test")) as sender:
        assert post(sender, BODY, 5).result is Result.REFUSED
        assert post(sender, BODY, 5).result is Result.ACCEPTED
        server.answers = [Answer(400)]
        assert post(sender, BODY, 5).result is Result.REFUSED
    assert [got.headers["Content-Encoding"] for got in server.got] == [
        "zstd", "gzip", "zstd", "zstd",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (200, Result.ACCEPTED),
        (202, Result.ACCEPTED),
        (301, Result.REFUSED),
        (400, Result.REFUSED),
        (401, Result.REFUSED),
        (403, Result.REFUSED),
        (404, Result.REFUSED),
        (413, Result.TOO_LARGE),
        (429, Result.RETRY),
        (500, Result.REFUSED),
        (502, Result.RETRY),
        (503, Result.RETRY),
        (504, Result.RETRY),
    ],
)
def test_each_status_means_what_the_specification_says(
    server: Server, status: int, result: Result
) -> None:
    server.answers = [Answer(status)]
    assert send(server.url).result is result


def test_a_collector_that_says_400_for_a_body_too_large_is_understood(server: Server) -> None:
    text = b"\x08\x03\x12\x1chttp: request body too large"
    server.answers = [Answer(400, {"Content-Type": "application/x-protobuf"}, text)]
    assert send(server.url, compression=Compression.AUTO).result is Result.TOO_LARGE
    assert len(server.got) == 1


def test_retry_after_is_read_as_seconds_or_as_a_date(server: Server) -> None:
    now = ManualClock().wall_ns() // 10**9
    server.answers = [
        Answer(503, {"Retry-After": "17"}),
        Answer(503, {"Retry-After": formatdate(now + 90, usegmt=True)}),
        Answer(503, {"Retry-After": "soon"}),
    ]
    assert [send(server.url).retry_after_s for _ in range(3)] == [17.0, 90.0, None]


def test_a_partial_success_gives_count_and_message(server: Server) -> None:
    response = ExportMetricsServiceResponse(
        partial_success=ExportMetricsPartialSuccess(rejected_data_points=3, error_message="old")
    )
    server.answers = [
        Answer(200, {"Content-Type": "application/x-protobuf"}, response.SerializeToString()),
        Answer(
            200,
            {"Content-Type": "application/json; charset=utf-8"},
            b'{"partialSuccess":{"rejectedDataPoints":"4","errorMessage":"older"}}',
        ),
        Answer(200, {"Content-Type": "application/json"}, b"[1"),
    ]
    outcomes = [send(server.url) for _ in range(3)]
    assert [(o.rejected, o.message) for o in outcomes] == [(3, "old"), (4, "older"), (0, "")]


def test_what_the_backend_says_about_a_refusal_is_shown_in_one_line(server: Server) -> None:
    text = b"\x12\x0eno such\ntenant"
    server.answers = [Answer(404, {"Content-Type": "application/x-protobuf"}, text)]
    outcome = send(server.url)
    assert outcome.message == f"{server.url}: HTTP 404: no such tenant"
    assert "endpoint" in outcome.remedy


def test_a_redirect_is_not_followed_and_says_where_it_leads(server: Server) -> None:
    server.answers = [Answer(307, {"Location": "https://elsewhere.example/v1/metrics?key=secret"})]
    outcome = send(server.url)
    assert outcome.result is Result.REFUSED
    assert "https://elsewhere.example" in outcome.message
    assert "secret" not in outcome.message
    assert len(server.got) == 1


@pytest.mark.parametrize("place", ["http://[elsewhere", "http://\x1b[2Jelsewhere/", "http://"])
def test_a_redirect_to_nowhere_is_a_refusal_in_one_line(server: Server, place: str) -> None:
    server.answers = [Answer(302, {"Location": place})]
    outcome = send(server.url)
    assert (outcome.result, outcome.message.isprintable()) == (Result.REFUSED, True)


def test_a_huge_answer_is_not_read_to_its_end(server: Server) -> None:
    server.answers = [Answer(400, {"Content-Type": "text/plain"}, b"x" * 3_000_000)]
    outcome = send(server.url)
    assert (outcome.result, len(outcome.message) < 500) == (Result.REFUSED, True)


@pytest.mark.parametrize(
    "url", ["localhost:4318", "grpc://localhost:4317", "http://", "", "http://host:port", "/v1"]
)
def test_an_endpoint_that_is_no_url_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigError, match="endpoint") as error:
        HttpTarget(url)
    assert "http://host:4318" in error.value.remedy


def test_secrets_are_sent_but_never_shown(server: Server) -> None:
    address = server.url.removeprefix("http://")
    target = HttpTarget(f"http://user:hunter2@{address}?key=hunter3", {"X-Key": "hunter4"})
    server.answers = [Answer(401)]
    with closing(HttpSender(target, clock=ManualClock(), user_agent="test")) as sender:
        outcome = post(sender, BODY, 5)
    shown = f"{target!r} {target.shown} {outcome!r}"
    assert "hunter" not in shown
    assert server.got[0].headers["Authorization"] == "Basic dXNlcjpodW50ZXIy"
    assert server.got[0].headers["X-Key"] == "hunter4"
    assert server.got[0].path == "/v1/metrics?key=hunter3"


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\0", "\u20ac"])
def test_a_header_that_can_not_be_sent_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="X-Key") as error:
        HttpTarget("http://localhost:1/", {"X-Key": value})
    assert value not in str(error.value)


def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = server.url.removesuffix("/v1/metrics")
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    assert send("http://collector.example:4318/v1/metrics").result is Result.ACCEPTED
    assert send(server.url).result is Result.ACCEPTED
    assert [got.path for got in server.got] == [
        "http://collector.example:4318/v1/metrics",
        "/v1/metrics",
    ]
    assert server.got[0].headers["Host"] == "collector.example:4318"
