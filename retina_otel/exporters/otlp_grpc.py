"""otlp_grpc: pushes metrics and events as OTLP over gRPC to a Collector or any OTLP backend.

The same requests as over HTTP, the bytes as our encoders make them; an export counts as delivered
only when each of its requests was accepted or refused for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from retina_otel.component import Component, ComponentKind
from retina_otel.delivery.auth.authorizer import Authorizer
from retina_otel.delivery.compression import Compression
from retina_otel.delivery.grpc.endpoint import GrpcCompression, GrpcEndpoint
from retina_otel.delivery.http.proxies import is_this_machine
from retina_otel.delivery.settings import (
    GrpcAddress,
    GrpcTlsSettings,
    KeepaliveSettings,
    check_tls_is_used,
)
from retina_otel.errors import ConfigError
from retina_otel.exporters.otlp import USER_AGENT, OtlpExporter, OtlpSettings

if TYPE_CHECKING:
    from retina_otel.delivery.grpc.sender import GrpcSender

DEFAULT_ENDPOINT = "http://localhost:4317"


class OtlpGrpcSettings(OtlpSettings):
    """Settings of `otlp_grpc`. The standard OTEL_EXPORTER_OTLP_* variables count where a setting
    is not given; the variables for one signal before the general ones."""

    endpoint: GrpcAddress | None = None
    """`host:4317` and `https://host:4317` with TLS, `http://host:4317` without, or a unix socket as
    `unix:///run/collector.sock`. Not set: OTEL_EXPORTER_OTLP_ENDPOINT, else http://localhost:4317.
    """

    endpoints: list[GrpcAddress] = Field(default_factory=list)
    """Several endpoints instead of one, the best first. A request goes to the first one that can
    take it. One that was sent and not answered may arrive twice, at two of them: cumulative values
    bear that, events and deltas are there twice."""

    metrics_endpoint: GrpcAddress | None = None
    """Endpoint for metrics alone. Not set: `endpoint`."""

    logs_endpoint: GrpcAddress | None = None
    """Endpoint for events alone. Not set: `endpoint`."""

    compression: GrpcCompression | None = None
    """`gzip` or `none`; gRPC knows no others. Not set: OTEL_EXPORTER_OTLP_COMPRESSION, else gzip.
    """

    tls: GrpcTlsSettings = Field(default_factory=GrpcTlsSettings)

    keepalive: KeepaliveSettings | None = None
    """Not set: no pings; a request ends at its timeout all the same."""

    @model_validator(mode="after")
    def _nothing_that_signs(self) -> OtlpGrpcSettings:
        if "sigv4" in self.auth.model_fields_set:
            raise ValueError("auth.sigv4 signs requests of HTTP, not of gRPC: use otlp_http")
        check_tls_is_used(self.tls, self.all_endpoints)
        return self


class OtlpGrpcExporter(OtlpExporter[OtlpGrpcSettings]):
    type = "otlp_grpc"
    protocol = "grpc"
    port = 4317

    def endpoints(self, signal: str) -> list[str]:
        settings = self.settings
        own = settings.metrics_endpoint if signal == "metrics" else settings.logs_endpoint
        if own is not None:
            return [own]
        if settings.endpoints:
            return list(settings.endpoints)
        return [settings.endpoint or self.environment(signal).endpoint[1] or DEFAULT_ENDPOINT]

    def compression(self, signal: str) -> Compression:
        """Requests are packed without any: gRPC compresses when it sends."""
        return Compression.NONE

    def shown(self, endpoint: str) -> str:
        return endpoint

    def in_the_clear(self, signal: str, endpoint: str) -> bool:
        parsed = GrpcEndpoint.parse(endpoint, insecure=self._insecure(signal))
        return not parsed.tls and not is_this_machine(parsed.host)

    def sender(self, signal: str, endpoint: str, authorizer: Authorizer | None) -> GrpcSender:
        # Imported when one is made: grpc costs memory that agents without it need not pay.
        from retina_otel.delivery.grpc.sender import (
            LOGS_METHOD,
            METRICS_METHOD,
            GrpcSender,
            GrpcTarget,
        )

        settings, environment = self.settings, self.environment(signal)
        target = GrpcTarget(
            endpoint=endpoint,
            method=METRICS_METHOD if signal == "metrics" else LOGS_METHOD,
            headers=self.headers(signal),
            compression=settings.compression or self._compression_of_environment(signal),
            tls=settings.tls.options(
                ca_file=environment.certificate,
                cert_file=environment.client_certificate,
                key_file=environment.client_key,
            ),
            insecure=self._insecure(signal),
            keepalive=settings.keepalive.keepalive() if settings.keepalive else None,
            proxy_url=settings.proxy_url.get_secret_value(),
        )
        return GrpcSender(target, user_agent=USER_AGENT, authorizer=authorizer)

    def _insecure(self, signal: str) -> bool:
        own = self.settings.tls.insecure
        return self.environment(signal).insecure if own is None else own

    def _compression_of_environment(self, signal: str) -> GrpcCompression:
        asked = self.environment(signal).compression or Compression.GZIP
        try:
            return GrpcCompression(asked.value)
        except ValueError:
            raise ConfigError(
                f"OTEL_EXPORTER_OTLP_COMPRESSION asks for {asked.value}, which gRPC does not know",
                "Set compression of otlp_grpc to gzip or none",
            ) from None


COMPONENT = Component(
    type="otlp_grpc",
    kind=ComponentKind.EXPORTER,
    stability="beta",
    Settings=OtlpGrpcSettings,
    create=OtlpGrpcExporter,
    signals=frozenset({"metrics", "logs"}),
)
