"""The part of the settings tree that is the same whatever components are installed: `service`.

Docstrings under the fields are their descriptions in the reference pages and the JSON Schema.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from retina_otel.component import ByteSize, PositiveDuration, Settings


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class LogEncoding(StrEnum):
    CONSOLE = "console"
    JSON = "json"


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class LogsSettings(Settings):
    """The agent's own log, written to standard error."""

    level: Annotated[LogLevel, BeforeValidator(_lower)] = LogLevel.INFO
    """The least severe level that is written; in capitals too, as a Collector's."""
    encoding: LogEncoding = LogEncoding.CONSOLE
    """`console` for people, `json` for one object a line."""


class MetricsSettings(Settings):
    """The agent's own metrics: ledgers, coverage, states, CPU and memory."""

    enabled: bool = True
    """Whether the exporters of the metrics pipelines also carry them."""
    interval: PositiveDuration = 15.0
    """They are measured at most this often, whatever the exporters' own intervals are."""


class TelemetrySettings(Settings):
    """How the agent tells about itself."""

    logs: LogsSettings = LogsSettings()
    metrics: MetricsSettings = MetricsSettings()
    resource: dict[str, str | int | bool] = Field(default_factory=dict)
    """Attributes added to the resource of all that the agent sends. They win over detected ones
    and over OTEL_RESOURCE_ATTRIBUTES."""
    semconv_preview: bool = False
    """Emit what the semantic conventions' draft has a name for under that name: `network.flow.io`
    instead of `retina.flow.io`. Also set by `RETINA_OTEL_SEMCONV_PREVIEW=true`. In the
    configuration names stay what they are."""


class CardinalitySettings(Settings):
    """How many series a pipeline may have."""

    limit: Annotated[int, Field(ge=1)] = 20_000
    """Live series of one metric. When more want to be, those with most bytes (else packets) keep
    series of their own; the rest is credited to one with `otel.metric.overflow=true`, so that sums
    stay right."""
    per_namespace: Annotated[int, Field(ge=1)] | Literal["off"] | None = None
    """Series of one metric that each namespace is sure of: what it has beyond them gives way when
    other namespaces want room. Not set, a tenth of `limit`; `off`, only bytes count."""

    @property
    def share(self) -> int | None:
        """Series that each namespace is sure of, None for none."""
        if self.per_namespace == "off":
            return None
        return self.per_namespace or max(1, self.limit // 10)


class PipelineSettings(Settings):
    """Which receivers feed which exporters, through which processors."""

    receivers: list[str] = Field(min_length=1)
    """Ids of receivers."""
    processors: list[str] = Field(default_factory=list)
    """Ids of processors, in the order in which data passes them."""
    exporters: list[str] = Field(min_length=1)
    """Ids of exporters."""
    attributes: dict[str, list[str]] = Field(default_factory=dict)
    """For each metric or event name (a glob), the attributes to keep (globs over the names as they
    stand on the point; `default` stands for the default ones). What is not kept is summed away. A
    name that no glob matches keeps its default attributes."""
    cardinality: CardinalitySettings = CardinalitySettings()
    expiry: PositiveDuration = 600.0
    """A series that nothing was added to for this long ends."""
    event_buffer: ByteSize = Field(default="16MiB", validate_default=True, ge=65536)
    """Events that wait for an exporter, in bytes as they would be encoded: the oldest give way, and
    are counted. All that comes in one interval has to fit: 16MiB hold about 28,000 flow events."""


class ServiceSettings(Settings):
    """What runs."""

    extensions: list[str] = Field(default_factory=list)
    """Ids of the extensions to start."""
    interval: PositiveDuration = 5.0
    """How often receivers are collected from. Exporters have intervals of their own."""
    telemetry: TelemetrySettings = TelemetrySettings()
    pipelines: dict[str, PipelineSettings] = Field(min_length=1)
    """Pipelines by `metrics`, `logs`, or `metrics/name` and `logs/name` for further ones."""
