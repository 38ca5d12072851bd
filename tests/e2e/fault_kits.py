"""Each push exporter with a backend of its protocol, in the same words, for the tests of faults."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from retina_otel.component import Context, Exporter
from retina_otel.exporters.azure_monitor import AzureMonitorExporter, AzureMonitorSettings
from retina_otel.exporters.otlp_grpc import OtlpGrpcExporter, OtlpGrpcSettings
from retina_otel.exporters.otlp_http import OtlpHttpExporter, OtlpHttpSettings
from retina_otel.exporters.prometheus_remote_write import (
    PrometheusRemoteWriteExporter,
    PrometheusRemoteWriteSettings,
)
from retina_otel.testing.application_insights import KEY, ApplicationInsights
from retina_otel.testing.application_insights import Answer as Ingested
from retina_otel.testing.application_insights import Received as Track
from retina_otel.testing.exporters import METRIC, NUMBER, WHO
from retina_otel.testing.otlp import Answer, OtlpSink
from retina_otel.testing.otlp_backend import Received
from retina_otel.testing.otlp_grpc import OtlpGrpcSink, Status
from retina_otel.testing.remote_write import NotRemoteWrite, Sample, WriteRequest, check_order
from tests.e2e.remote_write_sink import Came, RemoteWriteSink, Reply


class Verdict(Enum):
    """What becomes of a request."""

    RETRIED = "retried"
    REFUSED = "refused"
    TOO_LARGE = "too_large"


_VERDICTS_OF_OTLP_HTTP = {
    400: Verdict.REFUSED,
    401: Verdict.REFUSED,
    403: Verdict.REFUSED,
    404: Verdict.REFUSED,
    413: Verdict.TOO_LARGE,
    429: Verdict.RETRIED,
    500: Verdict.REFUSED,
    502: Verdict.RETRIED,
    503: Verdict.RETRIED,
    504: Verdict.RETRIED,
}

_CODES = {
    400: ("INVALID_ARGUMENT", ""),
    401: ("UNAUTHENTICATED", ""),
    403: ("PERMISSION_DENIED", ""),
    404: ("UNIMPLEMENTED", ""),
    413: ("RESOURCE_EXHAUSTED", "grpc: received message larger than max (9 vs. 8)"),
    429: ("RESOURCE_EXHAUSTED", ""),
    500: ("INTERNAL", ""),
    502: ("ABORTED", ""),
    503: ("UNAVAILABLE", "overloaded"),
    504: ("DATA_LOSS", ""),
}
"""What stands for an HTTP status among gRPC's codes, with details where they matter."""

_VERDICTS_OF_OTLP_GRPC = {**_VERDICTS_OF_OTLP_HTTP, 429: Verdict.REFUSED}
"""RESOURCE_EXHAUSTED may be sent again only where the backend says when."""
_WITH_WAIT_OF_OTLP_GRPC = _VERDICTS_OF_OTLP_HTTP


_VERDICTS_OF_REMOTE_WRITE = {**_VERDICTS_OF_OTLP_HTTP, 500: Verdict.RETRIED}
"""Here each 5xx may be sent again."""


_VERDICTS_OF_AZURE = {
    **_VERDICTS_OF_REMOTE_WRITE,
    401: Verdict.RETRIED,
    403: Verdict.RETRIED,
}
"""A role that is missing, or a token that has expired, comes back."""


class Kit(ABC):
    """One exporter, and a real backend for it on loopback that keeps its own tally."""

    name: str
    verdicts: Mapping[int, Verdict]
    """By HTTP status, or what stands for it in another protocol, without a word on when to come
    again."""
    verdicts_with_wait: Mapping[int, Verdict]
    """The same, where the backend says when to come again."""
    has_events: bool
    cumulative = True
    """Otherwise it sends deltas, which the backend adds up."""
    bearer = True
    """It has `auth.bearer`."""
    partly: str = ""
    """The reason that is counted for a request that is taken in part; "" if there is no such."""
    port: int

    @classmethod
    @abstractmethod
    def make(
        cls, port: int, scheme: str = "http", **settings: Any
    ) -> Callable[[Context], Exporter]:
        """What makes the exporter, for a backend at a port of loopback."""

    @abstractmethod
    def fail(self, status: int, retry_after_s: float | None = None) -> None:
        """From now on each request is answered so."""

    @abstractmethod
    def reject(self, n: int) -> None:
        """The next request is taken, but for n of its items."""

    @abstractmethod
    def delay(self, seconds: float) -> None:
        """From now on each request is taken after so long."""

    @abstractmethod
    def work(self) -> None:
        """From now on each request is taken."""

    @abstractmethod
    def wait_for(self, condition: Callable[[], object]) -> None:
        """Returns when it holds; asked after each request."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def sums(self) -> dict[str, int]:
        """The last value of each series, by its name."""

    @abstractmethod
    def numbers(self) -> list[int]:
        """The events that came, in their order."""

    @abstractmethod
    def items(self, unit: str, *, accepted: bool) -> int:
        """Points or events in all requests that were taken, or in those that were not."""

    @abstractmethod
    def requests(self, unit: str, *, accepted: bool) -> int: ...

    @abstractmethod
    def faults(self, *, zero_first: bool = True) -> list[str]:
        """What is wrong with what came, by the protocol's own rules."""

    @abstractmethod
    def authorizations(self) -> list[str | None]:
        """The Authorization of each request."""


