"""azure_monitor from a real accumulator and event buffer to a real HTTP server, through all that
Azure's ingestion may answer: what arrives adds up to what was counted, and the books close."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from retina_otel.delivery.outcome import Result
from retina_otel.delivery.tls.contexts import TlsOptions
from retina_otel.exporters.azure_monitor import AzureMonitorExporter, AzureMonitorSettings
from retina_otel.exporters.azure_monitor.connection_string import parse
from retina_otel.exporters.azure_monitor.ingestion import IngestionSender
from retina_otel.testing.application_insights import KEY, Answer, ApplicationInsights
from retina_otel.testing.exporters import METRIC, Bench, ManualClock, Source

FAST = {
    "interval": "50ms",
    "events_interval": "20ms",
    "retry_on_failure": {"initial_interval": "20ms", "max_interval": "50ms"},
}
RESOURCE: dict[str, str | int | bool] = {
    "service.name": "retina-otel",
    "k8s.node.name": "node-1",
    "k8s.cluster.name": "prod",
}


class Running:
    """An exporter with its source, started."""

    def __init__(self, connection_string: str, **settings: Any) -> None:
        self.bench = Bench(id="azure_monitor", resource=dict(RESOURCE))
        self.source = Source()
        chosen = AzureMonitorSettings.model_validate(
            {"connection_string": connection_string, **FAST, **settings}
        )
        self.exporter = AzureMonitorExporter(chosen, self.bench.context(), {})
        reader = self.source.accumulator.reader(
            "test",
            temporality=self.exporter.temporality,
            zero_points=self.exporter.zero_points,
            stale_markers=self.exporter.stale_markers,
        )
        self.exporter.start([reader], [self.source.buffer.reader("test")])

    def stop(self, seconds: float = 5.0) -> None:
        self.exporter.stop(self.bench.deadline_ns(seconds))

    @property
    def ledger(self) -> Any:
        return self.bench.ledger.report()

    @property
    def truth(self) -> dict[Any, int]:
        """What the endpoint's sums must be."""
        return {
            frozenset({**RESOURCE, "test.who": who}.items()): total
            for who, total in self.source.truth.items()
        }


@pytest.fixture
def azure() -> Iterator[ApplicationInsights]:
    with ApplicationInsights() as running:
        yield running


@pytest.fixture
def run(azure: ApplicationInsights) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(**settings: Any) -> Running:
        started.append(Running(azure.connection_string, **settings))
        return started[-1]

    yield start
    for running in started:
        running.stop(0.5)


def assert_all_arrived(azure: ApplicationInsights, running: Running) -> None:
    """Deltas add up to the truth, each event came once, and the ledger says the same."""
    assert azure.sums(METRIC.name) == running.truth
    numbers = [int(event["test.number"]) for event in azure.events()]
    assert sorted(numbers) == list(range(running.source.events))
    assert azure.faults() == []
    ledger = running.ledger
    assert (ledger.difference, dict(ledger.lost)) == (0, {})
    exported = {unit: counts.exported for unit, counts in ledger.exports.items()}
    assert exported.get("points", 0) == len(azure.points())
    assert exported.get("events", 0) == running.source.events


def feed(azure: ApplicationInsights, running: Running, rounds: int = 4) -> None:
    """Rounds of counts and events, each after a request of metrics has come."""
    for n in range(rounds):
        before = requests_with(azure, "MetricData")
        running.source.count(a=11 + n, b=13)
        running.source.happen(5)
        azure.wait_for(lambda before=before: requests_with(azure, "MetricData") > before)


def requests_with(azure: ApplicationInsights, base_type: str) -> int:
    return sum(
        any(envelope["data"]["baseType"] == base_type for envelope in request.envelopes)
        for request in azure.received
    )


def test_deltas_add_up_and_events_arrive_once(
    azure: ApplicationInsights, run: Callable[..., Running]
) -> None:
    running = run()
    feed(azure, running)
    running.stop()
    assert_all_arrived(azure, running)
    tags = azure.envelopes()[0]["tags"]
    assert tags["ai.cloud.role"] == "retina-otel"
    assert tags["ai.cloud.roleInstance"] == "node-1"
    assert azure.received[0].headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 504, 307, 402, 439])
