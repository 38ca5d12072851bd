"""azure_monitor from a real accumulator and event buffer to a real HTTP server, through all that
Azure's ingestion may answer: what arrives adds up to what was counted, and the books close."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retina_otel.testing.application_insights import KEY, Answer, ApplicationInsights
from retina_otel.testing.exporters import METRIC
from tests.unit.exporters.azure_monitor_running import (
    Running,
    assert_all_arrived,
    feed,
    running_towards,
    wait_until,
)


@pytest.fixture
def azure() -> Iterator[ApplicationInsights]:
    with ApplicationInsights() as running:
        yield running


@pytest.fixture
def run(azure: ApplicationInsights) -> Iterator[Callable[..., Running]]:
    with running_towards(azure) as run:
        yield run


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


def test_requests_have_at_most_so_many_items(
    azure: ApplicationInsights, run: Callable[..., Running]
) -> None:
    running = run(max_request_items=4)
    running.source.count(**{f"s{n}": n + 1 for n in range(10)})
    azure.wait_for(lambda: len(azure.points()) == 10)
    assert [len(request.envelopes) for request in azure.received] == [4, 4, 2]


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
