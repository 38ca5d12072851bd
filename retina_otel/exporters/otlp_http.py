"""otlp_http: pushes metrics and events as OTLP over HTTP to a Collector or any OTLP backend.

Metrics go out each interval from the newest snapshot, events as they come; an export counts as
delivered only when each of its requests was accepted or refused for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from retina_otel.component import Component, ComponentKind
from retina_otel.delivery.auth.authorizer import Authorizer
from retina_otel.delivery.compression import Compression
from retina_otel.delivery.environment import DEFAULT_ENDPOINT, signal_url
from retina_otel.delivery.http.proxies import is_this_machine
from retina_otel.delivery.http.sender import HttpSender, HttpTarget, shown_url
from retina_otel.delivery.settings import (
    BaseUrl,
    HttpUrl,
    OtlpCompression,
    TlsSettings,
    check_tls_is_used,
)
from retina_otel.exporters.otlp import USER_AGENT, OtlpExporter, OtlpSettings
from retina_otel.pipeline.points import EventsReader, MetricsReader


class OtlpHttpSettings(OtlpSettings):
    """Settings of `otlp_http`. The standard OTEL_EXPORTER_OTLP_* variables count where a setting
    is not given; the variables for one signal before the general ones."""

    endpoint: BaseUrl | None = None
    """Base URL, as `http://collector:4318`; `/v1/metrics` and `/v1/logs` are added to its path.
    Not set: OTEL_EXPORTER_OTLP_ENDPOINT, else http://localhost:4318."""

    endpoints: list[BaseUrl] = Field(default_factory=list)
    """Several base URLs instead of one, the best first. A request goes to the first one that can
    take it. One that was sent and not answered may arrive twice, at two of them: cumulative values
    bear that, events and deltas are there twice."""

    metrics_endpoint: HttpUrl | None = None
    """Full URL for metrics, taken as it stands. Not set: made from `endpoint`."""

    logs_endpoint: HttpUrl | None = None
    """Full URL for events, taken as it stands. Not set: made from `endpoint`."""

    compression: OtlpCompression | None = None
    """`gzip` (level 1), `zstd` (less CPU, smaller), `none`, or `auto`: zstd, and gzip for good once
    the backend answers 400 or 415 to it. Not set: OTEL_EXPORTER_OTLP_COMPRESSION, else gzip."""

    tls: TlsSettings = Field(default_factory=TlsSettings)

    @model_validator(mode="after")
    def _encrypted_if_meant_so(self) -> OtlpHttpSettings:
        check_tls_is_used(self.tls, self.all_endpoints)
        return self


class OtlpHttpExporter(OtlpExporter[OtlpHttpSettings]):
    type = "otlp_http"
    protocol = "http/protobuf"
    port = 4318

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        if self.settings.tls.insecure_skip_verify:
            self.context.logger.warning(
                "tls.insecure_skip_verify is set: whoever is on the way can read and change all"
            )
        super().start(metrics, events)

    def endpoints(self, signal: str) -> list[str]:
        settings = self.settings
        own = settings.metrics_endpoint if signal == "metrics" else settings.logs_endpoint
        if own is not None:
            return [own]
        bases = settings.endpoints or ([settings.endpoint] if settings.endpoint else [])
        if bases:
            return [signal_url(base, signal) for base in bases]
        return [self.environment(signal).url or signal_url(DEFAULT_ENDPOINT, signal)]

    def compression(self, signal: str) -> Compression:
        return self.settings.compression or self.environment(signal).compression or Compression.GZIP

    def shown(self, endpoint: str) -> str:
        return shown_url(endpoint)

    def in_the_clear(self, signal: str, endpoint: str) -> bool:
        parts = urlsplit(endpoint)
        return parts.scheme == "http" and not is_this_machine(parts.hostname or "")

    def sender(self, signal: str, endpoint: str, authorizer: Authorizer | None) -> HttpSender:
        environment = self.environment(signal)
        target = HttpTarget(
            url=endpoint,
            headers=self.headers(signal),
            compression=self.compression(signal),
            tls=self.settings.tls.options(
                ca_file=environment.certificate,
                cert_file=environment.client_certificate,
                key_file=environment.client_key,
            ),
            proxy_url=self.settings.proxy_url.get_secret_value(),
        )
        return HttpSender(
            target, clock=self.context.clock, user_agent=USER_AGENT, authorizer=authorizer
        )


COMPONENT = Component(
    type="otlp_http",
    kind=ComponentKind.EXPORTER,
    stability="beta",
    Settings=OtlpHttpSettings,
    create=OtlpHttpExporter,
    signals=frozenset({"metrics", "logs"}),
)
