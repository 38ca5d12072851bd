"""Lanes: what is sent when, and where everything is booked. The test owns clock and backend."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from retina_otel.delivery.lane import LaneOptions
from retina_otel.delivery.lanes import EventsLane, EventsRoute, MetricsLane, MetricsRoute
from retina_otel.delivery.otlp_wire import LOGS, METRICS
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.report import DeliveryReport
from retina_otel.delivery.retry import Backoff, RetryPolicy
from retina_otel.delivery.sender import PlainSender
from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.model.signal_types import Event, Kind, Metric
from retina_otel.pipeline.points import PointBlock, Temporality
from retina_otel.testing.exporters import Bench, EventsFeed, ManualClock, MetricsFeed
from retina_otel.testing.points import Occurrence, Point, event_block, point_block
from tests.unit.delivery.scripted_outcomes import (
    ACCEPTED,
    REFUSED,
    TOO_LARGE,
    UNAVAILABLE,
    WORDS,
    Scripted,
    stamps_of,
)

METRIC = Metric("retina.test.packets", Kind.COUNTER, "{packet}", "packets", scope="test")
EVENT = Event("retina.test", 9, "something", scope="test")


class Backend:
    """Takes what `answer` says, and remembers what it took."""

    def __init__(self, answer: Callable[[bytes], Outcome] = lambda body: ACCEPTED) -> None:
        self.answer = answer
        self.taken: list[bytes] = []
        self.requests = 0
        self.timeouts: list[float] = []

    def send(self, body: bytes, timeout_s: float) -> Outcome:
        self.requests += 1
        self.timeouts.append(timeout_s)
        outcome = self.answer(body)
        if outcome.result is Result.ACCEPTED:
            self.taken.append(body)
        return outcome

    def values(self) -> list[list[int]]:
        """The values of each metrics request that was taken."""
        return [
            [
                point.as_int
                for resource in request.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
                for point in metric.sum.data_points
            ]
            for request in map(ExportMetricsServiceRequest.FromString, self.taken)
        ]

    def all_values(self) -> list[int]:
        return [value for values in self.values() for value in values]

    def stamps(self) -> list[int]:
        """The times of all log records that were taken, in order."""
        return stamps_of(self.taken)


def block(*values: int) -> PointBlock:
    points = [Point(value, own={"n": f"{i:050d}"}) for i, value in enumerate(values)]
    return point_block(METRIC, points)


class Rig:
    """One lane on a clock of its own."""

    def __init__(
        self, backend: Backend, *, max_bytes: int = 4 << 20, retry: RetryPolicy | None = None
    ) -> None:
        self.clock = ManualClock()
        self.bench = Bench(self.clock)
        self.report = DeliveryReport(
            self.bench.ledger, self.bench.logger, self.clock, self.bench.reasons.append
        )
        self.backend = backend
        self.sender = PlainSender(backend.send)
        self.max_bytes = max_bytes
        self.options = LaneOptions(
            clock=self.clock,
            report=self.report,
            random=random.Random(7),
            retry=retry or RetryPolicy(),
        )
        self.metrics = MetricsFeed()
        self.events = EventsFeed()

    def metrics_lane(self, temporality: Temporality = Temporality.CUMULATIVE) -> MetricsLane:
        route = MetricsRoute(
            encode=lambda: MetricsEncoder({}).requests,
            sender=self.sender,
            split=METRICS.split,
            interval_s=15.0,
            max_bytes=self.max_bytes,
            temporality=temporality,
        )
        return MetricsLane("metrics", self.metrics, route, self.options)

    def events_lane(self) -> EventsLane:
        route = EventsRoute(
            encode=lambda: LogsEncoder({}).requests,
            sender=self.sender,
            split=LOGS.split,
            interval_s=1.0,
            max_bytes=self.max_bytes,
        )
        return EventsLane("events", self.events, route, self.options)

    def run(self, lane: MetricsLane | EventsLane, seconds: float) -> None:
        """Steps the lane whenever it is due, for so long."""
        end = self.clock.monotonic_ns() + round(seconds * 1e9)
        while not lane.finished and lane.due_ns < end:
            self.clock.advance_to(lane.due_ns)
            lane.step()
        self.clock.advance_to(end)


def test_each_interval_sends_the_newest_snapshot_once() -> None:
    rig = Rig(Backend())
    lane = rig.metrics_lane()
    for sequence in range(1, 4):
        rig.metrics.publish(sequence, [block(sequence * 10)])
        rig.run(lane, 15)
    rig.run(lane, 60)
    assert rig.backend.values() == [[10], [20], [30]]
    assert rig.metrics.acknowledged == [1, 2, 3]
    assert rig.bench.ledger.report().drained == 3


def test_the_first_snapshot_is_not_waited_for_a_whole_interval() -> None:
    rig = Rig(Backend())
    lane = rig.metrics_lane()
    rig.run(lane, 2)
    rig.metrics.publish(1, [block(5)])
    rig.run(lane, 1.5)
    assert rig.backend.values() == [[5]]


def test_an_outage_sends_only_the_newest_values_afterwards() -> None:
    backend = Backend(lambda body: UNAVAILABLE)
    rig = Rig(backend)
    lane = rig.metrics_lane()
    for sequence in range(1, 9):
        rig.metrics.publish(sequence, [block(sequence * 10, sequence)])
        rig.run(lane, 15)
    backend.answer = lambda body: ACCEPTED
    rig.metrics.publish(9, [block(90, 9)])
    rig.run(lane, 60)
    assert backend.values() == [[90, 9]]
    assert rig.metrics.acknowledged == [9]
    report = rig.bench.ledger.report()
    assert (report.drained, report.difference, dict(report.lost)) == (2, 0, {})
    counts = report.exports["points"]
    assert (counts.exported, counts.failed) == (2, {})
    assert counts.requests == backend.requests
    assert counts.request_failures == {"http_503": backend.requests - 1}
    assert rig.bench.reasons == ["HTTP 503", ""]


def test_retry_after_is_obeyed() -> None:
    answers = [Outcome(Result.RETRY, "http_429", "HTTP 429", retry_after_s=7.0), ACCEPTED]
    backend = Backend(lambda body: answers.pop(0))
    rig = Rig(backend)
    lane = rig.metrics_lane()
    rig.metrics.publish(1, [block(1)])
    rig.run(lane, 6.99)
    assert backend.requests == 1
    rig.run(lane, 0.72)  # a tenth later at the latest
    assert backend.values() == [[1]]
    assert backend.requests == 2


@pytest.mark.parametrize(("asked_s", "obeyed_s"), [(20.0, 20.0), (1e9, 3600.0), (0.5, 0.5)])
def test_a_thousand_agents_that_were_asked_for_one_pause_do_not_end_it_together(
    asked_s: float, obeyed_s: float
) -> None:
    policy = RetryPolicy(initial_s=1.0)
    sources = map(random.Random, range(1000))
    delays = [Backoff(policy, source).next_delay_s(asked_s) for source in sources]
    assert min(delays) >= obeyed_s
    if asked_s >= policy.initial_s:
        assert max(delays) <= obeyed_s * 1.1
    in_each_hundredth = Counter(int((each / obeyed_s - 1) * 100) for each in delays)
    assert max(in_each_hundredth.values()) < 250


@pytest.mark.parametrize("asked_s", [0.0, 1e-9, 0.05])
def test_a_backend_that_asks_for_no_pause_is_not_pressed(asked_s: float) -> None:
    """0, or a date that our clock is already past: it is asked no sooner than one that says
    nothing."""
    moments = []
    for pause_s in (None, asked_s):
        throttled = Outcome(Result.RETRY, "http_429", "HTTP 429", retry_after_s=pause_s)
        rig = Rig(Backend(lambda body, answer=throttled: answer))  # type: ignore[misc]
        rig.events.append(event_block(EVENT, [Occurrence()]))
        lane = rig.events_lane()
        begun_ns = rig.clock.monotonic_ns()
        dues = []
        for _ in range(8):
            lane.step()
            dues.append(lane.due_ns - begun_ns)
            rig.clock.advance_to(lane.due_ns)
        moments.append(dues)
    silent, asking = moments
    assert all(one <= other for one, other in zip(silent, asking, strict=True))


def test_delays_are_drawn_below_a_growing_bound() -> None:
    backend = Backend(lambda body: UNAVAILABLE)
    rig = Rig(backend, retry=RetryPolicy(initial_s=1.0, max_s=8.0, max_elapsed_s=0))
    rig.events.append(event_block(EVENT, [Occurrence()]))
    lane = rig.events_lane()
    for bound in (1, 2, 4, 8, 8, 8):
        before = rig.clock.monotonic_ns()
        lane.step()
        assert 0.01e9 <= lane.due_ns - before <= bound * 1e9
        rig.clock.advance_to(lane.due_ns)


def test_a_request_that_is_too_large_is_halved_until_it_passes_and_the_size_is_kept() -> None:
    backend = Backend(lambda body: TOO_LARGE if len(body) > 3000 else ACCEPTED)
    rig = Rig(backend)
    lane = rig.metrics_lane()
    first, second = list(range(1, 102)), list(range(1001, 1102))
    rig.metrics.publish(1, [block(*first)])
    rig.run(lane, 15)
    assert backend.all_values() == first
    assert rig.metrics.acknowledged == [1]
    refused = backend.requests - len(backend.taken)
    rig.metrics.publish(2, [block(*second)])
    rig.run(lane, 15)
    assert backend.all_values() == first + second
    assert backend.requests - len(backend.taken) == refused
    assert rig.bench.ledger.report().drained == 202


def test_a_single_point_that_is_too_large_is_given_up_and_counted() -> None:
    rig = Rig(Backend(lambda body: TOO_LARGE))
    rig.metrics.publish(1, [block(1, 2, 3)])
    rig.run(rig.metrics_lane(), 15)
    assert rig.metrics.acknowledged == [1]
    assert dict(rig.bench.ledger.report().lost) == {"points_too_large": 3}


def test_a_partial_success_is_counted_and_not_sent_again() -> None:
    backend = Backend(
        lambda body: Outcome(Result.ACCEPTED, "partial_success", "2 are too old", rejected=2)
    )
    rig = Rig(backend)
    rig.metrics.publish(1, [block(1, 2, 3, 4, 5)])
    rig.run(rig.metrics_lane(), 60)
    report = rig.bench.ledger.report()
    assert (report.drained, dict(report.lost), report.difference) == (3, {"points_rejected": 2}, 0)
    assert rig.metrics.acknowledged == [1]
    assert backend.requests == 1


def test_a_backend_that_rejects_more_than_it_got_is_not_believed() -> None:
    rig = Rig(Backend(lambda body: Outcome(Result.ACCEPTED, "partial_success", "", rejected=9)))
    rig.metrics.publish(1, [block(1, 2)])
    rig.run(rig.metrics_lane(), 15)
    assert dict(rig.bench.ledger.report().lost) == {"points_rejected": 2}


def test_a_refusal_is_final_and_acknowledged() -> None:
    rig = Rig(Backend(lambda body: REFUSED))
    rig.metrics.publish(1, [block(1, 2)])
    rig.run(rig.metrics_lane(), 60)
    report = rig.bench.ledger.report()
    assert (report.seen, report.drained, dict(report.lost)) == (2, 0, {"points_refused": 2})
    assert rig.metrics.acknowledged == [1]
    assert report.exports["points"].failed == {"refused": 2}
    assert report.exports["points"].request_failures == {"http_400": 1}


@pytest.mark.parametrize("temporality", Temporality)
def test_a_delta_is_not_sent_twice_when_only_a_part_arrived(temporality: Temporality) -> None:
    answers = [ACCEPTED] + [UNAVAILABLE] * 20
    backend = Backend(lambda body: answers.pop(0) if answers else ACCEPTED)
    rig = Rig(backend, max_bytes=600)
    lane = rig.metrics_lane(temporality)
    rig.metrics.publish(1, [block(1, 2, 3, 4, 5, 6, 7)])
    rig.run(lane, 10)
    rig.metrics.publish(2, [block(11, 12, 13, 14, 15, 16, 17)])
    rig.run(lane, 290)
    first = backend.values()[0]
    if temporality is not Temporality.CUMULATIVE:
        assert backend.all_values()[:7] == [1, 2, 3, 4, 5, 6, 7]
        assert rig.metrics.acknowledged == [1, 2]
    else:
        assert backend.all_values() == [*first, 11, 12, 13, 14, 15, 16, 17]
        assert rig.metrics.acknowledged == [2]
    report = rig.bench.ledger.report()
    assert report.difference == 0
    assert report.drained == len(backend.all_values())


def test_events_arrive_in_order_through_failures() -> None:
    source = random.Random(3)
    backend = Backend(lambda body: UNAVAILABLE if source.random() < 0.5 else ACCEPTED)
    rig = Rig(backend)
    lane = rig.events_lane()
    for first in range(1, 101, 10):
        rig.events.append(
            event_block(EVENT, [Occurrence(time_ns=t) for t in range(first, first + 10)])
        )
        rig.run(lane, 3)
    rig.run(lane, 600)
    assert backend.stamps() == list(range(1, 101))
    report = rig.bench.ledger.report()
    assert (report.drained, report.difference, dict(report.lost)) == (100, 0, {})


def test_events_that_are_too_old_are_given_up_and_counted_and_later_ones_arrive() -> None:
    backend = Backend(lambda body: UNAVAILABLE)
    rig = Rig(backend, retry=RetryPolicy(max_elapsed_s=60))
    lane = rig.events_lane()
    rig.events.append(event_block(EVENT, [Occurrence(time_ns=1), Occurrence(time_ns=2)]))
    rig.run(lane, 90)
    backend.answer = lambda body: ACCEPTED
    rig.events.append(event_block(EVENT, [Occurrence(time_ns=3)]))
    rig.run(lane, 60)
    assert backend.stamps() == [3]
    assert dict(rig.bench.ledger.report().lost) == {"events_expired": 2}


def test_events_that_the_buffer_shed_are_booked() -> None:
    rig = Rig(Backend())
    rig.events = EventsFeed(most_blocks=2)
    for t in range(5):
        rig.events.append(event_block(EVENT, [Occurrence(time_ns=t)]))
    rig.run(rig.events_lane(), 5)
    report = rig.bench.ledger.report()
    assert (report.seen, report.drained, dict(report.lost)) == (5, 2, {"events_shed": 3})


def test_a_flush_sends_the_newest_values_and_all_events_and_then_ends() -> None:
    rig = Rig(Backend())
    metrics, events = rig.metrics_lane(), rig.events_lane()
    rig.metrics.publish(1, [block(1)])
    rig.run(metrics, 3)
    rig.metrics.publish(2, [block(2)])
    for t in (1, 2, 3):
        rig.events.append(event_block(EVENT, [Occurrence(time_ns=t)]))
    deadline = rig.bench.deadline_ns(5)
    for lane in (metrics, events):
        lane.begin_flush(deadline)
        rig.run(lane, 1)
        assert lane.finished
    assert rig.bench.ledger.report().drained == 5
    assert max(rig.backend.timeouts[1:]) <= 5


def test_events_that_a_defect_keeps_from_being_flushed_are_booked() -> None:
    rig = Rig(Backend(lambda body: ACCEPTED))
    rig.events.append(event_block(EVENT, [Occurrence(), Occurrence()]))
    lane = rig.events_lane()
    lane.begin_flush(rig.bench.deadline_ns(10))
    lane.defect("RuntimeError: the encoder")
    assert lane.finished
    books = rig.bench.ledger.report()
    assert (books.lost, books.difference) == ({"events_shutdown": 2}, 0)


def test_a_flush_that_gets_nowhere_ends_at_the_deadline_and_books_what_is_left() -> None:
    rig = Rig(Backend(lambda body: UNAVAILABLE))
    metrics, events = rig.metrics_lane(), rig.events_lane()
    rig.metrics.publish(1, [block(1, 2)])
    for t in (1, 2, 3):
        rig.events.append(event_block(EVENT, [Occurrence(time_ns=t)]))
    for lane in (metrics, events):
        lane.begin_flush(rig.bench.deadline_ns(5))
        rig.run(lane, 5)
        assert lane.finished
    report = rig.bench.ledger.report()
    assert dict(report.lost) == {"points_shutdown": 2, "events_shutdown": 3}
    assert report.difference == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=8), st.lists(WORDS, max_size=60))
def test_each_event_ends_in_exactly_one_account_whatever_the_backend_answers(
    sizes: list[int], script: list[str]
) -> None:
    scripted = Scripted(script)
    backend = Backend(scripted)
    rig = Rig(backend, retry=RetryPolicy(max_elapsed_s=0))
    stamp = 0
    for size in sizes:
        rig.events.append(
            event_block(EVENT, [Occurrence(time_ns=stamp + i + 1) for i in range(size)])
        )
        stamp += size
    rig.run(rig.events_lane(), 4000)
    report, truth = rig.bench.ledger.report(), scripted.truth
    assert report.difference == 0
    assert report.seen == stamp
    assert report.drained == truth.pop("accepted")
    assert report.lost == {f"events_{why}": n for why, n in truth.items() if n}
    if sizes:
        counts = report.exports["events"]
        assert (counts.exported, counts.requests) == (report.drained, backend.requests)
        assert counts.failed == {why: n for why, n in truth.items() if n}
    taken = backend.stamps()
    assert taken == sorted(set(taken))
