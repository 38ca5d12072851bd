"""The public contract of a component: what a receiver, processor, exporter or extension is made of.

A component is one frozen record, `Component`, found by entry points (groups
`retina_otel.receivers`, `.processors`, `.exporters`, `.extensions`); the built-in ones come the
same way. The agent validates its settings with `Settings`, then calls `create(settings, context)`
once for each instance that a pipeline names, and drives the instance by the protocols below.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from retina_otel.delivery.sharing import Sharing
from retina_otel.model.batches import EventBatch, MetricBatch, Window
from retina_otel.model.durations import ByteSize, Duration, PositiveDuration
from retina_otel.model.interfaces import InterfaceRegistry
from retina_otel.model.namespaces import NamespaceRegistry, SocketOwners, Translations
from retina_otel.model.signals import Attribute, Event, Metric
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.identity.selection import Selection
from retina_otel.pipeline.ledger import Ledger, LedgerReport
from retina_otel.pipeline.overlay import Overlay
from retina_otel.pipeline.points import EventsReader, MetricsReader
from retina_otel.pipeline.series.attribute_costs import MetricCardinality

__all__ = [
    "AgentStatus",
    "ByteSize",
    "Clock",
    "Collected",
    "Component",
    "ComponentKind",
    "ComponentStatus",
    "Context",
    "Duration",
    "Exporter",
    "Extension",
    "Finishing",
    "Overlay",
    "PositiveDuration",
    "Processor",
    "Receiver",
    "Settings",
    "State",
    "Ticking",
]


class Settings(BaseModel):
    """Base for the settings of a component: unknown keys are refused.

    A docstring under a field is its description in the reference pages and the JSON Schema.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ComponentKind(Enum):
    RECEIVER = "receiver"
    PROCESSOR = "processor"
    EXPORTER = "exporter"
    EXTENSION = "extension"


class Clock(Protocol):
    """Time, passed in so that tests own it."""

    def wall_ns(self) -> int:
        """ns since 1970; may step."""

    def monotonic_ns(self) -> int:
        """ns of CLOCK_MONOTONIC, the kernel's own stamps; never steps."""

    def offset_ns(self) -> int:
        """Wall time of a monotonic stamp is the stamp plus this; estimated anew each tick."""


class State(Enum):
    """What a component is doing."""

    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    """It works with less than it should; the reason says what is missing."""
    FAILED = "failed"
    """It does not work; it is tried again where that makes sense."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """One component at a moment."""

    id: str
    kind: ComponentKind
    state: State
    reason: str = ""
    """Why it is degraded or failed, with the remedy; empty otherwise."""
    failures: int = 0
    """How often it raised or missed its deadline since the agent started."""


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """The agent at a moment, as `health_check` tells it."""

    ready: bool
    """Receivers are running, and the tick thread passed lately."""
    reason: str = ""
    """Why it is not ready."""
    uptime_s: float = 0.0
    components: tuple[ComponentStatus, ...] = ()
    ledgers: Mapping[str, LedgerReport] = field(default_factory=dict)
    """By component or pipeline id."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a component may use. Components meet here and in batches, never by import."""

    id: str
    """`type` or `type/name`, as the configuration writes it."""
    clock: Clock
    logger: logging.Logger
    ledger: Ledger
    identity: EndpointTable
    interfaces: InterfaceRegistry
    resource: dict[str, str | int | bool] = field(default_factory=dict)
    """Attributes of the agent and its node, on everything it sends."""
    degraded: Callable[[str], None] = lambda reason: None
    """Say that this component goes on with less, and why. An empty reason ends it. It is logged,
    but for exporters: they know best how often their backend's failures are worth a line."""
    operated: Callable[[str, float, str], None] = lambda unit, seconds, error_type: None
    """An exporter's request has ended: of "points" or "events", after so many seconds, and why it
    did not pass, "" if it did. Any thread."""
    status: Callable[[], AgentStatus] = lambda: AgentStatus(ready=False, reason="no agent")
    """The state of the whole agent, for extensions that show it. Any thread."""
    cardinality: Callable[[], Mapping[str, tuple[MetricCardinality, ...]]] = dict
    """What the attributes of each metric cost, by pipeline. Any thread; takes its time."""
    selection: Selection = field(default_factory=Selection)
    """Which pods are observed, and how much is told about ends."""
    namespaces: NamespaceRegistry | None = None
    """The node's network namespaces; None where the kernel layer is not there."""
    translations: Translations | None = None
    sockets: SocketOwners | None = None
    sharing: Sharing = field(default_factory=Sharing)
    """What the exporters of this agent do once for all of them."""
    learned: Callable[[Mapping[str, str | int | bool]], None] = lambda attributes: None
    """Adds to the agent's resource what an extension has learned (cluster uid, cloud): it takes
    effect at the next tick, as a reload does. Any thread."""
    overlay: Callable[[Overlay], None] = lambda overlay: None
    """Changes what pipelines report, on top of the configuration. Any thread."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a receiver gathered for one window."""

    metrics: Sequence[MetricBatch] = ()
    events: Sequence[EventBatch] = ()


