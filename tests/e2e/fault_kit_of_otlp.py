"""Both OTLP exporters, each with a backend of its protocol, for the tests of faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from retina_otel.component import Context, Exporter
from retina_otel.exporters.otlp_grpc import OtlpGrpcExporter, OtlpGrpcSettings
from retina_otel.exporters.otlp_http import OtlpHttpExporter, OtlpHttpSettings
from retina_otel.testing.exporters import METRIC, NUMBER, WHO
from retina_otel.testing.otlp import Answer, OtlpSink
from retina_otel.testing.otlp_backend import Received
from retina_otel.testing.otlp_grpc import OtlpGrpcSink, Status
from tests.e2e.fault_kit import OTLP_HTTP_VERDICTS, Kit, Verdict

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
_VERDICTS_OF_OTLP_GRPC = {**OTLP_HTTP_VERDICTS, 429: Verdict.REFUSED}
"""RESOURCE_EXHAUSTED may be sent again only where the backend says when."""
_WITH_WAIT_OF_OTLP_GRPC = OTLP_HTTP_VERDICTS


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
    verdicts = OTLP_HTTP_VERDICTS
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
