"""debug: writes what would be exported as text, laid out like the Collector's debug exporter.

For looking at data while setting up: `normal` and `detailed` write each point and event, which on
a busy node is a lot of text, built a point at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from pydantic import Field

from retina_otel.component import Component, ComponentKind, Context, PositiveDuration, Settings
from retina_otel.delivery.push import EventsRoute, MetricsRoute, Outcome, PlainSender, Push, Result
from retina_otel.encode.event_body import bodies
from retina_otel.encode.grouping import by_metric, by_scope
from retina_otel.encode.scopes import scope_identity
from retina_otel.model.batches import AttributeValue, Histogram
from retina_otel.model.signals import SCHEMA_URL, Kind
from retina_otel.pipeline.points import (
    EventBlock,
    EventsReader,
    MetricsReader,
    PointBlock,
    Temporality,
)

Attributes = Sequence[tuple[str, AttributeValue]]

_DATA_TYPE = {
    Kind.GAUGE: "Gauge",
    Kind.COUNTER: "Sum",
    Kind.UPDOWN: "Sum",
    Kind.HISTOGRAM: "Histogram",
}
_TEMPORALITY = {Temporality.CUMULATIVE: "Cumulative", Temporality.DELTA: "Delta"}
_SEVERITY = ("Unspecified", "Trace", "Debug", "Info", "Warn", "Error", "Fatal")


class Verbosity(Enum):
    BASIC = "basic"
    NORMAL = "normal"
    DETAILED = "detailed"


class DebugSettings(Settings):
    """Settings of `debug`, named as in the Collector's."""

    verbosity: Verbosity = Verbosity.BASIC
    """`basic`: a line with the counts of each export. `normal`: also a line for each point and
    event. `detailed`: all there is about them."""

    use_internal_logger: bool = True
    """Write through the agent's log, in its format. False: plain text on standard error."""

    interval: PositiveDuration = Field(default="15s", validate_default=True)
    """Time between two exports of metrics."""

    events_interval: PositiveDuration = Field(default="1s", validate_default=True)
    """Longest time that an event waits before it is written."""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text about `n_items` points or events, in the place of a request."""

    body: bytes
    n_items: int


class DebugExporter:
    """One thread that writes; nothing it writes can fail in a way that matters."""

    def __init__(self, settings: DebugSettings, context: Context) -> None:
        self._context = context
        writer = DebugText(settings.verbosity, context.resource)
        sender = PlainSender(_always(self._log if settings.use_internal_logger else self._print))
        self._push = Push(
            context,
            metrics=MetricsRoute(
                encode=lambda: lambda blocks, max_bytes: writer.metrics(blocks),
                sender=sender,
                interval_s=settings.interval,
            ),
            events=EventsRoute(
                encode=lambda: lambda blocks, max_bytes: writer.events(blocks),
                sender=sender,
                interval_s=settings.events_interval,
            ),
            at_once=True,
        )

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        self._push.start(metrics, events)

    def stop(self, deadline_ns: int) -> None:
        self._push.stop(deadline_ns)

    def _log(self, text: str) -> None:
        self._context.logger.info("%s", text)

    def _print(self, text: str) -> None:
        sys.stderr.write(text + "\n")


def _always(write: Callable[[str], None]) -> Callable[[bytes, float], Outcome]:
    def send(body: bytes, timeout_s: float) -> Outcome:
        write(body.decode())
        return Outcome(Result.ACCEPTED)

    return send


class DebugText:
    """Points and events as text: a summary first, then a piece for each block."""

    def __init__(self, verbosity: Verbosity, resource: Mapping[str, AttributeValue]) -> None:
        self._verbosity = verbosity
        self._resource = sorted(resource.items())

    def metrics(self, blocks: Sequence[PointBlock]) -> Iterator[Text]:
        grouped = list(by_metric(blocks))
        n_points = sum(len(block.source) for _, _, same in grouped for block in same)
        counts = f"resource metrics: 1, metrics: {len(grouped)}, data points: {n_points}"
        yield from self._summary(f"Metrics ({counts})", "ResourceMetrics #0", n_points)
        scope = None
        for number, (metric, temporality, same) in enumerate(grouped):
            if self._verbosity is Verbosity.BASIC:
                return
            lines = []
            if metric.scope != scope:
                scope = metric.scope
                lines += self._scope("ScopeMetrics", scope)
            if self._verbosity is Verbosity.DETAILED:
                lines += [f"Metric #{number}", "Descriptor:", f"     -> Name: {metric.name}"]
                lines.append(f"     -> Description: {metric.brief}")
                lines.append(f"     -> Unit: {metric.unit}")
                lines.append(f"     -> DataType: {_DATA_TYPE[metric.kind]}")
                if metric.kind in (Kind.COUNTER, Kind.UPDOWN):
                    lines.append(f"     -> IsMonotonic: {str(metric.monotonic).lower()}")
                if metric.kind is not Kind.GAUGE:
                    lines.append(f"     -> AggregationTemporality: {_TEMPORALITY[temporality]}")
            point = 0
            for block in same:
                for row in range(len(block.source)):
                    if self._verbosity is Verbosity.NORMAL:
                        lines.append(_short_point(block, row))
                    else:
                        lines += _long_point(block, row, point)
                    point += 1
            yield Text("\n".join(lines).encode(), 0)

    def events(self, blocks: Sequence[EventBlock]) -> Iterator[Text]:
        ordered = list(by_scope(blocks))
        n_events = sum(len(block.time_ns) for block in ordered)
        counts = f"resource logs: 1, log records: {n_events}"
        yield from self._summary(f"Logs ({counts})", "ResourceLog #0", n_events)
        scope, number = None, 0
        for block in ordered:
            if self._verbosity is Verbosity.BASIC:
                return
            lines = []
            if block.event.scope != scope:
                scope = block.event.scope
                lines += self._scope("ScopeLogs", scope)
            n = len(block.time_ns)
            for row, body in enumerate(bodies(block, 0, n) if block.body else [""] * n):
                if self._verbosity is Verbosity.NORMAL:
                    lines.append(f"{block.event.name} {body} {_pairs(_of_event(block, row))}")
                else:
                    lines += _long_event(block, row, body, number)
                number += 1
            yield Text("\n".join(lines).encode(), 0)

    def _summary(self, counts: str, head: str, n_items: int) -> Iterator[Text]:
        """All items are booked with the first piece of text."""
        lines = [counts]
        if self._verbosity is Verbosity.NORMAL:
            lines.append(f"{head} {_pairs(self._resource)}")
        elif self._verbosity is Verbosity.DETAILED:
            lines += [head, f"Resource SchemaURL: {SCHEMA_URL}", "Resource attributes:"]
            lines += _listed(self._resource)
        yield Text("\n".join(lines).encode(), n_items)

    def _scope(self, head: str, scope: str) -> list[str]:
        version, schema_url = scope_identity(scope)
        if self._verbosity is Verbosity.NORMAL:
            return [f"{head} {scope} {version}".rstrip()]
        return [
            head,
            f"{head} SchemaURL: {schema_url}",
            f"InstrumentationScope {scope} {version}".rstrip(),
        ]


def _of_point(block: PointBlock, row: int) -> Attributes:
    ids = (block.source[row], block.destination[row], block.own[row])
    return [pair for number in ids for pair in block.sets.get(int(number))]


def _of_event(block: EventBlock, row: int) -> Attributes:
    ids = (block.own[row], block.source[row], block.destination[row])
    pairs = [pair for number in ids for pair in block.sets.get(int(number))]
    return pairs + [(name, int(column[row])) for name, column in block.integers.items()]


def _short_point(block: PointBlock, row: int) -> str:
    values = block.values
    if block.no_value[row]:
        value = "ended"
    elif isinstance(values, Histogram):
        bounds = [*map(str, block.metric.boundaries), "inf"]
        buckets = zip(bounds, values.counts[row].tolist(), strict=True)
        counts = " ".join(f"le{bound}={count}" for bound, count in buckets)
        value = f"count={int(values.counts[row].sum())} sum={values.sums[row]} {counts}"
    else:
        value = str(values[row].item())
    return f"{block.metric.name}{{{_pairs(_of_point(block, row), ',')}}} {value}"


def _long_point(block: PointBlock, row: int, number: int) -> list[str]:
    values = block.values
    histogram = isinstance(values, Histogram)
    kind = "HistogramDataPoints" if histogram else "NumberDataPoints"
    lines = [f"{kind} #{number}", "Data point attributes:", *_listed(_of_point(block, row))]
    lines.append(f"StartTimestamp: {_time(int(block.start_ns[row]))}")
    lines.append(f"Timestamp: {_time(int(block.time_ns[row]))}")
    if block.no_value[row]:
        lines.append("Flags: NO_RECORDED_VALUE")
    elif isinstance(values, Histogram):
        lines.append(f"Count: {int(values.counts[row].sum())}")
        lines.append(f"Sum: {values.sums[row]:.6f}")
        lines += [
            f"ExplicitBounds #{i}: {bound:.6f}" for i, bound in enumerate(block.metric.boundaries)
        ]
        lines += [
            f"Buckets #{i}, Count: {count}" for i, count in enumerate(values.counts[row].tolist())
        ]
    else:
        lines.append(f"Value: {values[row].item()}")
    return lines


def _long_event(block: EventBlock, row: int, body: str, number: int) -> list[str]:
    severity = block.event.severity
    word = _SEVERITY[(severity + 3) // 4] if 0 <= severity <= 24 else "Unknown"
    return [
        f"LogRecord #{number}",
        f"ObservedTimestamp: {_time(block.observed_ns)}",
        f"Timestamp: {_time(int(block.time_ns[row]))}",
        f"SeverityNumber: {word}({severity})",
        f"EventName: {block.event.name}",
        f"Body: {_typed(body)}" if body else "Body: Empty()",
        "Attributes:",
        *_listed(_of_event(block, row)),
    ]


def _pairs(attributes: Attributes, separator: str = " ") -> str:
    return separator.join(f"{key}={value}" for key, value in attributes)


def _listed(attributes: Attributes) -> list[str]:
    return [f"     -> {key}: {_typed(value)}" for key, value in attributes]


def _typed(value: AttributeValue) -> str:
    if isinstance(value, bool):
        return f"Bool({str(value).lower()})"
    if isinstance(value, int):
        return f"Int({value})"
    if isinstance(value, float):
        return f"Double({value})"
    return f"Str({value})"


def _time(time_ns: int) -> str:
    """As Go writes a time.Time in UTC."""
    seconds, rest = divmod(time_ns, 10**9)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}{fraction} +0000 UTC"


COMPONENT = Component(
    type="debug",
    kind=ComponentKind.EXPORTER,
    stability="beta",
    Settings=DebugSettings,
    create=DebugExporter,
    signals=frozenset({"metrics", "logs"}),
)