def test_what_may_pass_later_loses_nothing(
    azure: ApplicationInsights, run: Callable[..., Running], status: int
) -> None:
    azure.script(*[Answer(status, retry_after="0")] * 3)
    running = run()
    feed(azure, running)
    running.stop()
    assert_all_arrived(azure, running)
    why = "quota" if status in {402, 439} else f"http_{status}"
    exports = running.ledger.exports
    failures = exports["points"].request_failures.get(why, 0)
    assert failures + exports["events"].request_failures.get(why, 0) == 3
    assert f"HTTP {status}: said by the test" in running.bench.reasons[0]
    assert running.bench.reasons[-1] == ""


def test_a_connection_that_is_reset_loses_nothing(
    azure: ApplicationInsights, run: Callable[..., Running]
) -> None:
    azure.script(*[Answer(reset=True)] * 3)
    running = run()
    feed(azure, running)
    running.stop()
    assert_all_arrived(azure, running)


def test_retry_after_is_obeyed(azure: ApplicationInsights, run: Callable[..., Running]) -> None:
    azure.script(Answer(429, retry_after="1"))
    running = run()
    running.source.count(a=5)
    azure.wait_for(azure.points)
    first, second = (request.monotonic_s for request in azure.received[:2])
    assert second - first >= 1.0
    assert "longer interval" in running.bench.reasons[0]


def test_a_quota_without_a_time_is_left_alone_and_the_counts_wait(
    azure: ApplicationInsights, run: Callable[..., Running]
) -> None:
    azure.always(Answer(439))
    running = run()
    running.source.count(a=5)
    azure.wait_for(lambda: azure.received)
    running.source.count(a=6)
    running.source.happen(3)
    azure.wait_for(lambda: len(azure.received) == 2)
    for _ in range(5):
        running.source.count(a=1)
    running.stop(0.5)
    assert len(azure.received) == 4
    assert "daily cap" in running.bench.reasons[0]
    ledger = running.ledger
    assert ledger.difference == 0
    assert ledger.lost == {"points_shutdown": 1, "events_shutdown": 3}


def test_of_a_part_that_was_not_taken_only_that_part_is_sent_again(
    azure: ApplicationInsights, run: Callable[..., Running]
) -> None:
    names = {f"s{n}": n + 1 for n in range(10)}
    azure.script(Answer(206, errors={3: 503, 7: 429}), Answer(503), Answer(206, errors={1: 500}))
    running = run()
    running.source.count(**names)
    azure.wait_for(lambda: len(azure.points()) == 10)
    running.stop()
    assert [len(request.envelopes) for request in azure.received] == [10, 2, 2, 1]
    assert_all_arrived(azure, running)
    failures = running.ledger.exports["points"].request_failures
    assert failures == {"partial_success": 2, "http_503": 1}


def test_of_a_part_that_is_refused_for_good_each_item_is_counted(
    azure: ApplicationInsights, run: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    azure.script(Answer(206, errors={0: 400, 4: 206, 5: 500}, message="Telemetry sampled out."))
    running = run()
    running.source.count(**{f"s{n}": n + 1 for n in range(10)})
    azure.wait_for(lambda: len(azure.points()) == 8)
    running.stop()
    ledger = running.ledger
    assert (ledger.difference, ledger.drained) == (0, 8)
    assert ledger.lost == {"points_rejected": 2}
    assert "took 7 of 10 items: Telemetry sampled out." in caplog.text


def test_a_delta_that_came_in_part_waits_for_its_rest_and_is_not_counted_twice(
    azure: ApplicationInsights, run: Callable[..., Running]
) -> None:
    azure.script(Answer(206, errors={0: 500}), *[Answer(500)] * 8)
    running = run(
        retry_on_failure={
            "initial_interval": "20ms",
            "max_interval": "20ms",
            "max_elapsed_time": "30ms",
        }
    )
    running.source.count(a=1, b=2)
    azure.wait_for(lambda: len(azure.received) == 4)
    running.source.count(a=10, b=20)
    azure.wait_for(lambda: len(azure.points()) == 4)
    running.stop()
    assert_all_arrived(azure, running)


def test_a_refused_request_is_counted_and_later_ones_go_on(
    azure: ApplicationInsights, run: Callable[..., Running]
) -> None:
    azure.script(Answer(400))
    running = run()
    running.source.count(a=5)
    azure.wait_for(lambda: azure.received)
    running.source.count(a=7)
    azure.wait_for(azure.points)
    running.stop()
    (total,) = azure.sums(METRIC.name).values()
    assert total == 7
    assert running.ledger.lost == {"points_refused": 1}
    assert "connection string is of this resource" in running.bench.reasons[0]


def test_a_request_that_is_too_large_is_halved_and_smaller_ones_follow(
    azure: ApplicationInsights, run: Callable[..., Running]
) -> None:
    azure.script(Answer(413))
    running = run()
    running.source.count(**{f"s{n}": n + 1 for n in range(10)})
    azure.wait_for(lambda: len(azure.points()) == 10)
    running.stop()
    assert [len(request.envelopes) for request in azure.received] == [10, 5, 5]
    assert_all_arrived(azure, running)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"errors": [{"index": [], "statusCode": {}}]}', b"\xff", b"7"]
)
def test_a_request_that_was_taken_is_not_sent_again_whatever_the_answer_says(
    azure: ApplicationInsights, run: Callable[..., Running], body: bytes
) -> None:
    azure.script(Answer(body=body))
    running = run()
    running.source.count(a=5)
    azure.wait_for(azure.points)
    running.stop()
    assert azure.sums(METRIC.name) == running.truth
    assert running.ledger.exports["points"].exported == len(azure.points()) == 1


