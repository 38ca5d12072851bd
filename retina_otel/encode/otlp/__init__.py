"""OTLP over protobuf: the encoders that exporters use."""

from retina_otel.encode.otlp.logs import LogsEncoder
from retina_otel.encode.otlp.metrics import MetricsEncoder
from retina_otel.encode.requests import MAX_BYTES, Request

__all__ = ["MAX_BYTES", "LogsEncoder", "MetricsEncoder", "Request"]
