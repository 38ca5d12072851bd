"""Both OTLP exporters in the same words: each with its sink, and what the sink may answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from retina_otel.exporters.otlp_grpc import OtlpGrpcExporter, OtlpGrpcSettings
from retina_otel.exporters.otlp_http import OtlpHttpExporter, OtlpHttpSettings
from retina_otel.testing.exporters import NUMBER, Bench, Source
from retina_otel.testing.otlp import Answer, OtlpSink
from retina_otel.testing.otlp_backend import OtlpBackend
from retina_otel.testing.otlp_grpc import OtlpGrpcSink, Status
from tests.unit.exporters.started_exporter import FAST, StartedExporter


@dataclass(frozen=True)
class Protocol:
    """One exporter, its sink, and answers of the sink."""

    name: str
    settings: Any
    exporter: Any
    sink: Any
    fine: Any
    away: Any
    too_large: Any
    partly: Any
    """3 items are said to be rejected."""

    def make(self, variables: Mapping[str, str] | None = None, **settings: Any) -> Any:
        """The exporter, not started."""
        chosen = self.settings.model_validate(settings)
        return self.exporter(chosen, Bench().context(), variables or {})

    def start(self, source: Source | None = None, **settings: Any) -> StartedExporter:
        chosen = self.settings.model_validate({**FAST, **settings})
        return StartedExporter(
            lambda context: self.exporter(chosen, context, {}), Bench(id=self.name), source
        )

    def at_port(self, port: int) -> Any:
        """A sink where one was before."""
        return self.sink(port=port) if self is HTTP else self.sink(f"127.0.0.1:{port}")


HTTP = Protocol(
    name="otlp_http",
    settings=OtlpHttpSettings,
    exporter=OtlpHttpExporter,
    sink=OtlpSink,
    fine=Answer(),
    away=Answer(503),
    too_large=Answer(413),
    partly=Answer(rejected=3, message="too old"),
)
GRPC = Protocol(
    name="otlp_grpc",
    settings=OtlpGrpcSettings,
    exporter=OtlpGrpcExporter,
    sink=OtlpGrpcSink,
    fine=Status(),
    away=Status("UNAVAILABLE"),
    too_large=Status("RESOURCE_EXHAUSTED", "grpc: received message larger than max (5 vs. 4)"),
    partly=Status(rejected=3, message="too old"),
)

BOTH = pytest.mark.parametrize("protocol", [HTTP, GRPC], ids=lambda one: one.name)


def numbers(sink: OtlpBackend[Any]) -> list[int]:
    """Of the events that came, in their order."""
    return [int(record.attributes[NUMBER.name]) for record in sink.records()]
