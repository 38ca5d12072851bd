"""The gRPC sender against real servers: each code, each failure on the way, TLS, encodings."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from retina_otel.delivery.grpc.sender import (
    METRICS_METHOD,
    GrpcCompression,
    GrpcEndpoint,
    Keepalive,
)
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.errors import ConfigError
from retina_otel.testing.otlp_grpc import OtlpGrpcSink, Status
from tests.unit.delivery.delivery_parts import REQUEST, Capture, raw_server, send, send_with, sender


@pytest.fixture
def sink() -> Iterator[OtlpGrpcSink]:
    with OtlpGrpcSink() as running:
        yield running


# ----------------------------------------------------------------------------------- what is sent


def test_a_request_arrives_as_it_is_with_its_headers(sink: OtlpGrpcSink) -> None:
    assert send(sink.endpoint, headers={"X-Scope": "a b"}) == Outcome(Result.ACCEPTED)
    (got,) = sink.received
    assert got.message == REQUEST
    assert got.path == METRICS_METHOD
    assert got.headers["x-scope"] == "a b"
    assert got.headers["user-agent"].startswith("retina-otel/test ")


@pytest.mark.parametrize("compression", list(GrpcCompression))
def test_gzip_and_none_are_on_the_wire_as_asked(
    compression: GrpcCompression, capture: Capture
) -> None:
    body = ExportMetricsServiceRequest()
    body.resource_metrics.add().scope_metrics.add().metrics.add().description = "x" * 100_000
    with OtlpGrpcSink() as sink:
        capture.towards(sink.port)
        raw = body.SerializeToString()
        assert send(capture.endpoint, compression=compression, body=raw).reason == ""
    # The 5-byte frame of a gRPC message begins with whether it is compressed.
    if compression is GrpcCompression.GZIP:
        assert len(capture.bytes) < 10_000
    else:
        assert b"\0" + len(raw).to_bytes(4, "big") in capture.bytes


def test_one_channel_carries_all_requests(capture: Capture, sink: OtlpGrpcSink) -> None:
    capture.towards(sink.port)
    with closing(sender(capture.endpoint)) as one:
        for _ in range(17):
            assert send_with(one).result is Result.ACCEPTED
    assert (len(sink.received), capture.connections) == (17, 1)


def test_a_unix_socket_is_an_endpoint(tmp_path: Path) -> None:
    for form in (f"unix:{tmp_path}/a.sock", f"unix://{tmp_path}/b.sock"):
        with OtlpGrpcSink(form) as sink:
            assert send(form).result is Result.ACCEPTED
            assert len(sink.received) == 1


@pytest.mark.parametrize(
    ("text", "insecure", "parsed"),
    [
        ("collector:4317", False, GrpcEndpoint("collector:4317", "collector", True)),
        ("collector:4317", True, GrpcEndpoint("collector:4317", "collector", False)),
        ("http://collector:4317/", False, GrpcEndpoint("collector:4317", "collector", False)),
        ("https://collector:4317", True, GrpcEndpoint("collector:4317", "collector", True)),
        ("[::1]:4317", True, GrpcEndpoint("[::1]:4317", "::1", False)),
        ("http://10.0.0.1:4317", False, GrpcEndpoint("10.0.0.1:4317", "10.0.0.1", False)),
        ("unix:///run/c.sock", False, GrpcEndpoint("unix:///run/c.sock", "localhost", False)),
    ],
)
def test_each_form_of_an_endpoint(text: str, insecure: bool, parsed: GrpcEndpoint) -> None:
    assert GrpcEndpoint.parse(text, insecure=insecure) == parsed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("collector", "no valid port"),
        ("http://collector", "no valid port"),
        ("http://collector:x", "no valid port"),
        ("ftp://collector:1", "no gRPC endpoint"),
        ("http://collector:4317/v1/metrics", "no path"),
        ("http://user:hunter2@collector:4317", "auth.basic"),
        ("unix:", "no socket"),
        ("", "no gRPC endpoint"),
        ("http://[::1", "no gRPC endpoint"),
    ],
)
def test_what_is_no_endpoint_is_refused_and_not_shown(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        sender(text)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "headers", [{"a b": "c"}, {"a": "x\ny"}, {"a": "é"}, {"a-bin": "x"}, {"grpc-timeout": "1"}]
)
def test_headers_that_grpc_would_not_take_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="header"):
        sender("http://c:4317", headers=headers)


# ------------------------------------------------------------------------------- what is answered


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("CANCELLED", Result.RETRY),
        ("UNKNOWN", Result.REFUSED),
        ("INVALID_ARGUMENT", Result.REFUSED),
        ("DEADLINE_EXCEEDED", Result.RETRY),
        ("NOT_FOUND", Result.REFUSED),
        ("ALREADY_EXISTS", Result.REFUSED),
        ("PERMISSION_DENIED", Result.REFUSED),
        ("UNAUTHENTICATED", Result.REFUSED),
        ("RESOURCE_EXHAUSTED", Result.REFUSED),
        ("FAILED_PRECONDITION", Result.REFUSED),
        ("ABORTED", Result.RETRY),
        ("OUT_OF_RANGE", Result.RETRY),
        ("UNIMPLEMENTED", Result.REFUSED),
        ("INTERNAL", Result.REFUSED),
        ("UNAVAILABLE", Result.RETRY),
        ("DATA_LOSS", Result.RETRY),
    ],
)
def test_each_code_means_what_the_specification_says(
    sink: OtlpGrpcSink, code: str, result: Result
) -> None:
    sink.script(Status(code, "no such\ntenant"))
    outcome = send(sink.endpoint)
    assert outcome.result is result
    if code != "DEADLINE_EXCEEDED":
        assert outcome.reason == f"grpc_{code.lower()}"
        assert outcome.message == f"{sink.endpoint}: {code}: no such tenant"


def test_retry_info_says_how_long_to_wait_and_makes_exhaustion_worth_it(
    sink: OtlpGrpcSink,
) -> None:
    sink.script(
        Status("RESOURCE_EXHAUSTED", "slow down", retry_delay_s=1.5),
        Status("UNAVAILABLE", retry_delay_s=17),
        Status("RESOURCE_EXHAUSTED", retry_delay_s=0),
        Status("INVALID_ARGUMENT", retry_delay_s=1),
    )
    outcomes = [send(sink.endpoint) for _ in range(4)]
    assert [(o.result, o.retry_after_s) for o in outcomes] == [
        (Result.RETRY, 1.5),
        (Result.RETRY, 17.0),
        (Result.RETRY, 0.0),
        (Result.REFUSED, None),
    ]


def test_a_partial_success_gives_count_and_message(sink: OtlpGrpcSink) -> None:
    sink.script(Status(rejected=3, message="too old"), Status(message="only a warning"))
    outcomes = [send(sink.endpoint) for _ in range(2)]
    assert [(o.result, o.rejected, o.message) for o in outcomes] == [
        (Result.ACCEPTED, 3, "too old"),
        (Result.ACCEPTED, 0, "only a warning"),
    ]


@pytest.mark.parametrize("compression", list(GrpcCompression))
def test_a_message_above_the_servers_limit_is_too_large(
    sink: OtlpGrpcSink, compression: GrpcCompression
) -> None:
    body = ExportMetricsServiceRequest()
    body.resource_metrics.add().schema_url = "x" * (5 << 20)
    outcome = send(sink.endpoint, compression=compression, body=body.SerializeToString())
    assert (outcome.result, outcome.reason) == (Result.TOO_LARGE, "too_large")
    assert "max_request_bytes" in outcome.remedy


@pytest.mark.parametrize(
    "details",
    [
        "grpc: received message after decompression larger than max 4194304",
        "grpc: received message larger than max (5000000 vs. 4194304)",
        "gRPC message exceeds maximum size 4194304: 5000000",
    ],
)
def test_other_servers_words_for_too_large_are_understood(sink: OtlpGrpcSink, details: str) -> None:
    sink.script(Status("RESOURCE_EXHAUSTED", details))
    assert send(sink.endpoint).result is Result.TOO_LARGE


def test_a_code_of_the_backend_that_speaks_of_connections_is_told_in_its_words(
    sink: OtlpGrpcSink,
) -> None:
    sink.script(Status("UNAVAILABLE", "upstream connect error: Connection refused"))
    assert send(sink.endpoint).reason == "grpc_unavailable"
    sink.script(Status("UNAVAILABLE", "next hop: Connection reset by peer", retry_delay_s=17))
    outcome = send(sink.endpoint)
    assert (outcome.reason, outcome.retry_after_s) == ("grpc_unavailable", 17.0)


# ------------------------------------------------------------------------------------- on the way


@pytest.fixture
def capture() -> Iterator[Capture]:
    with closing(Capture()) as relay:
        yield relay


@pytest.fixture
def silent() -> Iterator[str]:
    yield from raw_server(None)


@pytest.fixture
def resetting() -> Iterator[str]:
    yield from raw_server(b"")


@pytest.fixture
def http1() -> Iterator[str]:
    yield from raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_closed_port_is_a_retry_that_says_so() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    outcome = send(endpoint)
    assert (outcome.result, outcome.reason) == (Result.RETRY, "connection_refused")
    assert outcome.message == f"{endpoint}: connection refused"


def test_a_socket_that_is_not_there_is_a_closed_port(tmp_path: Path) -> None:
    assert send(f"unix:{tmp_path}/none.sock").reason == "connection_refused"


def test_a_host_name_without_address_is_a_retry_that_says_so() -> None:
    assert send("http://no-such-host.invalid:4317").reason == "name_resolution"


def test_a_server_that_never_answers_is_a_retry_after_the_timeout(silent: str) -> None:
    outcome = send(silent, timeout_s=0.2)
    assert (outcome.result, outcome.reason) == (Result.RETRY, "timeout")


def test_a_connection_that_is_reset_is_a_retry(resetting: str) -> None:
    outcome = send(resetting)
    assert (outcome.result, outcome.reason) == (Result.RETRY, "connection_lost")


def test_a_port_for_http_is_named_as_such(http1: str) -> None:
    outcome = send(http1)
    assert (outcome.result, outcome.reason) == (Result.RETRY, "not_grpc")
    assert "4317" in outcome.remedy


def test_a_backend_that_comes_back_is_found_at_once() -> None:
    """gRPC's own pauses between connections do not add to those of a lane."""
    first = OtlpGrpcSink()
    with closing(sender(first.endpoint)) as one:
        assert send_with(one).result is Result.ACCEPTED
        first.close()
        for _ in range(5):
            assert send_with(one).result is Result.RETRY
        with OtlpGrpcSink(f"127.0.0.1:{first.port}") as second:
            assert send_with(one).result is Result.ACCEPTED
            assert len(second.received) == 1


