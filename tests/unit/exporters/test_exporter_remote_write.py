"""prometheus_remote_write from a real accumulator to a strict receiver, through all mishaps."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from retina_otel.exporters.prometheus_remote_write import (
    PrometheusRemoteWriteSettings,
    _Failing,
)
from retina_otel.testing.remote_write import V2
from tests.unit.exporters.remote_write_receiver import (
    VERSION_OF,
    WRITTEN,
    Answer,
    Receiver,
    Running,
)

PROTOCOLS = pytest.mark.parametrize("protocol", VERSION_OF)


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


def test_shards_that_work_again_at_once_leave_the_exporter_no_reason() -> None:
    """The second does while the first is telling; who did not wait would be told first."""
    told: list[str] = []
    second = threading.Thread(target=lambda: degraded[1](""))

    def tell(reason: str) -> None:
        if reason == "two":
            second.start()
            second.join(0.2)
        told.append(reason)

    failing = _Failing(tell, 2)
    degraded = [failing.shard(0), failing.shard(1)]
    degraded[0]("one")
    degraded[1]("two")
    degraded[0]("")
    second.join()
    assert told == ["one", "one", "two", ""]


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
        ({"native_histograms": True}, "needs protocol 2.0: 1.0 has no custom buckets"),
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
