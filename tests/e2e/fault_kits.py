"""Each push exporter with a backend of its protocol, in the same words, for the tests of faults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from retina_otel.component import Context, Exporter
from retina_otel.exporters.otlp_grpc import OtlpGrpcExporter, OtlpGrpcSettings
from retina_otel.exporters.otlp_http import OtlpHttpExporter, OtlpHttpSettings
from retina_otel.testing.exporters import METRIC, NUMBER, WHO
from retina_otel.testing.otlp import Answer, OtlpSink
from retina_otel.testing.otlp_backend import Received
from retina_otel.testing.otlp_grpc import OtlpGrpcSink, Status


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


class Kit(ABC):
    """One exporter, and a real backend for it on loopback that keeps its own tally."""

    name: str
    verdicts: Mapping[int, Verdict]
    """By HTTP status, or what stands for it in another protocol, without a word on when to come
    again."""
    verdicts_with_wait: Mapping[int, Verdict]
    """The same, where the backend says when to come again."""
    has_events: bool
    sends_zero_points = True

    port: int

    @staticmethod
    @abstractmethod
    def make(port: int, scheme: str = "http", **settings: Any) -> Callable[[Context], Exporter]:
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

    @staticmethod
    def make(port: int, scheme: str = "http", **settings: Any) -> Callable[[Context], Exporter]:
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

    @staticmethod
    def make(port: int, scheme: str = "http", **settings: Any) -> Callable[[Context], Exporter]:
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


KITS: dict[str, type[Kit]] = {kit.name: kit for kit in (OtlpHttpKit, OtlpGrpcKit)}
WITH_EVENTS = [name for name, kit in KITS.items() if kit.has_events]
