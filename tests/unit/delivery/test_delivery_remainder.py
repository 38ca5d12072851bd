"""A lane whose backend takes requests in part: the rest goes again, alone, and each item is booked
once. The test owns clock and backend."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from retina_otel.delivery.lane import LaneOptions
from retina_otel.delivery.lanes import MetricsLane, MetricsRoute
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.packed import Packed
from retina_otel.delivery.report import DeliveryReport
from retina_otel.encode.requests import Request
from retina_otel.model.signal_types import Kind, Metric
from retina_otel.pipeline.points import PointBlock, Temporality
from retina_otel.testing.exporters import Bench, ManualClock, MetricsFeed
from retina_otel.testing.points import Point, point_block
from tests.unit.delivery.scripted_outcomes import UNAVAILABLE

METRIC = Metric("retina.test.packets", Kind.COUNTER, "{packet}", "packets", scope="test")
LONG_S = 1000.0
"""More than the time for which a request is tried."""


def encode(blocks: Sequence[PointBlock], max_bytes: int) -> Iterator[Request]:
    """The values of all points, a line each, in one request."""
    values = [value for block in blocks for value in block.values.tolist()]
    yield Request("\n".join(map(str, values)).encode(), len(values))


class Backend:
    """Takes so many of each request's items; None refuses it for now."""

    def __init__(self, *takes: int | None) -> None:
        self.takes = list(takes)
        self.taken: list[list[int]] = []

    def pack(self, body: bytes, n_items: int) -> Packed:
        return Packed(body, "", n_items, len(body))

    def send(self, packed: Packed, timeout_s: float) -> Outcome:
        values = packed.body().decode().split("\n")
        n = self.takes.pop(0) if self.takes else len(values)
        if n is None:
            return UNAVAILABLE
        self.taken.append([int(value) for value in values[:n]])
        if n == len(values):
            return Outcome(Result.ACCEPTED)
        left = self.pack("\n".join(values[n:]).encode(), len(values) - n)
        return Outcome(Result.ACCEPTED, "partial_success", "a part", remainder=left)

    def abort(self) -> None: ...

    def close(self) -> None: ...


class Rig:
    def __init__(self, backend: Backend, temporality: Temporality) -> None:
        self.clock = ManualClock()
        self.bench = Bench(self.clock)
        self.feed = MetricsFeed()
        report = DeliveryReport(
            self.bench.ledger, self.bench.logger, self.clock, self.bench.reasons.append
        )
        route = MetricsRoute(
            encode=lambda: encode, sender=backend, interval_s=15.0, temporality=temporality
        )
        options = LaneOptions(clock=self.clock, report=report, random=random.Random(7))
        self.lane = MetricsLane("metrics", self.feed, route, options)

    def run(self, seconds: float) -> None:
        end = self.clock.monotonic_ns() + round(seconds * 1e9)
        while not self.lane.finished and self.lane.due_ns < end:
            self.clock.advance_to(self.lane.due_ns)
            self.lane.step()
        self.clock.advance_to(end)

    def publish(self, sequence: int, *values: int) -> None:
        points = [Point(value, own={"n": n}) for n, value in enumerate(values)]
        self.feed.publish(sequence, [point_block(METRIC, points)])


@pytest.mark.parametrize("temporality", Temporality)
def test_only_the_rest_goes_again(temporality: Temporality) -> None:
    backend = Backend(2, 1)
    rig = Rig(backend, temporality)
    rig.publish(1, 10, 20, 30, 40)
    rig.run(14)
    assert backend.taken == [[10, 20], [30], [40]]
    assert rig.feed.acknowledged == [1]
    report = rig.bench.ledger.report()
    assert (report.drained, report.difference, dict(report.lost)) == (4, 0, {})
    assert report.exports["points"].request_failures == {"partial_success": 2}
    assert rig.bench.reasons[-1] == ""


def test_the_rest_of_a_delta_is_waited_for_however_long_it_takes() -> None:
    backend = Backend(1, *[None] * 10_000)
    rig = Rig(backend, Temporality.DELTA)
    rig.publish(1, 10, 20)
    rig.run(LONG_S)
    rig.publish(2, 100, 200)
    rig.run(LONG_S)
    assert (backend.taken, rig.feed.acknowledged) == ([[10]], [])
    backend.takes.clear()
    rig.run(60)
    assert backend.taken == [[10], [20], [100, 200]]
    assert rig.feed.acknowledged == [1, 2]
    report = rig.bench.ledger.report()
    assert (report.drained, report.difference, dict(report.lost)) == (4, 0, {})


def test_what_a_backend_leaves_again_and_again_does_not_stop_what_comes_after_it() -> None:
    backend = Backend(1, *[0] * 10_000)
    rig = Rig(backend, Temporality.DELTA)
    rig.publish(1, 10, 20)
    rig.run(LONG_S)
    assert rig.feed.acknowledged == [1]
    backend.takes.clear()
    rig.publish(2, 100, 200)
    rig.run(60)
    assert [taken for taken in backend.taken if taken] == [[10], [100, 200]]
    assert rig.feed.acknowledged == [1, 2]
    report = rig.bench.ledger.report()
    assert (report.drained, report.difference) == (3, 0)
    assert report.lost == {"points_expired": 1}


def test_the_rest_of_a_cumulative_export_gives_way_to_newer_values() -> None:
    backend = Backend(1, *[None] * 10_000)
    rig = Rig(backend, Temporality.CUMULATIVE)
    rig.publish(1, 10, 20)
    rig.run(LONG_S)
    rig.publish(2, 11, 22)
    backend.takes.clear()
    rig.run(60)
    assert backend.taken == [[10], [11, 22]]
    report = rig.bench.ledger.report()
    assert (report.drained, report.difference, dict(report.lost)) == (3, 0, {})


def test_at_the_end_what_was_taken_of_a_part_is_booked_and_the_rest_is_lost() -> None:
    backend = Backend(1, *[None] * 10_000)
    rig = Rig(backend, Temporality.DELTA)
    rig.publish(1, 10, 20, 30)
    rig.run(20)
    rig.lane.begin_flush(rig.clock.monotonic_ns() + 5 * 10**9)
    rig.run(10)
    report = rig.bench.ledger.report()
    assert (report.drained, report.difference) == (1, 0)
    assert report.lost == {"points_shutdown": 2}
