"""What `otlp_http` and `otlp_grpc` have in common: settings, standard variables, routes.

A setting stands above the OTEL_EXPORTER_OTLP_* variables, these above the built-in default; each
endpoint has a sender of its own for each signal.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar, Generic, TypeVar

from pydantic import Field, SecretStr, model_validator

from retina_otel import __version__
from retina_otel.component import ByteSize, Context, PositiveDuration, Settings
from retina_otel.delivery.auth.authorizer import Authorizer
from retina_otel.delivery.environment import OtlpEnvironment, milliseconds, temporality_preference
from retina_otel.delivery.failover import FailoverSender
from retina_otel.delivery.otlp_wire import LOGS, METRICS
from retina_otel.delivery.push import EventsRoute, MetricsRoute, Push, Sender
from retina_otel.delivery.settings import AuthSettings, Headers, ProxyUrl, RetrySettings
from retina_otel.delivery.spool.settings import SpoolSettings
from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.errors import ConfigError
from retina_otel.pipeline.points import EventsReader, MetricsReader, ResourceModel, Temporality

USER_AGENT = f"retina-otel/{__version__}"
_DEFAULT_INTERVAL_S = 15.0
_DEFAULT_TIMEOUT_S = 10.0
_SIGNALS = ("metrics", "logs")


class OtlpSettings(Settings):
    """Settings of an OTLP exporter. The standard OTEL_EXPORTER_OTLP_* variables count where a
    setting is not given; the variables for one signal before the general ones."""

    endpoint: str | None = None
    endpoints: Sequence[str] = Field(default_factory=list)
    metrics_endpoint: str | None = None
    logs_endpoint: str | None = None

    failback_interval: PositiveDuration = Field(default="1m", validate_default=True)
    """With `endpoints`: how often one that is not the first gives way to a try with the first."""

    headers: Headers = Field(default_factory=dict)
    """Headers of each request, as for authentication. Never logged. They are added to those of
    OTEL_EXPORTER_OTLP_HEADERS and win over them."""

    auth: AuthSettings = Field(default_factory=AuthSettings)

    proxy_url: ProxyUrl = Field(default_factory=lambda: SecretStr(""))
    """Proxy on the way, as `http://proxy:3128`; it may hold user and password, and is never logged.
    `none`: no proxy. Not set: HTTPS_PROXY or HTTP_PROXY, by the endpoint's scheme, but for what
    NO_PROXY names and for this machine."""

    timeout: PositiveDuration | None = None
    """Time for one request. Not set: OTEL_EXPORTER_OTLP_TIMEOUT (milliseconds), else 10s."""

    interval: PositiveDuration | None = None
    """Time between two exports of metrics; the first begins at a random moment of it, so that the
    nodes of a cluster do not push at once. Not set: OTEL_METRIC_EXPORT_INTERVAL (milliseconds),
    else 15s."""

    events_interval: PositiveDuration = Field(default="1s", validate_default=True)
    """Longest time that an event waits before it is sent."""

    temporality: Temporality | None = None
    """`cumulative` (an outage loses no counts), `delta` (for backends that want it; sent at least
    once), or `lowmemory` (delta for histograms only: counters that are read from a kernel stay
    cumulative). Current amounts are never deltas. Not set:
    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, else cumulative."""

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
    stays below the 4 MiB that gRPC servers take, or those that may follow an HTTP one. Halved, and
    kept, when the backend says that a request was too large."""

    retry_on_failure: RetrySettings = Field(default_factory=RetrySettings)

    spool: SpoolSettings | None = None
    """Where events wait for the backend. Not set: in memory, in the buffer of their pipeline."""

    @model_validator(mode="after")
    def _one_meaning(self) -> OtlpSettings:
        others = ("endpoint", "metrics_endpoint", "logs_endpoint")
        if self.endpoints and (given := [name for name in others if getattr(self, name)]):
            raise ValueError(f"endpoints and {given[0]} exclude each other: keep one of them")
        if any(name.lower() == "authorization" for name in self.headers) and (
            self.auth != AuthSettings()
        ):
            raise ValueError("auth and the header Authorization exclude each other: keep one")
        return self

    @property
    def all_endpoints(self) -> list[str]:
        """Those that settings name, for whatever signal."""
        own = (self.endpoint, self.metrics_endpoint, self.logs_endpoint)
        return [*filter(None, own), *self.endpoints]


S = TypeVar("S", bound=OtlpSettings)