class OtlpKit(Kit):
    """What both of OTLP's protocols have in common."""

    has_events = True
    partly = "partial_success"
    sink: OtlpSink | OtlpGrpcSink

    def wait_for(self, condition: Callable[[], object]) -> None:
        self.sink.wait_for(condition, 20)

    def close(self) -> None:
        self.sink.close()

    def sums(self) -> dict[str, int]:
        return {
            str(dict(attributes)[WHO.name]): int(value)
            for (name, attributes), value in self.sink.final_sums().items()
            if name == METRIC.name
        }

    def numbers(self) -> list[int]:
        return [record.attributes[NUMBER.name] for record in self.sink.records()]

    def items(self, unit: str, *, accepted: bool) -> int:
        return sum(_count(one.message) for one in self._requests(unit) if one.accepted is accepted)

    def requests(self, unit: str, *, accepted: bool) -> int:
        return sum(one.accepted is accepted for one in self._requests(unit))

    def faults(self, *, zero_first: bool = True) -> list[str]:
        return self.sink.faults(zero_first=zero_first)

    def authorizations(self) -> list[str | None]:
        return [one.headers.get("authorization") for one in self.sink.received]

    def _requests(self, unit: str) -> list[Received]:
        kind = "Metrics" if unit == "points" else "Logs"
        return [one for one in self.sink.received if kind in type(one.message).__name__]


class OtlpHttpKit(OtlpKit):
    sink: OtlpSink
    name = "otlp_http"
    verdicts = _VERDICTS_OF_OTLP_HTTP
    verdicts_with_wait = verdicts

    def __init__(self) -> None:
        self.sink = OtlpSink()
        self.port = self.sink.port

    @classmethod
    def make(
        cls, port: int, scheme: str = "http", **settings: Any
    ) -> Callable[[Context], Exporter]:
        chosen = OtlpHttpSettings.model_validate(
            {"endpoint": f"{scheme}://127.0.0.1:{port}", "compression": "none", **settings}
        )
        return lambda context: OtlpHttpExporter(chosen, context, {})

    def fail(self, status: int, retry_after_s: float | None = None) -> None:
        self.sink.always(Answer(status, retry_after_s=retry_after_s))

    def reject(self, n: int) -> None:
        self.sink.script(Answer(rejected=n, message="too old"))

    def delay(self, seconds: float) -> None:
        self.sink.always(Answer(delay_s=seconds))

    def work(self) -> None:
        self.sink.always(Answer())


class OtlpGrpcKit(OtlpKit):
    sink: OtlpGrpcSink
    name = "otlp_grpc"
    verdicts = _VERDICTS_OF_OTLP_GRPC
    verdicts_with_wait = _WITH_WAIT_OF_OTLP_GRPC

    def __init__(self) -> None:
        self.sink = OtlpGrpcSink()
        self.port = self.sink.port

    @classmethod
    def make(
        cls, port: int, scheme: str = "http", **settings: Any
    ) -> Callable[[Context], Exporter]:
        chosen = OtlpGrpcSettings.model_validate(
            {"endpoint": f"{scheme}://127.0.0.1:{port}", "compression": "none", **settings}
        )
        return lambda context: OtlpGrpcExporter(chosen, context, {})

    def fail(self, status: int, retry_after_s: float | None = None) -> None:
        code, details = _CODES[status]
        self.sink.always(Status(code, details, retry_delay_s=retry_after_s))

    def reject(self, n: int) -> None:
        self.sink.script(Status(rejected=n, message="too old"))

    def delay(self, seconds: float) -> None:
        self.sink.always(Status(delay_s=seconds))

    def work(self) -> None:
        self.sink.always(Status())