def test_a_connection_that_carries_nothing_any_more_is_left_after_one_timeout(
    sink: OtlpGrpcSink, capture: Capture
) -> None:
    """Also while another sender to the same address still has its own."""
    capture.towards(sink.port)
    with closing(sender(capture.endpoint)) as one, closing(sender(capture.endpoint)) as other:
        assert [send_with(each).result for each in (one, other)] == [Result.ACCEPTED] * 2
        capture.strand()
        assert send_with(one, timeout_s=0.2).reason == "timeout"
        assert send_with(one).result is Result.ACCEPTED
        assert (len(sink.received), capture.connections) == (3, 3)


def test_abort_ends_a_call_that_is_under_way_and_all_after(silent: str) -> None:
    one = sender(silent)
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(send_with(one, timeout_s=60)))
    thread.start()
    time.sleep(0.1)
    one.abort()
    thread.join(10)
    outcomes.append(send_with(one))
    one.close()
    assert [outcome.result for outcome in outcomes] == [Result.RETRY, Result.RETRY]


def test_keepalive_finds_a_peer_that_is_gone_before_the_timeout() -> None:
    keepalive = Keepalive(time_s=0.2, timeout_s=0.2)
    listener = socket.create_server(("127.0.0.1", 0))
    with closing(listener):
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        accepted: list[socket.socket] = []

        def settle() -> None:
            connection, _ = listener.accept()
            accepted.append(connection)
            # Empty SETTINGS: the server's first frame.
            connection.sendall(b"\0\0\0\4\0\0\0\0\0")

        thread = threading.Thread(target=settle)
        thread.start()
        outcome = send(endpoint, keepalive=keepalive, timeout_s=30)
        thread.join(10)
        accepted[0].close()
    assert (outcome.result, outcome.reason) == (Result.RETRY, "connection_lost")
