"""prometheus_remote_write: pushes metrics to Prometheus, or what else takes its remote write.

Series are those that a Collector's exporter of this name makes of the same data. An export counts
as delivered only when each of its requests was accepted or refused for good.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

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
from retina_otel.delivery.http.remote_write import (
    RESERVED_HEADERS,
    Protocol,
    RemoteWriteSender,
    Wire,
)
from retina_otel.delivery.http.sender import HttpTarget, fault_of_url
from retina_otel.delivery.push import Encoded, MetricsRoute, Push
from retina_otel.delivery.settings import (
    AuthSettings,
    Headers,
    ProxyUrl,
    RetrySettings,
    TlsSettings,
    check_tls_is_used,
)
from retina_otel.delivery.shards import ShardReader
from retina_otel.encode.prometheus.names import DEFAULT_STRATEGY, TranslationStrategy
from retina_otel.encode.remote_write import version_1, version_2
from retina_otel.encode.remote_write.labels import label_of_setting
from retina_otel.encode.remote_write.requests import RemoteWriteEncoder
from retina_otel.encode.remote_write.series import PROMOTED, SeriesOptions
from retina_otel.encode.remote_write.wire import (
    as_version_1,
    count_samples,
    is_version_2,
    split,
    without_zero_points,
)
from retina_otel.pipeline.points import EventsReader, MetricsReader, PointBlock

_ENCODERS = {Protocol.V1: version_1.encoder, Protocol.V2: version_2.encoder}


def _each_a_label(labels: dict[str, str]) -> dict[str, str]:
    seen: dict[str, str] = {}
    for name, value in labels.items():
        label = label_of_setting(name)
        if not label or label.startswith("__") or not value:
            raise ValueError(
                f"{name!r} with the value {value!r} can be no label: a name does not begin with "
                "__, and neither is empty"
            )
        if label in seen:
            raise ValueError(f"{seen[label]!r} and {name!r}: both are the label {label}")
        seen[label] = name
    return labels


def _not_reserved(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name in headers:
        if name.lower() in RESERVED_HEADERS:
            raise ValueError(f"the header {name} is remote write's own")
    return headers


def _write_url(url: str) -> str:
    fault = fault_of_url(url) or ("" if urlsplit(url).path else "has no path")
    if fault:
        raise ValueError(f"it {fault}: write http://host:9090/api/v1/write")
    return url


class PrometheusRemoteWriteSettings(Settings):
    """Settings of `prometheus_remote_write`."""

    endpoint: Annotated[str, AfterValidator(_write_url)] = "http://localhost:9090/api/v1/write"
    """Full URL, as `https://mimir/api/v1/push`. Prometheus takes remote write at `/api/v1/write`
    when it runs with `--web.enable-remote-write-receiver`."""

    protocol: Protocol = Protocol.V1
    """`1.0`, which every backend takes, or `2.0`: an eighth of the bytes before compression, and it
    says since when counters count. Its specification is still called experimental. A backend that
    shows that it does not know 2.0 is given 1.0, at the cost of writing each request twice."""

    interval: PositiveDuration = Field(default="15s", validate_default=True)
    """Time between two exports; the first begins at a random moment of it, so that the nodes of a
    cluster do not push at once."""

    timeout: PositiveDuration = Field(default="10s", validate_default=True)
    """Time for one request."""

    external_labels: Annotated[dict[str, str], AfterValidator(_each_a_label)] = Field(
        default_factory=dict
    )
    """Labels of every series, as `{region: eu}`. What a series has by itself wins over them."""

    resource_labels: list[str] = Field(default_factory=lambda: list(PROMOTED))
    """Attributes of the agent's resource that are labels of every series. All others are on
    `target_info`, which a query can join by `job` and `instance`."""

    target_info: bool = True
    """Tell the resource's attributes by the series `target_info`."""

    translation_strategy: TranslationStrategy = DEFAULT_STRATEGY
    """What becomes of names: `UnderscoreEscapingWithSuffixes`,
    `UnderscoreEscapingWithoutSuffixes`, and with protocol 2.0 `NoUTF8EscapingWithSuffixes` and
    `NoTranslation`."""

    native_histograms: bool = False
    """Send a histogram as one series, a native histogram with custom buckets, as Prometheus stores
    what comes by OTLP with `convert_histograms_to_nhcb`; not as one series for each bucket. Needs
    protocol 2.0 and a backend that takes them, as Prometheus does from 3.8 on. A backend that knows
    1.0 only is given series of buckets."""

    max_request_bytes: ByteSize = Field(default="2MiB", validate_default=True, ge=4096)
    """Largest request before compression (snappy: to about an eighth); an export is cut into as
    many as it needs. Halved, and kept, when the backend answers 413."""

    shards: int = Field(default=1, ge=1, le=32)
    """Connections that are used at a time. A series always goes over the same one, so its samples
    stay in order. More than one helps only where the backend takes longer than `interval` to answer
    all requests of an export one after the other."""

    headers: Annotated[Headers, AfterValidator(_not_reserved)] = Field(default_factory=dict)
    """Headers of each request, as `X-Scope-OrgID` for a tenant. Never logged."""

    auth: AuthSettings = Field(default_factory=AuthSettings)

    proxy_url: ProxyUrl = Field(default_factory=lambda: SecretStr(""))
    """Proxy on the way, as `http://proxy:3128`; it may hold user and password, and is never logged.
    `none`: no proxy. Not set: HTTPS_PROXY or HTTP_PROXY, by the endpoint's scheme, but for what
    NO_PROXY names and for this machine."""

    tls: TlsSettings = Field(default_factory=TlsSettings)

    retry_on_failure: RetrySettings = Field(default_factory=RetrySettings)

    @model_validator(mode="after")
    def _one_meaning(self) -> PrometheusRemoteWriteSettings:
        if self.protocol is Protocol.V1 and not self.translation_strategy.escapes:
            raise ValueError(
                f"{self.translation_strategy.value} needs protocol 2.0: 1.0 has no names in UTF-8"
            )
        if self.protocol is Protocol.V1 and self.native_histograms:
            raise ValueError(
                "native_histograms needs protocol 2.0: 1.0 has no custom buckets; set protocol to "
                "'2.0', or leave native_histograms out"
            )
        if any(name.lower() == "authorization" for name in self.headers) and (
            self.auth != AuthSettings()
        ):
            raise ValueError("auth and the header Authorization exclude each other: keep one")
        check_tls_is_used(self.tls, [self.endpoint] if "endpoint" in self.model_fields_set else [])
        return self