class RemoteWriteKit(Kit):
    name = "prometheus_remote_write"
    has_events = False
    verdicts = _VERDICTS_OF_REMOTE_WRITE
    verdicts_with_wait = _VERDICTS_OF_REMOTE_WRITE
    protocol = "1.0"

    def __init__(self) -> None:
        self.sink = RemoteWriteSink()
        self.port = self.sink.port

    @classmethod
    def make(
        cls, port: int, scheme: str = "http", **settings: Any
    ) -> Callable[[Context], Exporter]:
        settings.pop("events_interval", None)
        endpoint = f"{scheme}://127.0.0.1:{port}/api/v1/write"
        chosen = PrometheusRemoteWriteSettings.model_validate(
            {"endpoint": endpoint, "protocol": cls.protocol, **settings}
        )
        return lambda context: PrometheusRemoteWriteExporter(chosen, context)

    def fail(self, status: int, retry_after_s: float | None = None) -> None:
        self.sink.always = Reply(status, retry_after_s)

    def reject(self, n: int) -> None:
        self.sink.script.append(Reply(400, not_written=n))

    def delay(self, seconds: float) -> None:
        self.sink.always = Reply(delay_s=seconds)

    def work(self) -> None:
        self.sink.always = Reply()

    def wait_for(self, condition: Callable[[], object]) -> None:
        self.sink.wait_for(condition)

    def close(self) -> None:
        self.sink.close()

    def sums(self) -> dict[str, int]:
        newest: dict[str, Sample] = {}
        for request in self._taken():
            for series in request.series:
                labels = dict(series.labels)
                if labels["__name__"] == "test_packets_total":
                    newest[labels["test_who"]] = series.samples[-1]
        return {who: int(sample.value) for who, sample in newest.items()}

    def numbers(self) -> list[int]:
        return []

    def items(self, unit: str, *, accepted: bool) -> int:
        if unit == "events":
            return 0
        return sum(
            len(series.samples)
            for request in self._settled()
            if request.taken is accepted
            for series in request.message.series
            if series.name != "target_info"
        )

    def requests(self, unit: str, *, accepted: bool) -> int:
        if unit == "events":
            return 0
        return sum(request.taken is accepted for request in self.sink.requests)

    def faults(self, *, zero_first: bool = True) -> list[str]:
        try:
            check_order(self._taken())
        except NotRemoteWrite as error:
            return [*self.sink.faults, str(error)]
        return self.sink.faults

    def authorizations(self) -> list[str | None]:
        return [request.authorization for request in self.sink.requests]

    def _settled(self) -> list[Came]:
        """Without second tries: a request of 1.0 that gets a 400 is sent again without the zeros at
        the start of series, which may be what was wrong with it."""
        settled: list[Came] = []
        for request in self.sink.requests:
            before = settled[-1] if settled else None
            if before and before.status == 400 and _samples(request) < _samples(before):
                if not request.taken:
                    continue
                settled.pop()
            settled.append(request)
        return settled

    def _taken(self) -> list[WriteRequest]:
        """What came twice, because an answer was lost, counts once: a receiver ignores that."""
        taken = [request.message for request in self.sink.requests if request.taken]
        return list({request.series: request for request in taken}.values())


class RemoteWrite2Kit(RemoteWriteKit):
    name = "prometheus_remote_write-2"
    partly = "partial_write"
    protocol = "2.0"


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


def _samples(request: Came) -> set[Any]:
    return {
        (series.labels, sample) for series in request.message.series for sample in series.samples
    }


def _count(request: Any) -> int:
    if hasattr(request, "resource_metrics"):
        return sum(
            len(metric.sum.data_points)
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        )
    return sum(
        len(scope.log_records)
        for resource in request.resource_logs
        for scope in resource.scope_logs
    )


KITS: dict[str, type[Kit]] = {
    kit.name: kit
    for kit in (OtlpHttpKit, OtlpGrpcKit, RemoteWriteKit, RemoteWrite2Kit, AzureMonitorKit)
}
WITH_BEARER = [name for name, kit in KITS.items() if kit.bearer]
TAKING_PARTS = [name for name, kit in KITS.items() if kit.partly]
WITH_EVENTS = [name for name, kit in KITS.items() if kit.has_events]
