"""prometheus_remote_write from a real accumulator to a strict receiver, through all mishaps."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from retina_otel.exporters.prometheus_remote_write import (
    PrometheusRemoteWriteExporter,
    PrometheusRemoteWriteSettings,
)
from retina_otel.testing.exporters import Bench, Source
from retina_otel.testing.remote_write import V1, V2, WriteRequest, check_order, decode

WRITTEN = "X-Prometheus-Remote-Write-Samples-Written"
VERSION_OF = {"1.0": V1, "2.0": V2}
PROTOCOLS = pytest.mark.parametrize("protocol", VERSION_OF)
FAST = {
    "interval": "50ms",
    "retry_on_failure": {"initial_interval": "10ms", "max_interval": "20ms"},
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver says to one request. `takes`: whether it has written its samples."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    takes: bool = True


class Receiver:
    """A receiver on loopback. Answers are used up in order; without any it takes everything as its
    kind does: "1" knows version 1.0 only and says so, "deaf" too, but takes 2.0 for an empty
    request, "2" knows both."""

    def __init__(self, kind: str = "2", *, utf8_names: bool = False) -> None:
        self.kind = kind
        self.utf8_names = utf8_names
        self.answers: list[Answer] = []
        self.requests: list[WriteRequest] = []
        """What was taken."""
        self.seen: list[tuple[int, str]] = []
        """Status and version of each answer."""
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.connections: list[tuple[str, WriteRequest]] = []
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                peer = str(self.client_address[1])
                answer = receiver._answer(dict(self.headers.items()), body, peer)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/api/v1/write"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def _answer(self, headers: dict[str, str], body: bytes, peer: str) -> Answer:
        request = decode(headers, body, utf8_names=self.utf8_names)
        with self._lock:
            self.headers.append(headers)
            self.bodies.append(body)
            answer = self.answers.pop(0) if self.answers else self._by_kind(request)
            self.seen.append((answer.status, request.version))
            if answer.takes:
                self.requests.append(request)
                self.connections.append((peer, request))
            return answer

    def _by_kind(self, request: WriteRequest) -> Answer:
        if self.kind == "2":
            return Answer(headers={WRITTEN: str(request.n_samples)})
        if request.version == V1:
            return Answer()
        return Answer(takes=False) if self.kind == "deaf" else Answer(415, takes=False)

    def last(self) -> dict[str, float]:
        """The newest value of each series of `test.packets`."""
        check_order(self.requests)
        return {
            dict(series.labels)["test_who"]: series.samples[-1].value
            for request in self.requests
            for series in request.series
            if series.name == "test_packets_total"
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Running:
    """An exporter with its source, started."""

    def __init__(self, endpoint: str, **settings: Any) -> None:
        self.bench = Bench(
            id="prometheus_remote_write",
            resource={"service.name": "retina-otel", "k8s.node.name": "n"},
        )
        self.source = Source()
        chosen = PrometheusRemoteWriteSettings.model_validate(
            {"endpoint": endpoint, **FAST, **settings}
        )
        self.exporter = PrometheusRemoteWriteExporter(chosen, self.bench.context())
        readers = [self.source.accumulator.reader("test") for _ in range(self.exporter.readers)]
        self.exporter.start(readers, [])

    def stop(self, seconds: float = 5.0) -> None:
        self.exporter.stop(self.bench.deadline_ns(seconds))

    @property
    def ledger(self) -> Any:
        return self.bench.ledger.report()


@pytest.fixture
def receivers() -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def make(kind: str = "2", **options: bool) -> Receiver:
        made.append(Receiver(kind, **options))
        return made[-1]

    yield make
    for receiver in made:
        receiver.close()


@pytest.fixture
def receiver(receivers: Callable[..., Receiver]) -> Receiver:
    return receivers()


@pytest.fixture
def run(receiver: Receiver) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(**settings: Any) -> Running:
        started.append(Running(settings.pop("endpoint", receiver.endpoint), **settings))
        return started[-1]

    yield start
    for running in started:
        running.stop(0.5)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@PROTOCOLS
def test_sums_arrive_exactly_with_the_headers_of_their_version(
    protocol: str, receiver: Receiver, run: Callable[..., Running]
) -> None:
    running = run(protocol=protocol, headers={"X-Scope-OrgID": "tenant"})
    for number in range(5):
        running.source.count(a=11, b=13)
        wait_until(lambda n=number: receiver.last().get("a") == 11 * (n + 1))  # type: ignore[misc]
    running.stop()
    assert receiver.last() == running.source.truth
    assert {version for _, version in receiver.seen} == {VERSION_OF[protocol]}
    assert {headers["X-Scope-OrgID"] for headers in receiver.headers} == {"tenant"}
    assert {headers["User-Agent"].partition("/")[0] for headers in receiver.headers} == {
        "retina-otel"
    }
    assert (running.ledger.difference, dict(running.ledger.lost)) == (0, {})
    assert running.bench.reasons == []


@PROTOCOLS
@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_5xx_and_429_are_tried_again_until_they_pass(
    protocol: str, status: int, receiver: Receiver, run: Callable[..., Running]
) -> None:
    receiver.answers += [Answer(status, {"Retry-After": "0"}, b"busy", takes=False)] * 3
    running = run(protocol=protocol, interval="10s")
    running.source.count(a=11)
    running.stop()
    assert receiver.last() == {"a": 11}
    assert receiver.seen == [(status, VERSION_OF[protocol])] * 3 + [(204, VERSION_OF[protocol])]
    assert (running.ledger.difference, dict(running.ledger.lost)) == (0, {})
    assert dict(running.ledger.exports["points"].request_failures) == {f"http_{status}": 3}


@PROTOCOLS
@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 422])
def test_no_other_4xx_is_tried_again_and_what_it_says_is_told(
    protocol: str, status: int, receiver: Receiver, run: Callable[..., Running]
) -> None:
    headers = {WRITTEN: "0"} if protocol == "2.0" else {}
    running = run(protocol=protocol, interval="10s")
    running.source.count(a=11)
    # A request of 1.0 with zeros at a series' start is sent once more without them.
    refused = [Answer(status, headers, b"no such tenant\n", takes=False)]
    receiver.answers += refused * (2 if (status, protocol) == (400, "1.0") else 1)
    running.stop()
    assert receiver.requests == []
    assert len(receiver.seen) == (2 if (status, protocol) == (400, "1.0") else 1)
    ledger = running.ledger
    assert (ledger.difference, dict(ledger.lost)) == (0, {"points_refused": 2})
    assert f"HTTP {status}: no such tenant." in running.bench.reasons[0]


def test_of_a_request_that_was_written_in_part_the_rest_is_counted(
    receiver: Receiver, run: Callable[..., Running]
) -> None:
    """Three series with a zero before each, and target_info: 7 samples."""
    receiver.answers.append(Answer(400, {WRITTEN: "5"}, b"out of order"))
    running = run(protocol="2.0", interval="10s")
    running.source.count(a=1, b=2, c=3)
    running.stop()
    ledger = running.ledger
    assert (ledger.difference, ledger.drained, dict(ledger.lost)) == (0, 4, {"points_rejected": 2})
    assert len(receiver.seen) == 1


def test_a_request_of_version_1_that_is_sent_once_more_without_its_zeros_counts_twice(
    receiver: Receiver, run: Callable[..., Running]
) -> None:
    receiver.answers.append(Answer(400, body=b"out of order", takes=False))
    running = run(interval="10s")
    running.source.count(a=1, b=2)
    running.stop()
    assert receiver.last() == {"a": 1, "b": 2}
    assert [status for status, _ in receiver.seen] == [400, 204]
    ledger = running.ledger
    assert (ledger.difference, ledger.drained, dict(ledger.lost)) == (0, 2, {"points_rejected": 2})
    exports = ledger.exports["points"]
    assert dict(exports.request_failures) == {"http_400": 1, "partial_write": 1}


@PROTOCOLS
def test_a_request_that_is_too_large_is_halved(
    protocol: str, receiver: Receiver, run: Callable[..., Running]
) -> None:
    receiver.answers += [Answer(413, takes=False)] * 2
    running = run(protocol=protocol, interval="10s")
    amounts = {f"s{n}": n + 1 for n in range(100)}
    running.source.count(**amounts)
    running.stop()
    assert receiver.last() == amounts
    sizes = [sum(each.name != "target_info" for each in r.series) for r in receiver.requests]
    assert sizes == [50, 50, 50, 50]
    assert (running.ledger.difference, dict(running.ledger.lost)) == (0, {})


@pytest.mark.parametrize("kind", ["1", "deaf"])
def test_a_backend_of_version_1_is_given_version_1_and_nothing_is_lost(
    kind: str, receivers: Callable[..., Receiver], run: Callable[..., Running]
) -> None:
    receiver = receivers(kind)
    running = run(endpoint=receiver.endpoint, protocol="2.0")
    for number in range(3):
        running.source.count(a=11, b=13)
        wait_until(lambda n=number: receiver.last().get("a") == 11 * (n + 1))  # type: ignore[misc]
    running.stop()
    assert receiver.last() == running.source.truth
    assert [version for _, version in receiver.seen].count(V2) == 1
    assert (running.ledger.difference, dict(running.ledger.lost)) == (0, {})
    assert running.bench.reasons == []
    failures = running.ledger.exports["points"].request_failures
    assert dict(failures) == {"http_415" if kind == "1" else "version": 1}


@pytest.mark.parametrize("kind", ["1", "deaf"])
def test_a_backend_that_takes_version_2_no_more_is_given_version_1_and_nothing_is_lost(
    kind: str, receiver: Receiver, run: Callable[..., Running]
) -> None:
    """As after a rollback: a receiver of 1.0 says 2xx to a request of 2.0, and writes nothing."""
    running = run(protocol="2.0")
    running.source.count(a=11)
    wait_until(lambda: receiver.last() == {"a": 11})
    receiver.kind = kind
    running.source.count(a=11, b=13)
    wait_until(lambda: receiver.last() == {"a": 22, "b": 13})
    running.stop()
    assert (running.ledger.difference, dict(running.ledger.lost)) == (0, {})


def test_an_error_does_not_make_a_backend_one_of_version_1(
    receiver: Receiver, run: Callable[..., Running]
) -> None:
    receiver.answers += [Answer(503, takes=False), Answer(400, {WRITTEN: "0"}, takes=False)]
    running = run(protocol="2.0")
    running.source.count(a=11)
    wait_until(lambda: len(receiver.seen) == 2)
    running.source.count(a=11)
    wait_until(lambda: receiver.last() == {"a": 22})
    running.stop()
    assert {version for _, version in receiver.seen} == {V2}


@pytest.mark.parametrize("kind", ["1", "deaf"])
def test_names_in_utf8_have_no_version_1_to_fall_back_to(
    kind: str, receivers: Callable[..., Receiver], run: Callable[..., Running]
) -> None:
    receiver = receivers(kind, utf8_names=True)
    running = run(
        endpoint=receiver.endpoint,
        protocol="2.0",
        interval="10s",
        translation_strategy="NoTranslation",
    )
    running.source.count(a=1)
    running.stop()
    assert [version for _, version in receiver.seen] == [V2]
    assert (running.ledger.difference, dict(running.ledger.lost)) == (0, {"points_refused": 2})
    assert "takes no remote write 2.0" in running.bench.reasons[0]


@PROTOCOLS
def test_shards_send_each_series_over_one_connection_and_all_of_them(
    protocol: str, receiver: Receiver, run: Callable[..., Running]
) -> None:
    running = run(protocol=protocol, shards=3)
    amounts = {f"s{n}": n + 1 for n in range(60)}
    for number in range(4):
        running.source.count(**amounts)
        expected = {who: (number + 1) * amount for who, amount in amounts.items()}
        wait_until(lambda e=expected: receiver.last() == e)  # type: ignore[misc]
    running.stop()
    assert receiver.last() == running.source.truth
    peers: dict[str, set[str]] = {}
    for peer, request in receiver.connections:
        for series in request.series:
            peers.setdefault(str(series.labels), set()).add(peer)
    assert {len(used) for used in peers.values()} == {1}
    of_shard = Counter(peer for used in peers.values() for peer in used)
    assert len(of_shard) == 3
    assert sum(of_shard.values()) == 61
    assert (running.ledger.difference, dict(running.ledger.lost)) == (0, {})


def test_shards_lose_nothing_while_one_of_them_fails(
    receiver: Receiver, run: Callable[..., Running]
) -> None:
    receiver.answers += [Answer(503, takes=False)] * 7
    running = run(shards=3)
    amounts = {f"s{n}": n + 1 for n in range(60)}
    for _ in range(5):
        running.source.count(**amounts)
        time.sleep(0.03)
    wait_until(lambda: receiver.last() == running.source.truth)
    running.stop()
    assert receiver.last() == running.source.truth
    assert (running.ledger.difference, dict(running.ledger.lost)) == (0, {})
    assert running.bench.reasons[-1] == ""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"protocol": "1.0", "translation_strategy": "NoTranslation"}, "needs protocol 2.0"),
        ({"headers": {"content-type": "x"}}, "remote write's own"),
        ({"external_labels": {"": "x"}}, "can be no label"),
        ({"external_labels": {"le": "x"}}, "can be no label"),
        ({"external_labels": {"region": ""}}, "can be no label"),
        ({"external_labels": {"__tmp__": "x"}}, "can be no label"),
        ({"external_labels": {"a.b": "x", "a_b": "y"}}, "both are the label a_b"),
        ({"protocol": "3.0"}, "'1.0' or '2.0'"),
        ({"endpoint": "prometheus:9090"}, "is no http or https URL"),
        ({"shards": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PrometheusRemoteWriteSettings.model_validate(settings)


def test_requests_are_signed_over_what_goes_over_the_wire(
    receiver: Receiver, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    running = run(interval="10s", auth={"sigv4": {"region": "eu-central-1"}})
    running.source.count(a=11)
    running.stop()
    (headers,) = receiver.headers
    assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert (
        "SignedHeaders=content-encoding;content-type;host;x-amz-content-sha256;x-amz-date;"
        "x-prometheus-remote-write-version," in headers["Authorization"]
    )
    assert headers["x-amz-content-sha256"] == hashlib.sha256(receiver.bodies[0]).hexdigest()
    assert receiver.last() == {"a": 11}


def test_keys_that_are_refused_are_read_anew_for_the_next_export(
    receiver: Receiver,
    run: Callable[..., Running],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """AWS says 403 to keys that were replaced."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    keys = tmp_path / "credentials"
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    text = "[default]\naws_access_key_id={}\naws_secret_access_key=a\n"
    keys.write_text(text.format("AKIDOLD"))
    receiver.answers.append(Answer(403, takes=False))
    running = run(interval="500ms", auth={"sigv4": {"region": "eu-central-1"}})
    running.source.count(a=11)
    wait_until(lambda: len(receiver.seen) == 1)
    keys.write_text(text.format("AKIDNEW"))
    running.source.count(a=11)
    wait_until(lambda: receiver.last() == {"a": 22})
    running.stop()
    used = [headers["Authorization"].split("/")[0] for headers in receiver.headers]
    assert used[0].endswith("=AKIDOLD")
    assert {each.rpartition("=")[2] for each in used[1:]} == {"AKIDNEW"}
    assert (running.ledger.difference, dict(running.ledger.lost)) == (0, {"points_refused": 2})


def test_a_token_that_is_refused_is_read_again_and_the_request_sent_again(
    receiver: Receiver, run: Callable[..., Running], tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    running = run(auth={"bearer": {"token_file": str(token)}})
    receiver.answers.append(Answer(401, takes=False))
    running.source.count(a=11)
    wait_until(lambda: receiver.last() == {"a": 11})
    running.stop()
    assert [headers["Authorization"] for headers in receiver.headers][:2] == ["Bearer one"] * 2
    assert [status for status, _ in receiver.seen][:2] == [401, 204]
