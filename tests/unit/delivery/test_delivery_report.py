"""What is said, how often, and that one lane's defect stays its own."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from retina_otel.delivery.lane import Lane, LaneOptions
from retina_otel.delivery.lanes import EventsLane, EventsRoute, MetricsLane, MetricsRoute
from retina_otel.delivery.otlp_wire import LOGS
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.report import DeliveryReport
from retina_otel.delivery.sender import PlainSender
from retina_otel.delivery.sharing import Encoded
from retina_otel.delivery.worker import Worker
from retina_otel.encode.otlp import LogsEncoder
from retina_otel.testing.exporters import Bench, ManualClock, Source


class Rig:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.bench = Bench(self.clock)
        self.report = DeliveryReport(
            self.bench.ledger, self.bench.logger, self.clock, self.bench.reasons.append
        )


def failure(message: str) -> Outcome:
    return Outcome(Result.RETRY, "http_503", message, "Wait")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_the_same_warning_is_not_repeated_for_ten_minutes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()
    for _ in range(50):
        rig.report.warn(failure("down"))
        rig.clock.advance(11)
    assert warnings(caplog) == ["down. Wait"]
    rig.clock.advance(60)
    rig.report.warn(failure("down"))
    assert warnings(caplog) == ["down. Wait"] * 2


def test_different_warnings_are_at_least_ten_seconds_apart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()
    for number in range(30):
        rig.report.warn(failure(f"point {number} is out of order"))
        rig.clock.advance(1)
    assert warnings(caplog) == [
        "point 0 is out of order. Wait",
        "point 10 is out of order. Wait (9 other warnings were not shown)",
        "point 20 is out of order. Wait (9 other warnings were not shown)",
    ]


def test_a_lane_that_works_does_not_hide_one_that_fails() -> None:
    rig = Rig()
    rig.report.failed("metrics", failure("metrics are refused"))
    rig.report.failed("events", failure("events are refused"))
    rig.report.passed("metrics")
    rig.report.passed("events")
    assert rig.bench.reasons == [
        "metrics are refused. Wait",
        "metrics are refused. Wait; events are refused. Wait",
        "events are refused. Wait",
        "",
    ]


def test_an_end_of_an_outage_is_logged_if_its_begin_was(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            rig.report.failed("metrics", failure("down"))
            rig.report.passed("metrics")
    assert [r.getMessage() for r in caplog.records] == ["down. Wait", "delivery works again"]


def test_what_is_told_last_is_how_it_is_also_if_two_threads_tell_at_once() -> None:
    """The second fails while the first is telling; who did not wait would be told first."""
    rig = Rig()
    told: list[str] = []
    second = threading.Thread(target=lambda: report.failed("events", failure("events")))

    def tell(reason: str) -> None:
        if not second.ident:
            second.start()
            second.join(0.2)
        told.append(reason)

    report = DeliveryReport(rig.bench.ledger, rig.bench.logger, rig.clock, tell)
    report.failed("points", failure("points"))
    second.join()
    assert told == ["points. Wait", "points. Wait; events. Wait"]


def test_each_item_is_in_one_account() -> None:
    rig = Rig()
    rig.report.settle("points", accepted=7, lost=Counter(rejected=2, refused=0), superseded=5)
    rig.report.settle("events", accepted=3, lost=Counter(shed=4))
    report = rig.bench.ledger.report()
    assert (report.seen, report.drained, report.difference) == (21, 10, 0)
    assert dict(report.lost) == {"points_rejected": 2, "events_shed": 4}
    assert dict(report.not_ours) == {"points_superseded": 5}
    points, events = report.exports["points"], report.exports["events"]
    assert (points.exported, points.failed) == (7, {"rejected": 2})
    assert (events.exported, events.failed) == (3, {"shed": 4})


def test_a_request_of_which_a_part_is_rejected_has_not_passed() -> None:
    rig = Rig()
    rig.report.request("points", 100, Outcome(Result.ACCEPTED))
    rig.report.request("points", 20, Outcome(Result.ACCEPTED, "partial_success", "a warning"))
    rig.report.request("points", 3, Outcome(Result.ACCEPTED, "partial_success", rejected=1))
    counts = rig.bench.ledger.report().exports["points"]
    assert (counts.requests, counts.request_bytes) == (3, 123)
    assert counts.request_failures == {"partial_success": 1}


def broken(blocks: object, max_bytes: int) -> Iterator[Encoded]:
    raise RuntimeError("a defect of ours")


def test_a_lane_that_raises_is_reported_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig, source = Rig(), Source()
    taken: list[bytes] = []

    def send(body: bytes, timeout_s: float) -> Outcome:
        taken.append(body)
        return Outcome(Result.ACCEPTED)

    options = LaneOptions(clock=rig.clock, report=rig.report)
    metrics = MetricsRoute(encode=lambda: broken, sender=PlainSender(send), interval_s=1.0)
    events = EventsRoute(
        encode=lambda: LogsEncoder({}).requests, sender=PlainSender(send), interval_s=1.0
    )
    lanes: list[Lane[Any]] = [
        MetricsLane("metrics", source.accumulator.reader("x"), metrics, options),
        EventsLane("events", source.buffer.reader("x"), events, options),
    ]
    worker = Worker("test", lanes, clock=rig.clock, logger=rig.bench.logger)
    source.count(a=1)
    source.happen(3)
    rig.clock.advance_to(worker.step())
    assert sum(map(LOGS.count, taken)) == 3
    exports = rig.bench.ledger.report().exports
    assert exports["points"].request_failures == {"internal": 1}
    assert (exports["events"].requests, exports["events"].request_bytes) == (1, len(taken[0]))
    assert rig.bench.reasons == ["RuntimeError: a defect of ours"]
    assert "a defect in the exporter, at metrics" in caplog.text
