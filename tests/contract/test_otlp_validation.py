"""The validator finds each fault that a backend would suffer from, and nothing in a good stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.model.signals import Event, Kind, Metric
from retina_otel.pipeline.points import Temporality
from retina_otel.testing.otlp import validate
from retina_otel.testing.points import Occurrence, Point, event_block, point_block

COUNTER = Metric("c", Kind.COUNTER, "By", "")
GAUGE = Metric("g", Kind.GAUGE, "By", "")
GAUGE_IN_SECONDS = Metric("g", Kind.GAUGE, "s", "")
GAUGE_CALLED_C = Metric("c", Kind.GAUGE, "By", "")
HISTOGRAM = Metric("h", Kind.HISTOGRAM, "s", "", boundaries=(1.0,))


def export(metric: Metric, *points: Point, **named: Any) -> ExportMetricsServiceRequest:
    (body,) = MetricsEncoder({"a": "b"}).encode([point_block(metric, points, **named)])
    return ExportMetricsServiceRequest.FromString(body)


def at(time_ns: int, value: float, start_ns: int = 100, **more: Any) -> Point:
    return Point(value, {"pod": "web"}, start_ns=start_ns, time_ns=time_ns, **more)


GOOD = [
    export(COUNTER, at(101, 0), at(200, 5)),
    export(COUNTER, at(300, 5)),
    export(COUNTER, at(400, 9), at(401, 0, no_value=True)),
    export(COUNTER, at(501, 0, 500), at(600, 2, 500)),
]


def test_a_series_that_begins_grows_ends_and_begins_again_has_no_fault() -> None:
    assert validate(GOOD) == []


def test_a_series_that_goes_on_after_its_end_has_no_fault() -> None:
    assert validate([*GOOD[:3], export(COUNTER, at(402, 9), at(500, 10))]) == []


def test_a_request_that_came_twice_has_no_fault() -> None:
    assert validate([GOOD[0], GOOD[0], *GOOD[1:]]) == []


def test_a_series_may_be_said_twice_to_have_ended_when_answers_were_lost() -> None:
    again = [*GOOD[:3], export(COUNTER, at(500, 0, no_value=True))]
    assert validate(again, answers_lost=True) == []


def test_a_zero_at_the_very_start_has_no_fault() -> None:
    assert validate([export(COUNTER, at(100, 0), at(200, 1))]) == []


def test_gauges_amounts_and_deltas_have_no_fault() -> None:
    updown = Metric("u", Kind.UPDOWN, "By", "")
    assert (
        validate(
            [
                export(GAUGE, at(200, 5), at(300, -3)),
                export(updown, at(200, 5), at(300, 2)),
                export(
                    COUNTER,
                    at(200, 5),
                    at(300, 2, start_ns=200),
                    temporality=Temporality.DELTA,
                ),
                export(HISTOGRAM, at(101, 0), at(200, 1.5, buckets=(1, 1))),
            ]
        )
        == []
    )


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        ("c{pod=web}: twice at 101 in request 0", [export(COUNTER, at(101, 0), at(101, 0))]),
        (
            "c{pod=web}: two different points at 200",
            [GOOD[0], export(COUNTER, at(200, 6))],
        ),
        (
            "c{pod=web}: falls from (5,) to (4,) with the same start",
            [GOOD[0], export(COUNTER, at(300, 4))],
        ),
        (
            "c{pod=web}: falls from (9,) to (8,) with the same start",
            [*GOOD[:3], export(COUNTER, at(500, 8))],
        ),
        (
            "h{pod=web}: falls from (2, 1, 1) to (2, 2, 0) with the same start",
            [
                export(
                    HISTOGRAM,
                    at(101, 0),
                    at(200, 1, buckets=(1, 1)),
                    at(300, 1, buckets=(2, 0)),
                )
            ],
        ),
        (
            "c{pod=web}: begins at (5,), not at zero, with start 100",
            [export(COUNTER, at(200, 5))],
        ),
        (
            "c{pod=web}: begins at (2,), not at zero, with start 500",
            [*GOOD[:3], export(COUNTER, at(600, 2, 500))],
        ),
        (
            "c{pod=web}: time 100 is not after start 100",
            [export(COUNTER, at(100, 1))],
        ),
        ("c{pod=web}: time goes back from 200 to 150", [GOOD[0], export(COUNTER, at(150, 5))]),
        (
            "c{pod=web}: start goes back from 100 to 50",
            [GOOD[0], export(COUNTER, at(300, 0, 50))],
        ),
        (
            "c{pod=web}: start 150 is before the last point, 200",
            [GOOD[0], export(COUNTER, at(300, 0, 150))],
        ),
        (
            "c{pod=web}: ended twice with the same start",
            [*GOOD[:3], export(COUNTER, at(500, 0, no_value=True))],
        ),
        ("c{pod=web}: no start time", [export(COUNTER, at(200, 0, 0))]),
        ("g{pod=web}: no time", [export(GAUGE, at(0, 0))]),
        (
            "c{pod=web}: a monotonic sum of -1",
            [export(COUNTER, at(101, 0)), export(COUNTER, at(200, -1))],
        ),
        (
            "c: is ('gauge', 'By', False) and was ('sum', 'By', True)",
            [GOOD[0], export(GAUGE_CALLED_C, at(1000, 1))],
        ),
        (
            "g: is ('gauge', 's', False) and was ('gauge', 'By', False)",
            [export(GAUGE, at(1, 1)), export(GAUGE_IN_SECONDS, at(2, 1))],
        ),
        ("a metric without name", [export(Metric("", Kind.GAUGE, "", ""), at(1, 1))]),
        ("g: attribute 'pod' 2 times", [export(GAUGE, Point(1, {"pod": "a"}, own={"pod": "b"}))]),
        ("g: an attribute without key", [export(GAUGE, Point(1, {"": "a"}))]),
        (
            "request of 4194357 bytes: servers take less than 4 MiB",
            [export(GAUGE, Point(1, {"a": "x" * (2**22 - 68)}))],
        ),
    ],
)
def test_each_fault_is_found(fault: str, requests: list[ExportMetricsServiceRequest]) -> None:
    assert fault in validate(requests)


def broken(change: Callable[[Any], None], metric: Metric = COUNTER) -> list[str]:
    """Faults of a good export after `change` of its only metric."""
    request = export(metric, at(101, 0))
    change(request.resource_metrics[0].scope_metrics[0].metrics[0])
    return validate([request])


def test_points_that_no_encoder_of_ours_makes_are_found_too() -> None:
    assert broken(lambda m: setattr(m.sum, "aggregation_temporality", 0)) == [
        "c{pod=web}: temporality 0"
    ]
    assert broken(lambda m: m.ClearField("sum")) == ["c: no data"]
    assert broken(lambda m: m.sum.ClearField("data_points")) == ["c: no points"]
    assert broken(lambda m: m.sum.data_points[0].ClearField("as_int")) == [
        "c{pod=web}: no value, and no flag that says so"
    ]
    assert broken(lambda m: m.gauge.data_points[0].ClearField("as_int"), GAUGE) == [
        "g{pod=web}: no value, and no flag that says so"
    ]

    def histogram(change: Callable[[Any], None]) -> list[str]:
        return broken(lambda m: change(m.histogram.data_points[0]), HISTOGRAM)

    assert histogram(lambda point: point.bucket_counts.append(0)) == [
        "h{pod=web}: 3 buckets for 1 bounds"
    ]
    assert "h{pod=web}: 5 values in buckets that hold 0" in histogram(
        lambda point: setattr(point, "count", 5)
    )

    def same_bounds(point: Any) -> None:
        point.explicit_bounds.append(1.0)
        point.bucket_counts.append(0)

    assert histogram(same_bounds) == ["h{pod=web}: bounds that do not rise"]


def test_faults_of_events_are_found() -> None:
    def faults(event: Event, occurrence: Occurrence, observed_ns: int = 7) -> list[str]:
        block = event_block(event, [occurrence], observed_ns=observed_ns)
        (body,) = LogsEncoder({}).encode([block])
        return validate(log_requests=[ExportLogsServiceRequest.FromString(body)])

    assert faults(Event("e", 9, ""), Occurrence()) == []
    assert faults(Event("", 9, ""), Occurrence()) == ["a log record without event name"]
    assert faults(Event("e", 0, ""), Occurrence()) == ["e: severity number 0"]
    assert faults(Event("e", 9, ""), Occurrence(time_ns=0)) == ["e: no time"]
    assert faults(Event("e", 9, ""), Occurrence(), observed_ns=0) == ["e: no observed time"]
    assert faults(Event("e", 9, ""), Occurrence({"a": 1}, own={"a": 2})) == [
        "e: attribute 'a' 2 times"
    ]
