"""The HTTP sender against real sockets: each answer, each failure, TLS, encodings, secrets."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
import zstandard
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)

from retina_otel.delivery.compression import Compression
from retina_otel.delivery.http.sender import HttpSender, HttpTarget
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.tls.contexts import TlsOptions, TlsVersion
from retina_otel.errors import ConfigError
from retina_otel.testing.exporters import ManualClock

BODY = b"points " * 100


@dataclass
class Got:
    headers: dict[str, str]
    body: bytes
    path: str


@dataclass
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Server(ThreadingHTTPServer):
    """Gives the scripted answers in turn, then 200 for ever."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[Got] = []
        self.answers: list[Answer] = []
        self.connections = 0
        self.refused_encodings: dict[str, int] = {}
        self.context = context
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.server_port}/v1/metrics"

    def get_request(self) -> tuple[socket.socket, object]:
        plain, address = super().get_request()
        self.connections += 1
        if self.context is not None:
            plain.settimeout(5)
            return self.context.wrap_socket(plain, server_side=True), address
        return plain, address

    def handle_error(self, request: object, client_address: object) -> None: ...


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(Got(dict(self.headers.items()), body, self.path))
        refused = self.server.refused_encodings.get(self.headers.get("Content-Encoding", ""))
        if refused:
            answer = Answer(refused)
        else:
            answer = self.server.answers.pop(0) if self.server.answers else Answer()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None: ...


def serve(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


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


def post(sender: HttpSender, body: bytes, timeout_s: float) -> Outcome:
    return sender.send(sender.pack(body, 1), timeout_s)


def send(url: str, *, timeout_s: float = 5.0, **options: object) -> Outcome:
    target = HttpTarget(url, **options)  # type: ignore[arg-type]
    with closing(HttpSender(target, clock=ManualClock(), user_agent="test")) as sender:
        return post(sender, BODY, timeout_s)


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


def closed_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def test_a_closed_port_is_a_retry_that_says_so() -> None:
    outcome = send(f"http://127.0.0.1:{closed_port()}/v1/metrics")
    assert (outcome.result, outcome.reason) == (Result.RETRY, "connection_refused")
    assert "connection refused" in outcome.message
    assert outcome.remedy


def raw_server(answer: bytes | None, *, read: int = 1 << 20) -> Iterator[int]:
    """Reads up to `read` bytes of each connection, answers, and resets it; None: never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if answer is None:
                over.wait(20)
            else:
                connection.recv(read)
                connection.sendall(answer)
            # Linger 0 makes close() send RST.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    yield int(listener.getsockname()[1])
    over.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.fixture
def resetting() -> Iterator[int]:
    yield from raw_server(b"", read=100)


@pytest.fixture
def cutting() -> Iterator[int]:
    yield from raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf of it")


@pytest.fixture
def silent() -> Iterator[int]:
    yield from raw_server(None)


@pytest.fixture
def talking_nonsense() -> Iterator[int]:
    yield from raw_server(b"SSH-2.0-OpenSSH_9.2\r\n")


def test_a_connection_reset_during_the_body_is_a_retry(resetting: int) -> None:
    target = HttpTarget(f"http://127.0.0.1:{resetting}/v1/metrics", compression=Compression.NONE)
    with closing(HttpSender(target, clock=ManualClock(), user_agent="test")) as sender:
        outcome = post(sender, b"x" * 8_000_000, 5)
    assert (outcome.result, outcome.reason) == (Result.RETRY, "connection_lost")


def test_an_answer_that_breaks_off_after_its_status_is_not_sent_twice(cutting: int) -> None:
    assert send(f"http://127.0.0.1:{cutting}/v1/metrics").result is Result.ACCEPTED


def test_a_server_that_speaks_no_http_is_a_retry(talking_nonsense: int) -> None:
    outcome = send(f"http://127.0.0.1:{talking_nonsense}/v1/metrics")
    assert (outcome.result, outcome.reason) == (Result.RETRY, "connection_lost")


def test_a_backend_that_never_answers_is_a_retry_after_the_timeout(silent: int) -> None:
    outcome = send(f"http://127.0.0.1:{silent}/v1/metrics", timeout_s=0.2)
    assert (outcome.result, outcome.reason) == (Result.RETRY, "timeout")


def test_a_backend_that_sends_a_byte_now_and_then_is_a_timeout_all_the_same() -> None:
    over = threading.Event()

    def trickle(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1")
            while not over.wait(0.05):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle, args=(listener,))
        thread.start()
        outcome = send(f"http://127.0.0.1:{listener.getsockname()[1]}/v1/metrics", timeout_s=0.4)
        over.set()
        thread.join(10)
    assert (outcome.result, outcome.reason) == (Result.RETRY, "timeout")


def test_abort_ends_a_request_that_is_under_way(silent: int) -> None:
    target = HttpTarget(f"http://127.0.0.1:{silent}/v1/metrics")
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
