"""otlp_grpc alone: the waits that a backend asks for, and its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from retina_otel.testing.otlp_grpc import OtlpGrpcSink, Status
from tests.unit.exporters.otlp_protocols import GRPC
from tests.unit.exporters.started_exporter import StartedExporter, stopped_in_the_end


@pytest.fixture
def sink() -> Iterator[OtlpGrpcSink]:
    with OtlpGrpcSink() as running:
        yield running


@pytest.fixture
def run(sink: OtlpGrpcSink) -> Iterator[Callable[..., StartedExporter]]:
    def start(**settings: Any) -> StartedExporter:
        return GRPC.start(**{"endpoint": sink.endpoint, **settings})

    with stopped_in_the_end(start) as run:
        yield run


def test_retry_info_delays_the_next_attempt(
    sink: OtlpGrpcSink, run: Callable[..., StartedExporter]
) -> None:
    sink.script(Status("RESOURCE_EXHAUSTED", retry_delay_s=0.5))
    running = run()
    running.source.count(a=5)
    sink.wait_for(sink.points, 10)
    first, second = sink.received[:2]
    assert second.time_ns - first.time_ns >= 500_000_000
    assert running.ledger.exports["points"].request_failures == {"grpc_resource_exhausted": 1}


def test_stopping_does_not_wait_for_a_backend_that_hangs(
    sink: OtlpGrpcSink, run: Callable[..., StartedExporter]
) -> None:
    sink.always(Status(delay_s=2))
    running = run(timeout="60s")
    running.source.count(a=5)
    running.source.happen(3)
    sink.wait_for_call(10)
    running.stop(0.5)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("otlp_grpc")]
    assert running.ledger.difference == 0
    assert running.ledger.lost["events_shutdown"] == 3
