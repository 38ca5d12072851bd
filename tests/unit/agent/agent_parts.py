"""Small real components for tests of the agent: a receiver that counts from a list, an exporter
that keeps what it was given. They record what is done to them, in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel

from retina_otel.agent.agent import Agent
from retina_otel.component import (
    Collected,
    Component,
    ComponentKind,
    ComponentStatus,
    Context,
    Settings,
)
from retina_otel.config.load import Configuration, Instance
from retina_otel.config.settings import PipelineSettings, ServiceSettings
from retina_otel.model.batches import Column, EventBatch, MetricBatch, Window
from retina_otel.model.signals import Attribute, Event, Kind, Metric
from retina_otel.pipeline.points import EventsReader, MetricsReader

PRIMES = [2, 3, 5, 7, 11, 13]
Run = Callable[..., Agent]
"""The fixture `run`."""
COLOUR = Attribute("test.colour", "string", "A colour.")
COUNTED = Metric("test.counted", Kind.COUNTER, "{thing}", "Things.", (COLOUR,), scope="test")
SEEN = Event("test.seen", 9, "Seen.", (COLOUR,), scope="test")


@dataclass
class Story:
    """What happened, in order; shared by the components of one test."""

    lines: list[str] = field(default_factory=list)
    sums: dict[str, int] = field(default_factory=dict)
    """By exporter: the newest sum over all points of COUNTED."""
    starts: dict[str, set[int]] = field(default_factory=dict)
    """By exporter: all start times seen."""
    events: dict[str, int] = field(default_factory=dict)
    own: dict[str, dict[tuple[Any, ...], float]] = field(default_factory=dict)
    """By metric of the agent itself: the newest value by attributes."""

    def tell(self, line: str) -> None:
        self.lines.append(line)


class CountSettings(Settings):
    counts: list[int] = []  # noqa: RUF012
    colour: str = ""


class Count:
    """Reports the next number."""

    def __init__(self, id_: str, settings: CountSettings, story: Story) -> None:
        self.id = id_
        self.left = list(settings.counts)
        self.colour = settings.colour
        self.story = story

    def start(self) -> None:
        self.story.tell(f"{self.id} started")

    def collect(self, window: Window, deadline_ns: int) -> Collected:
        assert window.end_ns > window.start_ns
        if not self.left:
            return Collected()
        count = self.left.pop(0)
        colour = {COLOUR.name: Column(np.zeros(1, np.int32), [self.colour])}
        return Collected(
            [MetricBatch(window, {COUNTED: np.array([count], np.int64)}, colour)],
            [EventBatch(SEEN, window, np.array([window.end_ns], np.int64), colour, body="seen")],
        )

    def fds(self) -> Sequence[int]:
        return ()

    def ready(self, fd: int) -> None:
        raise AssertionError(fd)

    def stop(self) -> None:
        self.story.tell(f"{self.id} stopped with {len(self.left)} left")


class KeepSettings(Settings):
    label: str = ""


class Keep:
    """Takes at once when it is stopped, and whenever `take` is called by the test."""

    def __init__(self, id_: str, story: Story) -> None:
        self.id = id_
        self.story = story
        self.metrics: Sequence[MetricsReader] = ()
        self.events: Sequence[EventsReader] = ()
        self.lock = threading.Lock()

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        self.metrics, self.events = metrics, events
        self.story.tell(f"{self.id} started")

    def stop(self, deadline_ns: int) -> None:
        self.take()
        self.story.tell(f"{self.id} stopped at {self.story.sums.get(self.id, 0)}")

    def take(self) -> None:
        with self.lock:
            for reader in self.metrics:
                if (export := reader.take()) is None:
                    continue
                for block in export.blocks:
                    self._keep(block)
                reader.acknowledge(export)
            for events in self.events:
                while (taken := events.take(1 << 20)) is not None:
                    self.story.events[self.id] = self.story.events.get(self.id, 0) + taken.n_events
                    events.acknowledge(taken)

    def _keep(self, block: Any) -> None:
        if block.metric == COUNTED:
            # A new series has its zero point before its first: the last of each set counts.
            newest = dict(zip(block.own.tolist(), block.values.tolist(), strict=True))
            self.story.sums[self.id] = sum(newest.values())
            self.story.starts.setdefault(self.id, set()).update(block.start_ns.tolist())
        elif not hasattr(block.values, "counts"):
            values = self.story.own.setdefault(block.metric.name, {})
            for own, value in zip(block.own.tolist(), block.values.tolist(), strict=True):
                values[tuple(v for _, v in block.sets.get(own))] = value


def component(
    kind: ComponentKind,
    create: Callable[[Any, Context], Any],
    settings: type[BaseModel] = Settings,
    type_: str = "test",
) -> Component:
    return Component(
        type_, kind, "development", settings, create, signals=frozenset({"metrics", "logs"})
    )


class Parts:
    """Components that tell one story. Two instances of one type have one Component, as in life."""

    def __init__(self) -> None:
        self.story = Story()
        self.exporters: dict[str, Keep] = {}
        """The newest of each id."""
        self._count = component(
            ComponentKind.RECEIVER, lambda s, c: Count(c.id, s, self.story), CountSettings
        )
        self._keep = component(ComponentKind.EXPORTER, self._make_keep, KeepSettings)

    def receiver(self, id_: str, counts: Iterable[int], colour: str = "") -> Instance:
        return Instance(id_, self._count, CountSettings(counts=list(counts), colour=colour or id_))

    def exporter(self, id_: str = "keep", label: str = "") -> Instance:
        return Instance(id_, self._keep, KeepSettings(label=label))

    def other(self, kind: ComponentKind, id_: str, made: Any) -> Instance:
        """An instance that is `made`, or by `made(context)`."""

        def create(settings: Settings, context: Context) -> Any:
            return made(context) if callable(made) else made

        return Instance(id_, component(kind, create), Settings())

    def _make_keep(self, settings: KeepSettings, context: Context) -> Keep:
        made = self.exporters[context.id] = Keep(context.id, self.story)
        return made


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for another thread; a wait that never ends is a failure."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.005)


def configuration(*instances: Instance, interval: float = 0.02, **service: Any) -> Configuration:
    """All receivers through all processors to all exporters, as metrics and as logs."""
    by_kind = {
        kind: {one.id: one for one in instances if one.kind is kind} for kind in ComponentKind
    }
    pipeline = PipelineSettings(
        receivers=list(by_kind[ComponentKind.RECEIVER]),
        processors=list(by_kind[ComponentKind.PROCESSOR]),
        exporters=list(by_kind[ComponentKind.EXPORTER]),
    )
    return Configuration(
        by_kind[ComponentKind.RECEIVER],
        by_kind[ComponentKind.PROCESSOR],
        by_kind[ComponentKind.EXPORTER],
        by_kind[ComponentKind.EXTENSION],
        ServiceSettings(
            extensions=list(by_kind[ComponentKind.EXTENSION]),
            interval=f"{interval * 1000:.0f}ms",
            pipelines={"metrics": pipeline, "logs": pipeline},
            **{"telemetry": {"metrics": {"interval": "1ms"}}, **service},
        ),
        source="test",
    )


def status_of(agent: Agent, id_: str) -> ComponentStatus:
    return next(one for one in agent.status().components if one.id == id_)


def ticks(agent: Agent, n: int) -> None:
    """Waits until `n` more ticks have passed."""
    for _ in range(n):
        before = agent.last_tick_ns
        until(lambda before=before: agent.last_tick_ns > before, "a tick")