class PrometheusRemoteWriteExporter:
    """One destination: a thread, a connection and an encoder for each shard."""

    def __init__(self, settings: PrometheusRemoteWriteSettings, context: Context) -> None:
        """Raises ConfigError if files can't be read or the endpoint can't be used."""
        self._settings = settings
        self._context = context
        self._conflicts: set[str] = set()
        self.readers = settings.shards
        """Readers of each pipeline that it must be given."""
        failing = _Failing(context.degraded, settings.shards)
        self._pushes = [
            Push(
                dataclasses.replace(context, degraded=failing.shard(number)),
                settings.retry_on_failure.policy(),
                self._route(number),
            )
            for number in range(settings.shards)
        ]

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        if self._settings.tls.insecure_skip_verify:
            self._context.logger.warning(
                "tls.insecure_skip_verify is set: whoever is on the way can read and change all"
            )
        n = self.readers
        for number, push in enumerate(self._pushes):
            own = metrics[number::n]
            push.start(own if n == 1 else [ShardReader(each, number, n) for each in own], events)

    def stop(self, deadline_ns: int) -> None:
        stopping = [
            threading.Thread(target=push.stop, args=(deadline_ns,)) for push in self._pushes[1:]
        ]
        for thread in stopping:
            thread.start()
        self._pushes[0].stop(deadline_ns)
        for thread in stopping:
            thread.join()

    def targets(self) -> dict[str, str]:
        """Where metrics go, without what may be secret: for logs and `validate`."""
        return {"metrics": self._target().shown}

    def _route(self, shard: int) -> MetricsRoute:
        settings = self._settings
        options = SeriesOptions(
            self._context.resource,
            promoted=tuple(settings.resource_labels),
            external_labels={
                label_of_setting(name): value for name, value in settings.external_labels.items()
            },
            strategy=settings.translation_strategy,
            target_info=settings.target_info and shard == 0,
            native_histograms=settings.native_histograms,
        )
        key = (
            "remote_write",
            settings.protocol,
            options.promoted,
            tuple(sorted(options.external_labels.items())),
            options.strategy,
            options.target_info,
            options.native_histograms,
        )
        escapes = settings.translation_strategy.escapes
        return MetricsRoute(
            encode=lambda: self._saying_conflicts(_ENCODERS[settings.protocol](options)),
            sender=RemoteWriteSender(
                self._target(),
                settings.protocol,
                Wire(
                    count_samples,
                    is_version_2,
                    as_version_1 if escapes else None,
                    without_zero_points,
                ),
                clock=self._context.clock,
                user_agent=f"retina-otel/{__version__}",
                authorizer=settings.auth.authorizer(),
            ),
            split=split,
            interval_s=settings.interval,
            timeout_s=settings.timeout,
            max_bytes=settings.max_request_bytes,
            # One encoder for all lanes, so that `target_info` does not go back in time either.
            shared=key,
        )

    def _target(self) -> HttpTarget:
        settings = self._settings
        return HttpTarget(
            url=settings.endpoint,
            headers={name: value.get_secret_value() for name, value in settings.headers.items()},
            compression=Compression.SNAPPY,
            tls=settings.tls.options(),
            proxy_url=settings.proxy_url.get_secret_value(),
        )

    def _saying_conflicts(
        self, encoder: RemoteWriteEncoder
    ) -> Callable[[Sequence[PointBlock], int], Iterator[Encoded]]:
        """An encoder's requests; metrics that it leaves out are logged once each."""

        def requests(blocks: Sequence[PointBlock], max_bytes: int) -> Iterator[Encoded]:
            yield from encoder.requests(blocks, max_bytes)
            for metric, why in encoder.conflicts.items():
                if metric not in self._conflicts:
                    self._conflicts.add(metric)
                    self._context.logger.warning("%s is not sent: %s", metric, why)

        return requests


class _Failing:
    """The exporter's state out of those of its shards, each of which has a thread."""

    def __init__(self, tell: Callable[[str], None], n: int) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._reasons = [""] * n

    def shard(self, number: int) -> Callable[[str], None]:
        def degraded(reason: str) -> None:
            with self._lock:
                # Told under the lock: what is told last is how it is.
                self._reasons[number] = reason
                self._tell(next(filter(None, self._reasons), ""))

        return degraded


COMPONENT = Component(
    type="prometheus_remote_write",
    kind=ComponentKind.EXPORTER,
    stability="beta",
    Settings=PrometheusRemoteWriteSettings,
    create=PrometheusRemoteWriteExporter,
    signals=frozenset({"metrics"}),
)
