"""azure_monitor on a source of known amounts, and what Application Insights must have of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from retina_otel.exporters.azure_monitor import AzureMonitorExporter, AzureMonitorSettings
from retina_otel.testing.application_insights import ApplicationInsights
from retina_otel.testing.exporters import METRIC, Bench
from tests.unit.exporters.started_exporter import FAST, StartedExporter, stopped_in_the_end

RESOURCE: dict[str, str | int | bool] = {
    "service.name": "retina-otel",
    "k8s.node.name": "node-1",
    "k8s.cluster.name": "prod",
}


class Running(StartedExporter):
    """The exporter with its source, started."""

    def __init__(self, connection_string: str, **settings: Any) -> None:
        chosen = AzureMonitorSettings.model_validate(
            {"connection_string": connection_string, **FAST, **settings}
        )
        super().__init__(
            lambda context: AzureMonitorExporter(chosen, context, {}),
            Bench(id="azure_monitor", resource=dict(RESOURCE)),
        )

    @property
    def truth(self) -> dict[Any, int]:
        """What the endpoint's sums must be."""
        return {
            frozenset({**RESOURCE, "test.who": who}.items()): total
            for who, total in self.source.truth.items()
        }


@contextmanager
def running_towards(azure: ApplicationInsights) -> Iterator[Callable[..., Running]]:
    """Yields what starts exporters to it, each of which ends with the `with` block."""

    def start(**settings: Any) -> Running:
        return Running(azure.connection_string, **settings)

    with stopped_in_the_end(start) as run:
        yield run


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


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
