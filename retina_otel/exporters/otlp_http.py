"""otlp_http: pushes metrics and events as OTLP over HTTP to a Collector or any OTLP backend.

Metrics go out each interval from the newest snapshot, events as they come; an export counts as
delivered only when each of its requests was accepted or refused for good.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence

from pydantic import Field, SecretStr

from retina_otel import __version__
from retina_otel.component import (
    ByteSize,
    Component,
    ComponentKind,
    Context,
    PositiveDuration,
    Settings,
)
from retina_otel.delivery.compression import Compression
from retina_otel.delivery.environment import (
    DEFAULT_ENDPOINT,
    OtlpEnvironment,
    milliseconds,
    signal_url,
)
from retina_otel.delivery.http import HttpSender, HttpTarget
from retina_otel.delivery.otlp_wire import LOGS, METRICS
from retina_otel.delivery.push import EventsRoute, MetricsRoute, Push
from retina_otel.delivery.settings import HttpUrl, OtlpCompression, RetrySettings, TlsSettings
from retina_otel.delivery.spool_settings import SpoolSettings
from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.errors import ConfigError
from retina_otel.pipeline.points import EventsReader, MetricsReader, ResourceModel, Temporality

_DEFAULT_INTERVAL_S = 15.0
_DEFAULT_TIMEOUT_S = 10.0


class OtlpHttpSettings(Settings):
    """Settings of `otlp_http`. The standard OTEL_EXPORTER_OTLP_* variables count where a setting
    is not given; the variables for one signal before the general ones."""

    endpoint: HttpUrl | None = None
    """Base URL, as `http://collector:4318`; `/v1/metrics` and `/v1/logs` are added to its path.
    Not set: OTEL_EXPORTER_OTLP_ENDPOINT, else http://localhost:4318."""

    metrics_endpoint: HttpUrl | None = None
    """Full URL for metrics, taken as it stands. Not set: made from `endpoint`."""

    logs_endpoint: HttpUrl | None = None
    """Full URL for events, taken as it stands. Not set: made from `endpoint`."""

    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Headers of each request, as for authentication. Never logged. They are added to those of
    OTEL_EXPORTER_OTLP_HEADERS and win over them."""

    compression: OtlpCompression | None = None
    """`gzip` (level 1), `zstd` (less CPU, smaller), `none`, or `auto`: zstd, and gzip for good once
    the backend answers 400 or 415 to it. Not set: OTEL_EXPORTER_OTLP_COMPRESSION, else gzip."""

    timeout: PositiveDuration | None = None
    """Time for one request. Not set: OTEL_EXPORTER_OTLP_TIMEOUT (milliseconds), else 10s."""

    interval: PositiveDuration | None = None
    """Time between two exports of metrics; the first begins at a random moment of it, so that the
    nodes of a cluster do not push at once. Not set: OTEL_METRIC_EXPORT_INTERVAL (milliseconds),
    else 15s."""

    events_interval: PositiveDuration = Field(default="1s", validate_default=True)
    """Longest time that an event waits before it is sent."""

    temporality: Temporality | None = None
    """`cumulative` (an outage loses no counts) or `delta` (for backends that want it; sent at least
    once). Not set: OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, else cumulative."""

    resource_model: ResourceModel = ResourceModel.FLAT
    """Where the pod of a metric with one end stands, as an interface's: `flat`, on the point, as
    the ends of all else; `entity`, in a resource of its own (`k8s.pod.uid`, name, namespace, owner,
    and of the agent's resource what says which cluster, node and cloud). Metrics with two ends
    stay under the agent's resource. With `entity` one-ended metrics have `k8s.pod.uid` in all
    exporters of the pipeline."""

    entity_refs: bool = False
    """Resources say which entities they stand for (`entity_refs`, which OTLP has in
    development)."""

    max_request_bytes: ByteSize = Field(default="4092KiB", validate_default=True, ge=4096)
    """Largest request before compression; an export is cut into as many as it needs. The default
    stays below the 4 MiB of gRPC servers that may follow. Halved, and kept, when the backend
    answers 413."""

    retry_on_failure: RetrySettings = Field(default_factory=RetrySettings)

    tls: TlsSettings = Field(default_factory=TlsSettings)

    spool: SpoolSettings | None = None
    """Where events wait for the backend. Not set: in memory, in the buffer of their pipeline."""


class OtlpHttpExporter:
    """One destination, with a connection for each signal."""

    def __init__(
        self,
        settings: OtlpHttpSettings,
        context: Context,
        variables: Mapping[str, str] = os.environ,
    ) -> None:
        """Raises ConfigError if settings or variables make no sense, or TLS files can't be read."""
        self._settings = settings
        self._context = context
        self._variables = variables
        self.temporality = _temporality(settings, variables)
        """What readers of metrics must be made with."""
        self.interval_s = (
            settings.interval
            or milliseconds(*_variable(variables, "OTEL_METRIC_EXPORT_INTERVAL"))
            or _DEFAULT_INTERVAL_S
        )
        self._senders = {signal: self._sender(signal) for signal in ("metrics", "logs")}
        self._push = Push(
            context,
            settings.retry_on_failure.policy(),
            MetricsRoute(
                encode=lambda: (
                    MetricsEncoder(
                        context.resource,
                        resource_model=settings.resource_model,
                        entity_refs=settings.entity_refs,
                    ).requests
                ),
                sender=self._senders["metrics"],
                split=METRICS.split,
                interval_s=self.interval_s,
                timeout_s=self._timeout_s("metrics"),
                max_bytes=settings.max_request_bytes,
                temporality=self.temporality,
                shared=self._shared("metrics", settings.resource_model),
            ),
            EventsRoute(
                encode=lambda: (
                    LogsEncoder(context.resource, entity_refs=settings.entity_refs).requests
                ),
                sender=self._senders["logs"],
                split=LOGS.split,
                interval_s=settings.events_interval,
                timeout_s=self._timeout_s("logs"),
                max_bytes=settings.max_request_bytes,
                shared=self._shared("logs"),
            ),
            spool=settings.spool.place("otlp-logs") if settings.spool else None,
        )

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        if self._settings.tls.insecure_skip_verify:
            self._context.logger.warning(
                "tls.insecure_skip_verify is set: whoever is on the way can read and change all"
            )
        self._warn_of_protocol()
        self._push.start(metrics, events)

    def stop(self, deadline_ns: int) -> None:
        self._push.stop(deadline_ns)

    def targets(self) -> dict[str, str]:
        """Where each signal goes, without what may be secret: for logs and `validate`."""
        return {signal: sender.target.shown for signal, sender in self._senders.items()}

    def _warn_of_protocol(self) -> None:
        """An endpoint of the environment may be meant for another protocol, as gRPC's port is."""
        own = {"metrics": self._settings.metrics_endpoint, "logs": self._settings.logs_endpoint}
        found = {
            OtlpEnvironment(self._variables, signal).foreign_protocol: None
            for signal, url in own.items()
            if not (url or self._settings.endpoint)
        }
        for variable, value in found:
            if variable:
                self._context.logger.warning(
                    "%s is %s, but otlp_http speaks http/protobuf. Set its endpoint to a port that "
                    "takes OTLP over HTTP, commonly 4318",
                    variable,
                    value,
                )

    def _timeout_s(self, signal: str) -> float:
        environment = OtlpEnvironment(self._variables, signal)
        return self._settings.timeout or environment.timeout_s or _DEFAULT_TIMEOUT_S

    def _shared(self, signal: str, *options: object) -> Hashable:
        compression = self._senders[signal].target.compression
        return "otlp", signal, compression, self._settings.entity_refs, *options

    def _sender(self, signal: str) -> HttpSender:
        settings = self._settings
        environment = OtlpEnvironment(self._variables, signal)
        url = settings.metrics_endpoint if signal == "metrics" else settings.logs_endpoint
        if url is None and settings.endpoint is not None:
            url = signal_url(settings.endpoint, signal)
        own = {name: value.get_secret_value() for name, value in settings.headers.items()}
        overridden = {name.lower() for name in own}
        target = HttpTarget(
            url=url or environment.url or signal_url(DEFAULT_ENDPOINT, signal),
            headers={
                **{k: v for k, v in environment.headers.items() if k.lower() not in overridden},
                **own,
            },
            compression=settings.compression or environment.compression or Compression.GZIP,
            tls=settings.tls.options(
                ca_file=environment.certificate,
                cert_file=environment.client_certificate,
                key_file=environment.client_key,
            ),
        )
        return HttpSender(
            target, clock=self._context.clock, user_agent=f"retina-otel/{__version__}"
        )


def _variable(variables: Mapping[str, str], name: str) -> tuple[str, str]:
    return name, variables.get(name, "").strip()


def _temporality(settings: OtlpHttpSettings, variables: Mapping[str, str]) -> Temporality:
    if settings.temporality is not None:
        return settings.temporality
    name, value = _variable(variables, "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE")
    # "lowmemory" means delta for synchronous counters only; what the kernel counts is the
    # asynchronous kind, which stays cumulative under it.
    known = {
        "": Temporality.CUMULATIVE,
        "cumulative": Temporality.CUMULATIVE,
        "lowmemory": Temporality.CUMULATIVE,
        "delta": Temporality.DELTA,
    }
    if value.lower() not in known:
        raise ConfigError(f"{name} is {value!r}", "Use cumulative, delta or lowmemory")
    return known[value.lower()]


COMPONENT = Component(
    type="otlp_http",
    kind=ComponentKind.EXPORTER,
    stability="beta",
    Settings=OtlpHttpSettings,
    create=OtlpHttpExporter,
    signals=frozenset({"metrics", "logs"}),
)