class Receiver(Protocol):
    def start(self) -> None:
        """Opens and attaches. Raises RetinaError if it can't work: the agent goes on without."""

    def collect(self, window: Window, deadline_ns: int) -> Collected:
        """Everything since the last call, as deltas over `window`. Monotonic deadline."""

    def fds(self) -> Sequence[int]:
        """Descriptors that wake the tick thread; when one is readable `ready(fd)` is called."""

    def ready(self, fd: int) -> None: ...

    def stop(self) -> None:
        """Detaches and closes. Called once, also after a failed start."""


@runtime_checkable
class Finishing(Protocol):
    """A receiver that holds something back between its collections may implement this too."""

    def finish(self, window: Window) -> Collected:
        """What is left, after the last `collect()` and before `stop()`."""


class Processor(Protocol):
    def process_metrics(self, batch: MetricBatch) -> MetricBatch | None:
        """The batch to pass on; None drops it (the processor's ledger counts what it drops)."""

    def process_events(self, batch: EventBatch) -> EventBatch | None: ...


class Exporter(Protocol):
    """Owns its thread and its interval; takes from its readers when it is ready to send.

    How its readers of metrics are made may be told by attributes of the instance: `temporality`
    (a `pipeline.points.Temporality`, cumulative if not told), `zero_points` and `stale_markers`
    (bool, true if not told: a point of value 0 before a new series, a mark after an ended one),
    `linger_ns` (int, 0 if not told: so long are final values given again after an acknowledgement),
    `readers` (int, 1 if not told: how many it is given of each pipeline, one after the other; each
    gives all points, and is acknowledged by itself).
    Settings with a `resource_model` of `pipeline.points.ResourceModel.ENTITY` ask for the UIDs of
    pods on one-ended metrics.
    """

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        """A reader for each pipeline it stands in."""

    def stop(self, deadline_ns: int) -> None:
        """Sends what is left, as far as the monotonic deadline allows, and closes."""


class Extension(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


@runtime_checkable
class Ticking(Protocol):
    """An extension that has something to do on the tick thread may implement this too."""

    def tick(self, end_ns: int) -> None:
        """Before receivers are collected from, at the end of each window. Must not block."""


@dataclass(frozen=True, slots=True)
class Component:
    """A type of component."""

    type: str
    kind: ComponentKind
    stability: str  # "development" | "alpha" | "beta" | "stable"
    Settings: builtins.type[BaseModel]
    create: Callable[[Any, Context], Any]
    signals: frozenset[str] = frozenset({"metrics"})
    """Which pipelines it may stand in: "metrics", "logs"."""
    declares: tuple[Metric | Event | Attribute, ...] = ()
    requires: tuple[str, ...] = ()
    """Capabilities it needs, with CAP_: shown by `retina-otel components`."""
