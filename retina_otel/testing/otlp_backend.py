"""What every OTLP backend for tests keeps of what came, whatever the protocol it came over.

What was answered with success counts as accepted; all else was received, and is in `received` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from retina_otel.testing.otlp_data import (
    Number,
    ReceivedPoint,
    ReceivedRecord,
    points_of,
    records_of,
)
from retina_otel.testing.otlp_validation import CUMULATIVE, validate
from retina_otel.testing.scripted_backend import ScriptedBackend

Message = ExportMetricsServiceRequest | ExportLogsServiceRequest
Series = tuple[str, frozenset[tuple[str, Any]]]
A = TypeVar("A")
"""What a protocol's backend can be told to answer."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came. `message` is None where it could not be decoded, or was cut."""

    time_ns: int
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    wire_bytes: int
    body_bytes: int
    """After decompression."""
    message: Message | None
    answer: Any
    accepted: bool


def series(metric: str, **attributes: Any) -> Series:
    """A key of `final_sums` and `totals`; underscores in names stand for dots."""
    return metric, frozenset((key.replace("_", "."), value) for key, value in attributes.items())


class OtlpBackend(ScriptedBackend[A, Received]):
    """Keeps, decodes and judges; how requests come in is a subclass's."""

    def __init__(self, always: A) -> None:
        super().__init__(always)
        self._undecodable: list[str] = []

    @property
    def metric_requests(self) -> list[ExportMetricsServiceRequest]:
        """Accepted requests of metrics."""
        messages = [one.message for one in self.received if one.accepted]
        return [m for m in messages if isinstance(m, ExportMetricsServiceRequest)]

    @property
    def log_requests(self) -> list[ExportLogsServiceRequest]:
        """Accepted requests of logs."""
        messages = [one.message for one in self.received if one.accepted]
        return [m for m in messages if isinstance(m, ExportLogsServiceRequest)]

    def points(self, metric: str | None = None) -> list[ReceivedPoint]:
        """Accepted points, of one metric or of all."""
        every = points_of(self.metric_requests)
        return [point for point in every if metric in (None, point.metric)]

    def records(self, event: str | None = None) -> list[ReceivedRecord]:
        """Accepted log records, of one event name or of all."""
        every = records_of(self.log_requests)
        return [record for record in every if event in (None, record.event)]

    def final_sums(self) -> dict[Series, Number]:
        """The last value of each series of a sum or gauge, by time."""
        newest: dict[Series, ReceivedPoint] = {}
        for point in self.points():
            if isinstance(point.value, (int, float)):
                known = newest.get(point.series)
                if known is None or known.time_ns <= point.time_ns:
                    newest[point.series] = point
        return {key: p.value for key, p in newest.items() if isinstance(p.value, (int, float))}

    def totals(self) -> dict[Series, Number]:
        """All that each series of a sum ever added up to, over its starts, cumulative or delta."""
        parts: dict[tuple[Series, int, int], ReceivedPoint] = {}
        for point in self.points():
            if point.kind == "sum" and point.value is not None:
                moment = 0 if point.temporality == CUMULATIVE else point.time_ns
                key = (point.series, point.start_ns, moment)
                known = parts.get(key)
                if known is None or known.time_ns <= point.time_ns:
                    parts[key] = point
        out: dict[Series, Number] = {}
        for (name, _, _), point in parts.items():
            assert isinstance(point.value, (int, float))
            out[name] = out.get(name, 0) + point.value
        return out

    def faults(self, *, zero_first: bool = True, answers_lost: bool = False) -> list[str]:
        """What is wrong with all that was accepted (see `validate`), or could not be decoded."""
        found = validate(
            self.metric_requests,
            self.log_requests,
            zero_first=zero_first,
            answers_lost=answers_lost,
        )
        with self._changed:
            return self._undecodable + found

    def keep(self, received: Received, fault: str = "") -> None:
        if fault:
            with self._changed:
                self._undecodable.append(fault)
        super().keep(received)


def response_to(
    message: Message, rejected: int, said: str
) -> ExportMetricsServiceResponse | ExportLogsServiceResponse:
    if not rejected and not said:
        if isinstance(message, ExportMetricsServiceRequest):
            return ExportMetricsServiceResponse()
        return ExportLogsServiceResponse()
    if isinstance(message, ExportMetricsServiceRequest):
        return ExportMetricsServiceResponse(
            partial_success=ExportMetricsPartialSuccess(
                rejected_data_points=rejected, error_message=said
            )
        )
    return ExportLogsServiceResponse(
        partial_success=ExportLogsPartialSuccess(rejected_log_records=rejected, error_message=said)
    )
