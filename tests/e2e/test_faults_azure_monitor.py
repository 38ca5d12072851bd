"""Whatever the network and the clock do, deltas in Application Insights add up to the source's
truth, and events come or are counted; where an answer is lost, what it was for counts twice.

As the tests of other exporters' faults: time passes on the test's clock, a relay stands in between.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from retina_otel.component import Context, Exporter
from retina_otel.exporters.azure_monitor import AzureMonitorExporter, AzureMonitorSettings
from retina_otel.pipeline.ledger import LedgerReport
from retina_otel.testing.application_insights import KEY, Answer, ApplicationInsights
from retina_otel.testing.exporters import METRIC, NUMBER, WHO
from tests.e2e.faults import Relay, Stepped, SteppedClock, no_threads, relay_to

OUTAGE_S = 600
"""Twice the time for which a request is tried by default."""
HOUR_NS = 3600 * 10**9


@dataclass
class Line:
    """From an exporter over a relay to Azure."""

    azure: ApplicationInsights
    relay: Relay

    def exporter(self, **settings: Any) -> Stepped:
        return Stepped(self._make(settings), SteppedClock())

    def _make(self, settings: dict[str, Any]) -> Callable[[Context], Exporter]:
        scheme = "https" if self.relay.tls is not None else "http"
        endpoint = f"{scheme}://127.0.0.1:{self.relay.port}"
        chosen = AzureMonitorSettings.model_validate(
            {
                "connection_string": f"InstrumentationKey={KEY};IngestionEndpoint={endpoint}",
                "interval": "15s",
                "events_interval": "1s",
                **settings,
            }
        )
        return lambda context: AzureMonitorExporter(chosen, context, {})

    def sums(self) -> dict[str, int]:
        return {
            dict(pairs)[WHO.name]: int(total)
            for pairs, total in self.azure.sums(METRIC.name).items()
        }

    def numbers(self) -> list[int]:
        return [int(event[NUMBER.name]) for event in self.azure.events()]

    def ends_well(self, stepped: Stepped) -> LedgerReport:
        """What comes when all works again is there, and the books close."""
        stepped.source.tick(100, b=20)
        for _ in range(20):
            # A connection may want a moment of real time to come back.
            stepped.run(30)
            if stepped.bench.reasons[-1:] == [""]:
                break
        ledger = stepped.stop()
        assert stepped.bench.reasons[-1] == ""
        assert ledger.difference == 0
        assert self.azure.faults() == []
        return ledger


@pytest.fixture
def line() -> Iterator[Line]:
    with ApplicationInsights() as azure, no_threads(), relay_to(azure.port) as relay:
        yield Line(azure, relay)


def test_an_outage_of_minutes_costs_old_events_and_no_counts(line: Line) -> None:
    stepped = line.exporter()
    stepped.source.tick(100, a=1, b=2)
    stepped.run(20)
    line.relay.down()
    stepped.source.tick(100, a=10, c=3)
    stepped.run(OUTAGE_S)
    stepped.source.tick(100, a=100)
    line.relay.up()
    ledger = line.ends_well(stepped)
    assert line.sums() == stepped.source.truth
    assert line.numbers() == [*range(100), *range(200, 400)]
    assert ledger.lost == {"events_expired": 100}


def test_with_a_spool_an_outage_of_minutes_costs_nothing(line: Line, tmp_path: Path) -> None:
    stepped = line.exporter(spool={"directory": str(tmp_path)})
    stepped.source.tick(100, a=1, b=2)
    stepped.run(20)
    line.relay.down()
    for _ in range(10):
        stepped.source.tick(100, a=10, c=3)
        stepped.run(OUTAGE_S / 10)
    line.relay.up()
    ledger = line.ends_well(stepped)
    assert line.sums() == stepped.source.truth
    assert line.numbers() == list(range(1200))
    assert ledger.lost == {}


def test_a_part_that_stays_untaken_for_longer_than_a_retry_may_last_is_waited_for(
    line: Line,
) -> None:
    stepped = line.exporter()
    line.azure.script(Answer(206, errors={1: 503}))
    line.azure.always(Answer(503))
    stepped.source.tick(a=1, b=2)
    for _ in range(10):
        stepped.run(OUTAGE_S / 10)
        stepped.source.tick(a=10, c=3)
    line.azure.always(Answer())
    ledger = line.ends_well(stepped)
    assert line.sums() == stepped.source.truth
    assert ledger.lost == {}


def test_an_hour_without_quota_costs_old_events_and_no_counts(line: Line) -> None:
    stepped = line.exporter()
    line.azure.always(Answer(439))
    for _ in range(6):
        stepped.source.tick(10, a=10, c=3)
        stepped.run(OUTAGE_S)
    points = [request for request in line.azure.received if metric_data(request.envelopes)]
    assert len(points) == 60  # once a minute
    line.azure.always(Answer())
    ledger = line.ends_well(stepped)
    assert line.sums() == stepped.source.truth
    lost = ledger.lost["events_expired"]
    assert set(ledger.lost) == {"events_expired"}
    assert line.numbers() == list(range(lost, stepped.source.events))


def test_a_connection_reset_in_the_middle_of_a_body_costs_nothing(line: Line) -> None:
    stepped = line.exporter()
    line.relay.cut_after = 1500
    stepped.source.tick(300, **{f"{number:04d}": number for number in range(1, 2000)})
    stepped.run(40)
    assert line.azure.envelopes("MetricData") == []
    line.relay.cut_after = None
    ledger = line.ends_well(stepped)
    assert line.sums() == stepped.source.truth
    assert line.numbers() == list(range(400))
    assert ledger.lost == {}


def test_an_endpoint_that_takes_and_never_answers_costs_nothing(line: Line) -> None:
    stepped = line.exporter(timeout="300ms")
    line.relay.silent = True
    stepped.source.tick(100, a=1, b=2)
    stepped.run(5)
    assert set(stepped.ledger.exports["points"].request_failures) == {"timeout"}
    line.relay.silent = False
    line.relay.reset()
    ledger = line.ends_well(stepped)
    assert line.sums() == stepped.source.truth
    assert line.numbers() == list(range(200))
    assert ledger.lost == {}


def test_where_answers_are_lost_items_count_twice_and_none_is_missing(line: Line) -> None:
    stepped = line.exporter()
    line.relay.answers_lost = lambda: sum(bool(request.accepted) for request in line.azure.received)
    stepped.source.tick(100, **{f"{number:04d}": number for number in range(1, 500)})
    stepped.run(1)
    assert set(stepped.ledger.exports["points"].request_failures) == {"connection_lost"}
    twice = line.sums()
    assert len(twice) == 499
    line.relay.answers_lost = None
    line.relay.reset()
    ledger = line.ends_well(stepped)
    truth = stepped.source.truth
    assert line.sums() == {who: total + twice.get(who, 0) for who, total in truth.items()}
    assert set(line.numbers()) == set(range(200))
    assert ledger.lost == {}


def test_a_certificate_of_another_ca_costs_nothing_until_it_is_replaced(
    line: Line, tmp_path: Path
) -> None:
    ca = trustme.CA()
    file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    line.relay.tls = server(trustme.CA())
    stepped = line.exporter(tls={"ca_file": str(file)})
    stepped.source.tick(100, a=1)
    stepped.run(20)
    assert line.azure.received == []
    assert "tls.ca_file" in stepped.bench.reasons[-1]
    line.relay.tls = server(ca)
    ledger = line.ends_well(stepped)
    assert line.sums() == stepped.source.truth
    assert line.numbers() == list(range(200))
    assert ledger.lost == {}


@pytest.mark.parametrize("hours", [[30], [-30], [30, -60, 30]], ids=str)
def test_a_step_of_the_wall_clock_costs_nothing(line: Line, hours: list[float]) -> None:
    stepped = line.exporter()
    stepped.source.tick(50, a=1, b=2)
    stepped.run(20)
    for step in hours:
        stepped.source.tick(50, a=10)
        stepped.run(20)
        stepped.clock.step_ns += round(step * HOUR_NS)
        stepped.source.tick(50, a=100, c=3)
        stepped.run(20)
    ledger = stepped.stop()
    assert line.sums() == stepped.source.truth
    assert line.numbers() == list(range(stepped.source.events))
    assert ledger.lost == {}


def metric_data(envelopes: Sequence[dict[str, Any]]) -> bool:
    return envelopes[0]["data"]["baseType"] == "MetricData"


def server(ca: trustme.CA) -> ssl.SSLContext:
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(made)
    return made
