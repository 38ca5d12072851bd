"""`lines`: appends a JSON line for each point and event to a file, also when it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

from retina_otel.component import Component, ComponentKind, Context, PositiveDuration, Settings
from retina_otel.model.batches import Histogram
from retina_otel.pipeline.points import EventBlock, EventsReader, MetricsReader, PointBlock


class LinesSettings(Settings):
    """Writes JSON lines."""

    path: Path
    """The file to append to."""
    interval: PositiveDuration = 1.0
    """How often the newest values are written."""


class Lines:
    def __init__(self, settings: LinesSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lines {context.id}", daemon=True)
        self._metrics: Sequence[MetricsReader] = ()
        self._events: Sequence[EventsReader] = ()
        context.ledger.unit = "points"

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        self._metrics, self._events = metrics, events
        self._settings.path.touch()
        self._thread.start()

    def stop(self, deadline_ns: int) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join((deadline_ns - self._context.clock.monotonic_ns()) / 1e9)

    def _run(self) -> None:
        while not self._stopping.wait(self._settings.interval):
            self._write()
        self._write()

    def _write(self) -> None:
        with self._settings.path.open("a") as file:
            for reader in self._metrics:
                if (points := reader.take()) is not None:
                    for block in points.blocks:
                        file.writelines(_point_lines(block))
                    reader.acknowledge(points)
                    self._context.ledger.add(seen=points.n_points, drained=points.n_points)
            for events in self._events:
                while (taken := events.take(1 << 20)) is not None:
                    for event_block in taken.blocks:
                        file.writelines(_event_lines(event_block))
                    events.acknowledge(taken)


def _point_lines(block: PointBlock) -> list[str]:
    lines = []
    for row in range(len(block.own)):
        values = block.values
        is_histogram = isinstance(values, Histogram)
        value = values.counts[row].sum() if is_histogram else values[row]
        attributes = dict(
            block.sets.get(int(block.source[row]))
            + block.sets.get(int(block.destination[row]))
            + block.sets.get(int(block.own[row]))
        )
        point = {
            "metric": block.metric.name,
            "attributes": attributes,
            "value": None if block.no_value[row] else value.item(),
            "start": int(block.start_ns[row]),
            "time": int(block.time_ns[row]),
        }
        lines.append(json.dumps(point) + "\n")
    return lines


def _event_lines(block: EventBlock) -> list[str]:
    return [
        json.dumps(
            {
                "event": block.event.name,
                "time": int(block.time_ns[row]),
                "attributes": dict(block.sets.get(int(block.own[row]))),
            }
        )
        + "\n"
        for row in range(len(block.time_ns))
    ]


COMPONENT = Component(
    type="lines",
    kind=ComponentKind.EXPORTER,
    stability="development",
    Settings=LinesSettings,
    create=Lines,
    signals=frozenset({"metrics", "logs"}),
)