def test_an_endpoint_that_sends_a_byte_now_and_then_is_a_timeout_all_the_same(
    run: Callable[..., Running],
) -> None:
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
        target = parse(
            f"InstrumentationKey={KEY};IngestionEndpoint=http://127.0.0.1:{listener.getsockname()[1]}",
            "it",
        )
        sender = IngestionSender(target, clock=ManualClock(), tls=TlsOptions())
        cut = threading.Timer(5.0, over.set)  # which would be another reason
        cut.start()
        outcome = sender.send(sender.pack(b"[]", 0), 0.4)
        cut.cancel()
        over.set()
        thread.join(10)
        sender.close()
    assert outcome.reason == "timeout"


def test_an_endpoint_that_never_shakes_hands_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"https://127.0.0.1:{listener.getsockname()[1]}"
        target = parse(f"InstrumentationKey={KEY};IngestionEndpoint={address}", "it")
        sender = IngestionSender(target, clock=ManualClock(), tls=TlsOptions())
        outcome = sender.send(sender.pack(b"[]", 0), 0.3)
        sender.close()
    assert outcome.reason == "timeout"


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
        azure.script(Answer(308, location=f"{other.endpoint}/v2.1/track"))
        running = run()
        feed(other, running)
        running.stop()
        assert len(azure.received) == 1
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


def test_requests_have_at_most_so_many_items(
    azure: ApplicationInsights, run: Callable[..., Running]
) -> None:
    running = run(max_request_items=4)
    running.source.count(**{f"s{n}": n + 1 for n in range(10)})
    azure.wait_for(lambda: len(azure.points()) == 10)
    assert [len(request.envelopes) for request in azure.received] == [4, 4, 2]


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


def test_events_on_the_disk_survive_the_agent_and_go_to_no_other_resource(tmp_path: Path) -> None:
    spool = {"directory": str(tmp_path / "spool")}
    with ApplicationInsights() as away:
        nowhere = away.connection_string
    before = Running(nowhere, spool=spool)
    before.source.happen(7)
    wait_until(lambda: before.bench.reasons)
    before.stop(1.0)
    assert (before.ledger.difference, before.ledger.lost) == (0, {})
    with ApplicationInsights(key=KEY.replace("0f", "1e")) as other:
        another = Running(other.connection_string, spool=spool)
        another.source.happen(1)
        other.wait_for(other.events)
        another.stop()
        assert [event["test.number"] for event in other.events()] == ["0"]
    assert KEY not in "".join(before.bench.reasons + another.bench.reasons)


def test_events_of_the_disk_that_are_taken_in_part_arrive_once(
    azure: ApplicationInsights, tmp_path: Path
) -> None:
    spool = {"directory": str(tmp_path / "spool")}
    with ApplicationInsights() as away:
        nowhere = away.connection_string
    before = Running(nowhere, spool=spool)
    before.source.happen(7)
    wait_until(lambda: before.bench.reasons)
    before.stop(1.0)
    azure.script(Answer(206, errors={0: 500, 6: 503}))
    after = Running(azure.connection_string, spool=spool)
    azure.wait_for(lambda: len(azure.events()) == 7)
    after.stop()
    assert [len(request.envelopes) for request in azure.received] == [7, 2]
    assert sorted(int(event["test.number"]) for event in azure.events()) == list(range(7))
    assert (after.ledger.difference, after.ledger.lost) == (0, {})


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
