"""azure_monitor: sends metrics and events to Application Insights, through Azure's own package.

Envelopes, client and authentication are those of azure-monitor-opentelemetry-exporter; delivery,
retries and the books are ours. Metrics are deltas, events custom events; both have all attributes
as properties. The package is an extra, imported when an exporter is made.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, SecretStr

from retina_otel.component import (
    ByteSize,
    Component,
    ComponentKind,
    Context,
    PositiveDuration,
    Settings,
)
from retina_otel.delivery.auth.azure_identity import AzureAdSettings
from retina_otel.delivery.push import EventsRoute, MetricsRoute, Push
from retina_otel.delivery.settings import ProxyUrl, RetrySettings, TlsSettings
from retina_otel.delivery.spool.settings import SpoolSettings
from retina_otel.errors import ConfigError
from retina_otel.exporters.azure_monitor.connection_string import VARIABLE, ConnectionString, parse
from retina_otel.exporters.azure_monitor.envelopes import (
    EventEnvelopes,
    MetricEnvelopes,
    Properties,
    split,
)
from retina_otel.pipeline.points import EventsReader, MetricsReader, Temporality


class AzureAuthSettings(Settings):
    """How the agent proves who it is, where the resource wants more than the connection string."""

    azure_ad: AzureAdSettings | None = None
    """By a token of Microsoft Entra ID. Its identity needs the role Monitoring Metrics Publisher
    on the resource."""


def _complete(text: SecretStr) -> SecretStr:
    try:
        parse(text.get_secret_value(), "it")
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return text


class AzureMonitorSettings(Settings):
    """Settings of `azure_monitor`."""

    model_config = ConfigDict(hide_input_in_errors=True)

    connection_string: Annotated[SecretStr, AfterValidator(_complete)] | None = None
    """The resource's connection string, with instrumentation key and ingestion endpoint. Never
    logged. Not set: APPLICATIONINSIGHTS_CONNECTION_STRING."""

    auth: AzureAuthSettings = Field(default_factory=AzureAuthSettings)

    interval: PositiveDuration = Field(default="60s", validate_default=True)
    """Time between two exports of metrics. Each point is stored and paid for as one item: a short
    interval is for few series."""

    events_interval: PositiveDuration = Field(default="5s", validate_default=True)
    """Longest time that an event waits before it is sent."""

    timeout: PositiveDuration = Field(default="10s", validate_default=True)
    """Time for one request."""

    max_request_items: int = Field(default=500, ge=1, le=10_000)
    """Most points or events in one request."""

    max_request_bytes: ByteSize = Field(default="1MiB", validate_default=True, ge=4096)
    """Largest request before compression. Halved, and kept, when Azure answers 413."""

    retry_on_failure: RetrySettings = Field(default_factory=RetrySettings)

    spool: SpoolSettings | None = None
    """Where events wait for Azure, with the instrumentation key in each. Not set: in memory, in the
    buffer of their pipeline."""

    proxy_url: ProxyUrl = Field(default_factory=lambda: SecretStr(""))
    """Proxy on the way, as `http://proxy:3128`; it may hold user and password, and is never logged.
    `none`: no proxy. Not set: HTTPS_PROXY or HTTP_PROXY, by the endpoint's scheme, but for what
    NO_PROXY names and for this machine. Tokens of Entra go by these variables alone."""

    tls: TlsSettings = Field(default_factory=TlsSettings)


class AzureMonitorExporter:
    """One resource of Application Insights, a connection for each signal."""

    temporality = Temporality.DELTA
    """Application Insights adds up what it is sent."""
    zero_points = False
    stale_markers = False

    def __init__(
        self,
        settings: AzureMonitorSettings,
        context: Context,
        variables: Mapping[str, str] = os.environ,
    ) -> None:
        """Raises ConfigError if the package is not installed, or settings can't be used."""
        self._context = context
        target = _target(settings, variables, f"exporters.{context.id}.connection_string")
        try:
            from retina_otel.exporters.azure_monitor.ingestion import IngestionSender
            from retina_otel.exporters.azure_monitor.templates import Templates
        except ImportError as error:
            raise ConfigError(
                f"azure_monitor needs azure-monitor-opentelemetry-exporter: {error}",
                "Install retina-otel[azure]",
            ) from error
        azure_ad = settings.auth.azure_ad
        if azure_ad is not None and azure_ad.audience:
            target = replace(target, audience=azure_ad.audience)

        def sender() -> IngestionSender:
            return IngestionSender(
                target,
                clock=context.clock,
                tls=settings.tls.options(),
                proxy_url=settings.proxy_url.get_secret_value(),
                credential=azure_ad.credential() if azure_ad else None,
            )

        templates = Templates(target, context.resource)
        properties = Properties(context.resource, self._cut)
        most = settings.max_request_items
        self._insecure = settings.tls.insecure_skip_verify
        self._push = Push(
            context,
            settings.retry_on_failure.policy(),
            MetricsRoute(
                encode=lambda: MetricEnvelopes(templates.metric, properties, most).requests,
                sender=sender(),
                split=split,
                interval_s=settings.interval,
                timeout_s=settings.timeout,
                max_bytes=settings.max_request_bytes,
                temporality=self.temporality,
            ),
            EventsRoute(
                encode=lambda: EventEnvelopes(templates.event, properties, most).requests,
                sender=sender(),
                split=split,
                interval_s=settings.events_interval,
                timeout_s=settings.timeout,
                max_bytes=settings.max_request_bytes,
            ),
            # Requests name their resource: those of another one are not for this one's endpoint.
            spool=settings.spool.place(f"azure-{target.digest}") if settings.spool else None,
        )

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        if self._insecure:
            self._context.logger.warning(
                "tls.insecure_skip_verify is set: whoever is on the way can read and change all"
            )
        self._push.start(metrics, events)

    def stop(self, deadline_ns: int) -> None:
        self._push.stop(deadline_ns)

    def _cut(self, what: str, total: int) -> None:
        """An attribute was longer than Azure takes: `what` is "keys" or "values"."""
        self._context.ledger.set_beside(f"{what}_cut", total)


def _target(
    settings: AzureMonitorSettings, variables: Mapping[str, str], path: str
) -> ConnectionString:
    if settings.connection_string is not None:
        return parse(settings.connection_string.get_secret_value(), path)
    text = variables.get(VARIABLE, "").strip()
    if not text:
        raise ConfigError(
            "there is none",
            f"Set it, or {VARIABLE}, to that of an Application Insights resource",
            path=path,
        )
    return parse(text, VARIABLE)


COMPONENT = Component(
    type="azure_monitor",
    kind=ComponentKind.EXPORTER,
    stability="alpha",
    Settings=AzureMonitorSettings,
    create=AzureMonitorExporter,
    signals=frozenset({"metrics", "logs"}),
)