class OtlpExporter(ABC, Generic[S]):
    """One destination, or the first of several that takes, with a connection for each signal."""

    type: ClassVar[str]
    protocol: ClassVar[str]
    """What OTEL_EXPORTER_OTLP_PROTOCOL calls it."""
    port: ClassVar[int]
    """On which backends commonly take it."""

    def __init__(
        self, settings: S, context: Context, variables: Mapping[str, str] = os.environ
    ) -> None:
        """Raises ConfigError if settings or variables make no sense, or files can't be read."""
        self.settings = settings
        self.context = context
        self._variables = variables
        # Each signal has a thread, and an authorizer is used by one.
        self._authorizers = {signal: settings.auth.authorizer() for signal in _SIGNALS}
        self.temporality = settings.temporality or temporality_preference(variables)
        """What readers of metrics must be made with."""
        name = "OTEL_METRIC_EXPORT_INTERVAL"
        self.interval_s = (
            settings.interval
            or milliseconds(name, variables.get(name, "").strip())
            or _DEFAULT_INTERVAL_S
        )
        self.senders: dict[str, Sender] = {}
        """By signal, without those that the environment sends another way."""
        self._unusable: dict[str, ConfigError] = {}
        for signal in _SIGNALS:
            try:
                self.senders[signal] = self._first_that_takes(signal)
            except ConfigError as error:
                if not self._foreign(signal):
                    raise
                self._unusable[signal] = error
        self._push = Push(
            context,
            settings.retry_on_failure.policy(),
            self._metrics_route() if "metrics" in self.senders else None,
            self._events_route() if "logs" in self.senders else None,
            spool=settings.spool.place("otlp-logs") if settings.spool else None,
        )

    @abstractmethod
    def endpoints(self, signal: str) -> list[str]:
        """Where a signal ("metrics" or "logs") goes, the first choice first."""

    @abstractmethod
    def sender(self, signal: str, endpoint: str, authorizer: Authorizer | None) -> Sender:
        """What brings a signal to one endpoint. Raises ConfigError."""

    @abstractmethod
    def compression(self, signal: str) -> Hashable:
        """What requests are packed with."""

    @abstractmethod
    def shown(self, endpoint: str) -> str:
        """An endpoint without what may be secret in it."""

    @abstractmethod
    def in_the_clear(self, signal: str, endpoint: str) -> bool:
        """Whether requests leave this machine unencrypted."""

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        """Raises ConfigError for a signal that the environment sends another way."""
        used = [signal for signal, given in (("metrics", metrics), ("logs", events)) if given]
        for signal in used:
            if signal in self._unusable:
                raise self._unusable[signal]
        self._warn_of_protocol(used)
        self._warn_of_secrets()
        self._push.start(metrics, events)

    def stop(self, deadline_ns: int) -> None:
        self._push.stop(deadline_ns)

    def targets(self) -> dict[str, str]:
        """Where each signal goes, without what may be secret: for logs and `validate`."""
        return {
            signal: ", ".join(self.shown(each) for each in self.endpoints(signal))
            for signal in self.senders
        }

    def environment(self, signal: str) -> OtlpEnvironment:
        return OtlpEnvironment(self._variables, signal)

    def headers(self, signal: str) -> dict[str, str]:
        """Those of the environment, and the settings' own over them."""
        own = {name: value.get_secret_value() for name, value in self.settings.headers.items()}
        overridden = {name.lower() for name in own}
        if self._authorizers[signal] is not None:
            overridden.add("authorization")
        general = self.environment(signal).headers
        return {**{k: v for k, v in general.items() if k.lower() not in overridden}, **own}

    def _metrics_route(self) -> MetricsRoute:
        resource, settings = self.context.resource, self.settings
        return MetricsRoute(
            encode=lambda: (
                MetricsEncoder(
                    resource,
                    resource_model=settings.resource_model,
                    entity_refs=settings.entity_refs,
                ).requests
            ),
            sender=self.senders["metrics"],
            split=METRICS.split,
            interval_s=self.interval_s,
            timeout_s=self._timeout_s("metrics"),
            max_bytes=settings.max_request_bytes,
            temporality=self.temporality,
            shared=self._shared("metrics", settings.resource_model),
        )

    def _events_route(self) -> EventsRoute:
        resource, settings = self.context.resource, self.settings
        return EventsRoute(
            encode=lambda: LogsEncoder(resource, entity_refs=settings.entity_refs).requests,
            sender=self.senders["logs"],
            split=LOGS.split,
            interval_s=settings.events_interval,
            timeout_s=self._timeout_s("logs"),
            max_bytes=settings.max_request_bytes,
            shared=self._shared("logs"),
        )

    def _foreign(self, signal: str) -> bool:
        """Whether the environment decides where a signal goes, and by another protocol."""
        settings = self.settings
        own = settings.metrics_endpoint if signal == "metrics" else settings.logs_endpoint
        if own or settings.endpoint or settings.endpoints:
            return False
        return self.environment(signal).protocol[1] not in {"", self.protocol}

    def _first_that_takes(self, signal: str) -> Sender:
        endpoints = self.endpoints(signal)
        senders = [self.sender(signal, each, self._authorizers[signal]) for each in endpoints]
        if len(senders) == 1:
            return senders[0]
        return FailoverSender(
            [(self.shown(each), one) for each, one in zip(endpoints, senders, strict=True)],
            clock=self.context.clock,
            logger=self.context.logger,
            failback_s=self.settings.failback_interval,
        )

    def _shared(self, signal: str, *options: Hashable) -> Hashable:
        return "otlp", signal, self.compression(signal), self.settings.entity_refs, *options

    def _timeout_s(self, signal: str) -> float:
        return self.settings.timeout or self.environment(signal).timeout_s or _DEFAULT_TIMEOUT_S

    def _warn_of_secrets(self) -> None:
        clear = [
            self.shown(endpoint)
            for signal in self.senders
            for endpoint in self.endpoints(signal)
            if self._authorizers[signal] is not None and self.in_the_clear(signal, endpoint)
        ]
        if clear:
            self.context.logger.warning(
                "auth goes unencrypted to %s: whoever is on the way can read it. Use https://",
                ", ".join(dict.fromkeys(clear)),
            )

    def _warn_of_protocol(self, signals: Sequence[str]) -> None:
        """An endpoint of the environment may be meant for another protocol, as gRPC's port is."""
        asked = [self.environment(signal).protocol for signal in signals if self._foreign(signal)]
        for variable, value in dict.fromkeys(asked):
            self.context.logger.warning(
                "%s is %s, but %s speaks %s. Set its endpoint to a port that takes OTLP over "
                "%s, commonly %d",
                variable,
                value,
                self.type,
                self.protocol,
                "gRPC" if self.protocol == "grpc" else "HTTP",
                self.port,
            )
