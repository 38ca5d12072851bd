"""azure_monitor with an ingestion endpoint, for the tests of faults."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from retina_otel.component import Context, Exporter
from retina_otel.exporters.azure_monitor import AzureMonitorExporter, AzureMonitorSettings
from retina_otel.testing.application_insights import KEY, ApplicationInsights
from retina_otel.testing.application_insights import Answer as Ingested
from retina_otel.testing.application_insights import Received as Track
from retina_otel.testing.exporters import METRIC, NUMBER, WHO
from tests.e2e.fault_kit import REMOTE_WRITE_VERDICTS, Kit, Verdict

_VERDICTS_OF_AZURE = {
    **REMOTE_WRITE_VERDICTS,
    401: Verdict.RETRIED,
    403: Verdict.RETRIED,
}
"""A role that is missing, or a token that has expired, comes back."""


class AzureMonitorKit(Kit):
    name = "azure_monitor"
    has_events = True
    cumulative = False
    bearer = False
    partly = "partial_success"
    verdicts = _VERDICTS_OF_AZURE
    verdicts_with_wait = _VERDICTS_OF_AZURE

    def __init__(self) -> None:
        self.azure = ApplicationInsights()
        self.port = self.azure.port

    @classmethod
    def make(
        cls, port: int, scheme: str = "http", **settings: Any
    ) -> Callable[[Context], Exporter]:
        endpoint = f"{scheme}://127.0.0.1:{port}/"
        chosen = AzureMonitorSettings.model_validate(
            {"connection_string": f"InstrumentationKey={KEY};IngestionEndpoint={endpoint}"}
            | settings
        )
        return lambda context: AzureMonitorExporter(chosen, context, {})

    def fail(self, status: int, retry_after_s: float | None = None) -> None:
        wait = "" if retry_after_s is None else f"{retry_after_s:.0f}"
        self.azure.always(Ingested(status, retry_after=wait))

    def reject(self, n: int) -> None:
        self.azure.script(Ingested(206, errors=dict.fromkeys(range(n), 400)))

    def delay(self, seconds: float) -> None:
        over = threading.Event()
        threading.Timer(seconds, over.set).start()
        self.azure.always(Ingested(wait=over))

    def work(self) -> None:
        self.azure.always(Ingested())

    def wait_for(self, condition: Callable[[], object]) -> None:
        self.azure.wait_for(condition, 20)

    def close(self) -> None:
        self.azure.close()

    def sums(self) -> dict[str, int]:
        totals = self.azure.sums(METRIC.name).items()
        return {dict(pairs)[WHO.name]: int(total) for pairs, total in totals}

    def numbers(self) -> list[int]:
        return [int(event[NUMBER.name]) for event in self.azure.events()]

    def items(self, unit: str, *, accepted: bool) -> int:
        return sum(
            len(request.envelopes)
            for request in self._requests(unit)
            if (request.answer.status in {200, 206}) is accepted
        )

    def requests(self, unit: str, *, accepted: bool) -> int:
        return sum(
            (request.answer.status in {200, 206}) is accepted for request in self._requests(unit)
        )

    def faults(self, *, zero_first: bool = True) -> list[str]:
        return self.azure.faults()

    def authorizations(self) -> list[str | None]:
        return [request.headers.get("authorization") for request in self.azure.received]

    def _requests(self, unit: str) -> list[Track]:
        kind = "MetricData" if unit == "points" else "EventData"
        return [
            request
            for request in self.azure.received
            if request.envelopes[0]["data"]["baseType"] == kind
        ]
