"""`retina-otel cardinality` asks a running agent; its own metrics tell what found no room."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from click.testing import CliRunner

from retina_otel.agent.clock import SystemClock
from retina_otel.agent.own_metrics import FOLDED_IO, FOLDED_SERIES
from retina_otel.agent.routes import Route, RouteKey
from retina_otel.agent.status import StatusBoard
from retina_otel.agent.telemetry import OwnTelemetry
from retina_otel.cli.cardinality import command
from retina_otel.component import Context
from retina_otel.errors import RetinaError
from retina_otel.extensions.health_check import COMPONENT, HealthCheckSettings
from retina_otel.model.batches import Column, MetricBatch, Window
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.ledger import Ledger
from retina_otel.pipeline.pipeline import MetricsPipeline
from retina_otel.testing.exporters import NoInterfaces
from tests.unit.pipeline.pipeline_parts import SECOND, T0, Bench, batch, window


def ask(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def endpoint() -> Iterator[str]:
    """Address of a health endpoint that tells of a pipeline with three series."""
    bench = Bench(cardinality_limit=3)
    bench.tick(web=30, db=20, api=10, dns=1)
    context = Context(
        id="health_check",
        clock=SystemClock(),
        logger=logging.getLogger(),
        ledger=Ledger("extension/health_check", "things"),
        identity=bench.endpoints,
        interfaces=NoInterfaces(),
        cardinality=lambda: {"metrics": bench.accumulator.cardinality()},
    )
    health = COMPONENT.create(HealthCheckSettings(endpoint="127.0.0.1:0"), context)
    health.start()
    try:
        yield f"127.0.0.1:{health.port}"
    finally:
        health.stop()


def test_the_table_tells_what_each_attribute_costs(endpoint: str) -> None:
    lines = [line.split() for line in ask("--endpoint", endpoint).splitlines() if line]
    assert lines == [
        [
            "test.io:",
            "3",
            "of",
            "3",
            "series,",
            "1",
            "more",
            "found",
            "no",
            "room",
            "(pipeline",
            "metrics)",
        ],
        ["Attribute", "Values", "Series", "without", "it", "Saves"],
        ["key", "3", "1", "2", "67%"],
    ]


def test_json_is_for_programs(endpoint: str) -> None:
    assert json.loads(ask("--endpoint", endpoint, "--json", "--metric", "test.*")) == {
        "pipelines": {
            "metrics": [
                {
                    "metric": "test.io",
                    "series": 3,
                    "limit": 3,
                    "folded": 1,
                    "attributes": [{"name": "key", "values": 3, "series_without": 1, "saves": 2}],
                }
            ]
        }
    }


def test_a_metric_that_is_not_there_is_answered_with_the_nearest(endpoint: str) -> None:
    with pytest.raises(RetinaError, match=r"'test\.oi'\. Did you mean 'test\.io'\?"):
        ask("--endpoint", endpoint, "--metric", "test.oi")


def test_an_address_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(command, ["--endpoint", "nowhere"])
    assert (result.exit_code, "write it as 127.0.0.1:10093" in result.output) == (2, True)


def test_without_an_agent_the_error_says_how_to_have_one() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(RetinaError, match=r"no agent answers at .* health_check"):
            ask("--endpoint", address)


@pytest.mark.parametrize("body", [b"hello", b"[]", b'{"pipelines": {"metrics": [{"metric": 3}]}}'])
def test_somebody_who_is_no_agent_is_told_so(body: bytes) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(RetinaError, match="answers 200, and not as an agent does"):
            ask("--endpoint", f"127.0.0.1:{server.server_port}")
        thread.join()


def test_own_metrics_tell_once_what_found_no_room_in_pipelines_that_are_one() -> None:
    accumulator = Accumulator(EndpointTable(), AccumulatorSettings(cardinality_limit=1))
    pipeline = MetricsPipeline("metrics/net", (), accumulator)
    route = Route(
        RouteKey("metrics", frozenset(), (), ""), pipeline, ["metrics/net", "metrics/b"], []
    )
    telemetry = OwnTelemetry(StatusBoard(), lambda: [route], 15)
    own = {}
    for number, rows in enumerate([{"a": 5, "b": 3, "c": 2}, {"a": 5, "b": 3}, {"a": 5}, {"a": 5}]):
        pipeline.push([batch(window(number), list(rows), list(rows.values()))])
        end_ns = T0 + (number + 1) * SECOND
        pipeline.tick(end_ns)
        collected = telemetry.collect(Window(end_ns, end_ns), now=True)
        for one in collected.metrics:
            for metric, column in one.values.items():
                if metric in (FOLDED_SERIES, FOLDED_IO):
                    own[metric, number] = (told(one), np.asarray(column).tolist())
    telemetry.close()
    once = [{"retina.pipeline.name": "metrics/net", "retina.metric.name": "test.io"}]
    assert own == {
        (FOLDED_SERIES, 0): (once, [2]),
        (FOLDED_IO, 0): (once, [5]),
        (FOLDED_SERIES, 1): (once, [1]),
        (FOLDED_IO, 1): (once, [3]),
        # All found room again: said once, then there is nothing to say.
        (FOLDED_SERIES, 2): (once, [0]),
        (FOLDED_IO, 2): (once, [0]),
        (FOLDED_IO, 3): (once, [0]),
    }


def told(one: MetricBatch) -> list[dict[str, object]]:
    """The own attributes of each row."""
    columns = {name: column for name, column in one.own.items() if isinstance(column, Column)}
    return [
        {name: column.values[column.codes[row]] for name, column in columns.items()}
        for row in range(len(one))
    ]
